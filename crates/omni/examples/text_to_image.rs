//! Text to image from Rust: `cargo run --release -p omni --example text_to_image -- "a fox on a green background"`

use omni::{Omni, OmniDiffusionSamplingParams};

fn main() -> Result<(), omni::Error> {
    kernels::threads_from_env();
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a cup of coffee on a brown background".into());
    // Without `.model("Qwen/Qwen-Image")` this is the built-in model.
    let mut omni = Omni::builder().build()?;
    let images = omni.generate(
        &prompt,
        OmniDiffusionSamplingParams { num_inference_steps: Some(20), seed: Some(7), ..Default::default() },
    )?;
    images[0].save("text_to_image.png")?;
    println!("text_to_image.png, seed {}", images[0].seed);
    Ok(())
}
