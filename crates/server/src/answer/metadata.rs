//! How a picture was made, as text for its file, in the words that AUTOMATIC1111's web UI writes and tools read.

use std::fmt::Write;

use diffusion::ImageRequest;

/// The text of each picture, which a model called `model` makes.
pub(crate) fn of(requests: &[ImageRequest], model: &str) -> Vec<String> {
    requests.iter().map(|request| parameters(request, model)).collect()
}

fn parameters(request: &ImageRequest, model: &str) -> String {
    let ImageRequest { prompt, negative_prompt, params, .. } = request;
    let mut text = format!("{prompt}\n");
    if let Some(negative_prompt) = negative_prompt {
        text += &format!("Negative prompt: {negative_prompt}\n");
    }
    let (steps, scale, seed, size) = (params.num_inference_steps, params.true_cfg_scale, params.seed, params.size);
    let written = write!(
        text,
        "Steps: {steps}, Sampler: Euler, CFG scale: {scale}, Seed: {seed}, Size: {size}, Model: {model}, \
         Version: latentd {}",
        env!("CARGO_PKG_VERSION")
    );
    written.expect("a string takes everything. This is a bug.");
    text
}
