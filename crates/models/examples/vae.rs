//! Times a VAE's encoder and decoder on a square picture of noise.
//!
//!     cargo run --release -p models --example vae FOLDER SIDE RUNS [f32|bf16]
//!
//! `FOLDER/vae` is an AutoencoderKLFlux2 or an AutoencoderKLQwenImage; `SIDE` is in pixels. Prints the medians over
//! `RUNS` runs, after a warm-up, in milliseconds as JSON: `encode_ms` and `decode_ms`. Runs on the CPU; the weights are
//! stored in f32 by default.

use std::error::Error;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use models::{Checkpoint, Precision, flux2, qwen_image, randn};
use serde::Deserialize;

// Unlike glibc's allocator, it keeps large blocks; see kernels' example.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time that an idle processor needs to reach its full clock.
const WARM_UP: Duration = Duration::from_millis(300);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// Maps pixels `[side, side, 3]` to latents, or latents `[side / 8, side / 8, channels]` to pixels.
type Half = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync>;

/// A VAE's encoder and decoder, of either class.
struct Vae {
    encode: Half,
    decode: Half,
    latent_channels: usize,
}

fn main() -> Result<()> {
    kernels::threads_from_env();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([folder, side, runs] | [folder, side, runs, _]) = &arguments[..] else {
        return Err("give a folder, the side of a picture and the number of runs".into());
    };
    let (side, runs) = (side.parse::<usize>()?, runs.parse::<usize>()?);
    let dtype = arguments.get(3).map_or(Ok(DType::F32), |name| name.parse())?;
    let vae = load(&Checkpoint::Dir(folder.into()), dtype)?;
    let pixels = Tensor::from_vec(randn(1, side * side * 3), (side, side, 3), &Device::Cpu)?.clamp(-1f32, 1f32)?;
    let (rows, channels) = (side / 8, vae.latent_channels);
    let latents = Tensor::from_vec(randn(2, rows * rows * channels), (rows, rows, channels), &Device::Cpu)?;
    let (encode_ms, decode_ms) = kernels::in_pool(&Device::Cpu, || -> candle_core::Result<_> {
        Ok((median(runs, || (vae.encode)(&pixels))?, median(runs, || (vae.decode)(&latents))?))
    })?;
    println!("{}", serde_json::json!({ "encode_ms": encode_ms, "decode_ms": decode_ms }));
    Ok(())
}

fn load(checkpoint: &Checkpoint, dtype: DType) -> Result<Vae> {
    let class: Class = checkpoint.json("vae/config.json")?;
    let weights = checkpoint.weights("vae", Precision::new(dtype, Device::Cpu))?;
    let scope = weights.scope("", &|_, _| ());
    match class.class_name.as_str() {
        "AutoencoderKLQwenImage" => {
            let config = qwen_image::VaeConfig::load(checkpoint)?;
            let encoder = qwen_image::VaeEncoder::load(&config, &scope)?;
            let vae = qwen_image::Vae::load(&config, &scope)?;
            Ok(Vae {
                encode: Box::new(move |pixels| encoder.encode(pixels)),
                decode: Box::new(move |latents| vae.decode(latents)),
                latent_channels: config.z_dim,
            })
        }
        "AutoencoderKLFlux2" => {
            let config = flux2::VaeConfig::load(checkpoint)?;
            let (encoder, vae) = (flux2::VaeEncoder::load(&config, &scope)?, flux2::Vae::load(&config, &scope)?);
            Ok(Vae {
                encode: Box::new(move |pixels| encoder.encode(pixels)),
                decode: Box::new(move |latents| vae.decode(latents)),
                latent_channels: config.latent_channels,
            })
        }
        other => Err(format!("`{other}` is not a supported VAE").into()),
    }
}

/// Returns the median time of a run in milliseconds, after a warm-up.
fn median(runs: usize, run: impl Fn() -> candle_core::Result<Tensor>) -> candle_core::Result<f64> {
    let start = Instant::now();
    run()?;
    while start.elapsed() < WARM_UP {
        run()?;
    }
    let mut times = Vec::new();
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        std::hint::black_box(run()?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
