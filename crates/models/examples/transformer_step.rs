//! Times one forward pass of a checkpoint's diffusion transformer, whole and block by block, without a cache.
//!
//!     cargo run --release -p models --example transformer_step FOLDER ROWS COLUMNS TEXT_TOKENS PICTURES [f32|bf16]
//!
//! PICTURES is the number of reference pictures of an edit, each of the same rows and columns; text to image has 0.
//! `FOLDER/transformer` is a QwenImageTransformer2DModel or a Flux2Transformer2DModel. Prints medians in milliseconds
//! as JSON: `step_ms`, and the time of a block under the name of its list. Runs on the CPU; the weights are stored in
//! f32 by default.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use models::{Checkpoint, Dit, DitRow, Precision, ReferenceLatents, block_times, flux2, qwen_image, randn};
use serde::Deserialize;

// Unlike glibc's allocator, it keeps large blocks; see kernels' example.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    class_name: String,
    in_channels: usize,
    joint_attention_dim: usize,
}

/// Tokens of a pass: of the picture, row by row, and of the prompt.
struct Size {
    token_grid: (usize, usize),
    text_len: usize,
    pictures: usize,
}

fn main() -> Result<()> {
    kernels::threads_from_env();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([folder, rows, columns, text_len, pictures] | [folder, rows, columns, text_len, pictures, _]) = &arguments[..]
    else {
        return Err(
            "give a folder, rows and columns of image tokens, and the numbers of text tokens and pictures".into()
        );
    };
    let dtype = arguments.get(5).map_or(Ok(DType::F32), |name| name.parse())?;
    let token_grid = (rows.parse()?, columns.parse()?);
    let size = Size { token_grid, text_len: text_len.parse()?, pictures: pictures.parse()? };
    let checkpoint = Checkpoint::Dir(folder.into());
    let class: Class = checkpoint.json("transformer/config.json")?;
    let times = kernels::in_pool(&Device::Cpu, || class_times(&checkpoint, &class, &size, dtype))?;
    println!("{}", serde_json::to_string(&times)?);
    Ok(())
}

fn class_times(checkpoint: &Checkpoint, class: &Class, size: &Size, dtype: DType) -> Result<BTreeMap<String, f64>> {
    let weights = checkpoint.weights("transformer", Precision::new(dtype, Device::Cpu))?;
    let scope = weights.scope("", &|_, _| ());
    match class.class_name.as_str() {
        "QwenImageTransformer2DModel" => {
            let config = qwen_image::TransformerConfig::load(checkpoint)?;
            times(&qwen_image::Transformer::load(&config, &scope)?, class, size)
        }
        "Flux2Transformer2DModel" => {
            let config = flux2::TransformerConfig::load(checkpoint)?;
            times(&flux2::Transformer::load(&config, &scope)?, class, size)
        }
        other => Err(format!("`{other}` is not a supported transformer").into()),
    }
}

fn times<D: Dit>(dit: &D, class: &Class, size: &Size) -> Result<BTreeMap<String, f64>> {
    let random = |seed, rows: usize, columns: usize| {
        Tensor::from_vec(randn(seed, rows * columns), (rows, columns), &Device::Cpu)
    };
    let latents = random(0, size.token_grid.0 * size.token_grid.1, class.in_channels)?;
    let reference = ReferenceLatents { latents: latents.clone(), token_grid: size.token_grid };
    let references = vec![reference; size.pictures];
    let prompt_embeds = random(1, size.text_len, class.joint_attention_dim)?;
    let row = DitRow {
        latents: &latents,
        token_grid: size.token_grid,
        references: &references,
        prompt_embeds: &prompt_embeds,
        sigma: 0.5,
        guidance: None,
    };
    Ok(block_times(dit, &row, Duration::from_millis(1500))?)
}
