//! Generation parameters as text in the file, in the format that AUTOMATIC1111's web UI writes and tools read.

use std::fmt::Write;

use diffusion::{Guidance, ImageRequest};

/// Returns the text of each picture; `model` is the model's name.
pub(crate) fn of(requests: &[ImageRequest], model: &str) -> Vec<String> {
    requests.iter().map(|request| parameters(request, model)).collect()
}

fn parameters(request: &ImageRequest, model: &str) -> String {
    let ImageRequest { prompt, negative_prompt, params, .. } = request;
    // NUL is not allowed in a PNG's text: some readers end the text there.
    let printed = |prompt: &str| prompt.replace('\0', "");
    let mut text = format!("{}\n", printed(prompt));
    if let Some(negative_prompt) = negative_prompt {
        text += &format!("Negative prompt: {}\n", printed(negative_prompt));
    }
    let (steps, sampler, seed) = (params.num_inference_steps, params.sampler.title(), params.seed);
    // As that program describes pictures that are made small and enlarged.
    let size = match request.fit {
        None => params.size.to_string(),
        Some(fit) => format!("{}, Hires resize: {}, Hires upscaler: Lanczos", fit.made, fit.asked),
    };
    // That program writes 1 for no guidance. Embedded guidance has the name that its forks use.
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
