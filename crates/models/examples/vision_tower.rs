//! Times the vision tower of Qwen2.5-VL on one picture.
//!
//!     cargo run --release -p models --example vision_tower FOLDER ROWS COLUMNS
//!
//! `FOLDER/text_encoder` holds the tower; ROWS and COLUMNS are the picture's patches. Prints the median in milliseconds
//! as JSON. Runs on the CPU, in f32.

use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use models::qwen2_5_vl::{VisionConfig, VisionTower};
use models::{Checkpoint, Precision, randn};

// Unlike glibc's allocator, it keeps large blocks; see kernels' example.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Numbers per patch: three channels, two copies in time, 14 by 14 pixels.
const PATCH: usize = 3 * 2 * 14 * 14;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    kernels::threads_from_env();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, rows, columns] = &arguments[..] else {
        return Err("give a folder, and rows and columns of patches".into());
    };
    let (rows, columns) = (rows.parse::<usize>()?, columns.parse::<usize>()?);
    let checkpoint = Checkpoint::Dir(folder.into());
    let config = VisionConfig::load(&checkpoint, "text_encoder")?;
    let weights = checkpoint.weights("text_encoder", Precision::new(DType::F32, Device::Cpu))?;
    let tower = VisionTower::load(&config, &weights.scope("", &|_, _| ()))?;
    let pixels = Tensor::from_vec(randn(0, rows * columns * PATCH), (rows * columns, PATCH), &Device::Cpu)?;
    let pass = || kernels::in_pool(&Device::Cpu, || tower.forward(&pixels, &[(rows, columns)]));
    pass()?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || (begun.elapsed().as_secs_f64() < 1.5 && times.len() < 1000) {
        let start = Instant::now();
        std::hint::black_box(pass()?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{}", serde_json::json!({ "tower_ms": times[times.len() / 2] }));
    Ok(())
}
