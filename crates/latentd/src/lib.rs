//! One binary that serves image-generation diffusion transformers over the OpenAI Images API
