//! Times both halves of a FLUX.2 VAE on a square picture of noise.
//!
//!     cargo run --release -p models --example flux2_vae FOLDER SIDE RUNS
//!
//! `FOLDER/vae` is an AutoencoderKLFlux2, `SIDE` is in pixels. Prints the medians over `RUNS`, after some to warm
//! up, in milliseconds as JSON: `encode_ms` and `decode_ms`. On the CPU, in f32.

use std::error::Error;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use models::flux2::{Vae, VaeConfig, VaeEncoder};
use models::{Checkpoint, Precision, randn};

// As a server should, see kernels' example.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A processor that was idle takes so long to reach its speed.
const WARM_UP: Duration = Duration::from_millis(300);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    kernels::threads_from_env();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, side, runs] = &arguments[..] else {
        return Err("give a folder, the side of a picture and the number of runs".into());
    };
    let (side, runs) = (side.parse::<usize>()?, runs.parse::<usize>()?);
    let checkpoint = Checkpoint::Dir(folder.into());
    let config = VaeConfig::load(&checkpoint)?;
    let weights = checkpoint.weights("vae", Precision::new(DType::F32, Device::Cpu))?;
    let scope = weights.scope("", &|_, _| ());
    let (encoder, vae) = (VaeEncoder::load(&config, &scope)?, Vae::load(&config, &scope)?);
    let pixels = Tensor::from_vec(randn(1, side * side * 3), (side, side, 3), &Device::Cpu)?.clamp(-1f32, 1f32)?;
    let (rows, channels) = (side / 8, config.latent_channels);
    let latents = Tensor::from_vec(randn(2, rows * rows * channels), (rows, rows, channels), &Device::Cpu)?;
    let (encode_ms, decode_ms) = kernels::in_pool(&Device::Cpu, || -> candle_core::Result<_> {
        Ok((median(runs, || encoder.encode(&pixels))?, median(runs, || vae.decode(&latents))?))
    })?;
    println!("{}", serde_json::json!({ "encode_ms": encode_ms, "decode_ms": decode_ms }));
    Ok(())
}

/// The median time of a run in milliseconds, after some to warm up.
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
