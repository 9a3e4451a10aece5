//! Decoding in tiles: against diffusers' own, and against the same picture decoded whole.
//!
//! `make_vae_tiling.py` makes the goldens again.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use diffusion::{ImageSize, Interrupt, Pipeline};
use models::flux2::{Vae, VaeConfig};
use models::{
    Checkpoint, DiffusionPipeline, Family, LoadOptions, Precision, QwenImage, Tiling, VaeTiling, decode_tiles,
};
use serde_json::Value;

use crate::compare::{Golden, close, committed_goldens};
use crate::qwen_image::request;

/// What diffusers made, and of which tiles.
struct Recorded {
    /// Of the family.
    manifest: Value,
    tiling: Tiling,
    tensors: HashMap<String, Tensor>,
}

impl Recorded {
    fn of(family: &str) -> Self {
        let folder = committed_goldens().join("models");
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(folder.join("vae_tiling.manifest.json")).unwrap()).unwrap();
        let number = |key: &str| manifest[key].as_u64().unwrap() as usize;
        let file = folder.join(format!("vae_tiling.{family}.safetensors"));
        Recorded {
            tiling: Tiling { side: number("side"), stride: number("stride") },
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
            manifest: manifest[family].clone(),
        }
    }

    /// Compares what our tiles make of each of the recorded latents, and the tiles of a VAE that nobody changed.
    fn check(&self, family: &str, own: Tiling, decode: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        let sizes = self.manifest["sizes"].as_array().unwrap();
        for size in sizes {
            let name = format!("{}x{}", size[0], size[1]);
            let theirs = &self.tensors[&format!("{name}.pixels")];
            let ours = decode_tiles(&self.tensors[&format!("{name}.latents")], self.tiling, &decode).unwrap();
            let ours = Tensor::from_vec(ours, theirs.shape(), &Device::Cpu).unwrap();
            close(&format!("{family} {name} in tiles"), &ours, theirs, 1e-4);
        }
        let pixels = |key: &str| self.manifest["defaults"][key].as_u64().unwrap() as usize;
        assert_eq!((8 * own.side, 8 * own.stride), (pixels("side"), pixels("stride")), "{family}");
    }
}

fn qwen_image(vae_tiling: VaeTiling) -> DiffusionPipeline<QwenImage> {
    let checkpoint = Checkpoint::open(committed_goldens().join("models/qwen-image")).unwrap();
    let options = LoadOptions { vae_tiling, ..LoadOptions::default() };
    DiffusionPipeline::new(QwenImage::load(&checkpoint, &options, &|_, _, _| ()).unwrap(), &options)
}

#[test]
fn tiles_of_qwen_image_are_diffusers() {
    let model = qwen_image(VaeTiling::Always);
    let family = model.family();
    // Diffusers' VAE is given latents that were brought to their own mean and deviation already.
    Recorded::of("qwen-image")
        .check("qwen-image", family.sizes().tiling, |latents| family.vae().decoder().decode(latents));
}

#[test]
fn tiles_of_flux2_are_diffusers() {
    let checkpoint = Checkpoint::open(committed_goldens().join("models/flux2-klein")).unwrap();
    let config = VaeConfig::load(&checkpoint).unwrap();
    let weights = checkpoint.weights("vae", Precision::new(DType::F32, Device::Cpu)).unwrap();
    let vae = Vae::load(&config, &weights.scope("", &|_, _| ())).unwrap();
    Recorded::of("flux2-klein").check("flux2-klein", config.tiling(), |latents| vae.decode(latents));
}

/// Decibels of two pictures whose numbers are between -1 and 1.
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (4.0 * a.len() as f64 / squares).log10()
}

/// The built-in model's own pictures in tiles of half their side: near those decoded whole (39.8 to 46.4 dB), and no seam shows.
#[test]
fn a_picture_in_tiles_is_near_the_whole_and_has_no_seams() {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    let family = QwenImage::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap();
    let tiling = Tiling { side: 8, stride: 6 };
    for golden in Golden::all_in(committed_goldens().join("models"), "demo.manifest.json", "demo.") {
        let (last, grid) =
            (golden.run.kw.num_inference_steps - 1, (golden.run.kw.height / 16, golden.run.kw.width / 16));
        let tokens = golden.tensor(&format!("step.{last}.latents")).get(0).unwrap();
        let latents = family.unpack(&tokens, grid).unwrap();
        let whole: Vec<f32> = family.decode(&latents).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let tiled = decode_tiles(&latents, tiling, |tile| family.decode(tile)).unwrap();
        let near = psnr(&tiled, &whole);
        // How far the step from one column to the next is from that of the whole, on average.
        let width = golden.run.kw.width;
        let step =
            |numbers: &[f32], x: usize, row: usize| numbers[(row * width + x) * 3] - numbers[(row * width + x - 1) * 3];
        let rows = golden.run.kw.height;
        let apart = |x: usize| -> f64 {
            (0..rows).map(|row| f64::from((step(&tiled, x, row) - step(&whole, x, row)).abs())).sum::<f64>()
                / rows as f64
        };
        let everywhere = (1..width).map(apart).sum::<f64>() / (width - 1) as f64;
        let seams: Vec<f64> = (1..width).filter(|x| x.is_multiple_of(8 * tiling.stride)).map(apart).collect();
        println!("{}: {near:.1} dB; steps are {everywhere:.5} apart, at seams {seams:.5?}", golden.case);
        assert!(near >= 38.0, "{}: {near} dB", golden.case);
        assert!(seams.iter().all(|seam| *seam <= 2.0 * everywhere), "{}: {seams:?} {everywhere}", golden.case);
    }
}

/// What is larger than a tile is decoded as its estimate says: whole, or in tiles of less memory and more work.
#[test]
fn a_pipeline_decodes_in_tiles_where_it_is_told_to() {
    let golden = &Golden::all(committed_goldens().join("models/goldens"), "qwen-image.t2i_nocfg")[0];
    let mut request = request(golden, 0);
    (request.params.size, request.params.num_inference_steps) = (ImageSize { width: 272, height: 288 }, 1);
    let made = |vae_tiling| {
        let mut model = qwen_image(vae_tiling);
        let cost = model.estimator()(&request);
        let mut state = model.prepare(&request, &Interrupt::default()).unwrap();
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
        (model.decode(state, &Interrupt::default()).unwrap().pixels, cost)
    };
    let (whole, of_whole) = made(VaeTiling::Never);
    let (tiled, of_tiled) = made(VaeTiling::Always);
    assert_ne!(whole, tiled);
    assert_eq!(whole.len(), tiled.len());
    assert!(of_tiled.memory.decode < of_whole.memory.decode, "{of_tiled:?} {of_whole:?}");
    assert!(of_tiled.work.decode > of_whole.work.decode, "{of_tiled:?} {of_whole:?}");
    assert_eq!(made(VaeTiling::Above(of_whole.memory.decode)).0, whole);
    assert_eq!(made(VaeTiling::Above(of_whole.memory.decode - 1)).0, tiled);
}
