//! Text encoders, diffusion transformers, VAEs, weights, and the cached denoising step
