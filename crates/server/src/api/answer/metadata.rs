//! How a picture was made, as text for its file, in the words that AUTOMATIC1111's web UI writes and tools read.

use std::fmt::Write;

use diffusion::{Guidance, ImageRequest};

/// The text of each picture, which a model called `model` makes.
pub(crate) fn of(requests: &[ImageRequest], model: &str) -> Vec<String> {
    requests.iter().map(|request| parameters(request, model)).collect()
}

fn parameters(request: &ImageRequest, model: &str) -> String {
    let ImageRequest { prompt, negative_prompt, params, .. } = request;
    // In a PNG's text NUL is not allowed: it ends the text for some readers.
    let printed = |prompt: &str| prompt.replace('\0', "");
    let mut text = format!("{}\n", printed(prompt));
    if let Some(negative_prompt) = negative_prompt {
        text += &format!("Negative prompt: {}\n", printed(negative_prompt));
    }
    let (steps, sampler, seed) = (params.num_inference_steps, params.sampler.title(), params.seed);
    // As that program tells of pictures that it makes small and enlarges.
    let size = match request.fit {
        None => params.size.to_string(),
        Some(fit) => format!("{}, Hires resize: {}, Hires upscaler: Lanczos", fit.made, fit.asked),
    };
    // 1 is no guidance to that program; what is embedded has the name that its forks gave it.
    let scale = match params.guidance {
        Guidance::None => "CFG scale: 1".into(),
        Guidance::TrueCfg { scale } | Guidance::Cfg { scale } => format!("CFG scale: {scale}"),
        Guidance::Embedded { scale } => format!("CFG scale: 1, Distilled CFG Scale: {scale}"),
    };
    let written = write!(
        text,
        "Steps: {steps}, Sampler: {sampler}, {scale}, Seed: {seed}, Size: {size}, Model: {model}, \
         Version: latentd {}",
        env!("CARGO_PKG_VERSION")
    );
    written.expect("a string takes everything. This is a bug.");
    text
}
