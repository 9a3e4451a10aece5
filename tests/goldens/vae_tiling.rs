//! Tiled VAEs: compared with diffusers' tiling, and with the same picture decoded whole.
//!
//! `make_vae_tiling.py` regenerates the goldens.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use diffusion::{ImageSize, InputImage, Interrupt, Pipeline, RgbImage};
use models::flux2::{Vae, VaeConfig, VaeEncoder};
use models::{
    Checkpoint, DiffusionPipeline, Family, Flux2Klein, LoadOptions, Precision, QwenImage, Tiling, VaeTiling,
    decode_tiles, encode_tiles, model_bytes,
};
use serde_json::Value;

use crate::compare::{Golden, close, committed_goldens};
use crate::qwen_image::request;

/// diffusers' results, and their tiling.
struct Recorded {
    /// The family's entry of the manifest.
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

    /// Returns the rows and columns of the recorded latents, as they occur in tensor names.
    fn sizes(&self) -> impl Iterator<Item = String> {
        self.manifest["sizes"].as_array().unwrap().iter().map(|size| format!("{}x{}", size[0], size[1]))
    }

    /// Compares our tiled decoding of the recorded latents, and our default tiling with that of an unchanged VAE.
    fn check(&self, family: &str, own: Tiling, decode: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        for name in self.sizes() {
            let theirs = &self.tensors[&format!("{name}.pixels")];
            let ours = decode_tiles(&self.tensors[&format!("{name}.latents")], self.tiling, &decode).unwrap();
            let ours = Tensor::from_vec(ours, theirs.shape(), &Device::Cpu).unwrap();
            close(&format!("{family} {name} in tiles"), &ours, theirs, 1e-4);
        }
        let pixels = |key: &str| self.manifest["defaults"][key].as_u64().unwrap() as usize;
        assert_eq!((8 * own.side, 8 * own.stride), (pixels("side"), pixels("stride")), "{family}");
    }

    /// Compares our tiled encoding of the recorded pixels.
    fn check_encoded(&self, family: &str, encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
        for name in self.sizes() {
            let pixels = &self.tensors[&format!("{name}.pixels")];
            let ours = encode_tiles(pixels, self.tiling, &encode).unwrap();
            close(
                &format!("{family} {name} in tiles, encoded"),
                &ours,
                &self.tensors[&format!("{name}.encoded")],
                1e-4,
            );
            let whole = encode(pixels).unwrap();
            let apart = (whole - ours).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(apart > 1e-3, "{family} {name}: tiles are told from the whole, {apart} apart");
        }
    }
}

/// Opens the VAE of a tiny model.
fn vae(model: &str) -> (Checkpoint, models::Weights) {
    let checkpoint = Checkpoint::open(committed_goldens().join("models").join(model)).unwrap();
    let weights = checkpoint.weights("vae", Precision::new(DType::F32, Device::Cpu)).unwrap();
    (checkpoint, weights)
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
    // Diffusers' VAE was given latents that were already denormalised.
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

#[test]
fn what_is_encoded_in_tiles_is_diffusers() {
    let (checkpoint, weights) = vae("qwen-image");
    let config = models::qwen_image::VaeConfig::load(&checkpoint).unwrap();
    let encoder = models::qwen_image::VaeEncoder::load(&config, &weights.scope("", &|_, _| ())).unwrap();
    // Our encoder normalises its latents to a mean of 0 and a deviation of 1.
    let [mean, std] =
        [&config.latents_mean, &config.latents_std].map(|list| Tensor::new(list.as_slice(), &Device::Cpu).unwrap());
    let encode = |pixels: &Tensor| encoder.encode(pixels)?.broadcast_mul(&std)?.broadcast_add(&mean);
    Recorded::of("qwen-image").check_encoded("qwen-image", encode);

    let (checkpoint, weights) = vae("flux2-klein");
    let config = VaeConfig::load(&checkpoint).unwrap();
    let encoder = VaeEncoder::load(&config, &weights.scope("", &|_, _| ())).unwrap();
    Recorded::of("flux2-klein").check_encoded("flux2-klein", |pixels| encoder.encode(pixels));
}

/// PSNR in dB of two pictures with numbers between -1 and 1.
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (4.0 * a.len() as f64 / squares).log10()
}

/// The built-in model's pictures in tiles of half their side. They are close to those decoded whole (39.8 to 46.4 dB),
/// and show no seams.
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
        // Mean difference between the tiled and the whole picture in the step from column x - 1 to x.
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

/// A picture larger than a tile is decoded as its estimate says: whole, or in tiles with less memory and more work.
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

/// A picture to edit is encoded as its estimate says: whole, or in tiles with less memory and more work.
#[test]
fn a_pipeline_encodes_in_tiles_where_it_is_told_to() {
    let golden = &Golden::all(committed_goldens().join("models/goldens"), "qwen-image.t2i_nocfg")[0];
    // FLUX.2's tiles are 1024 pixels wide, so this picture exceeds them along one side.
    let size = ImageSize { width: 1072, height: 64 };
    let mut request = request(golden, 0);
    request.params.size = size;
    let pixels = (0..3 * size.pixels()).map(|i| (i * 7 % 251) as u8).collect();
    request.input_images = [InputImage::new(RgbImage { size, pixels })].into();
    let made = |vae_tiling| {
        let checkpoint = Checkpoint::open(committed_goldens().join("models/flux2-klein")).unwrap();
        let options = LoadOptions { vae_tiling, ..LoadOptions::default() };
        let family = Flux2Klein::load(&checkpoint, &options, &|_, _, _| ()).unwrap();
        let mut model = DiffusionPipeline::new(family, &options);
        let cost = model.estimator()(&request);
        let state = model.prepare(&request, &Interrupt::default()).unwrap();
        (state.references()[0].latents.flatten_all().unwrap().to_vec1::<f32>().unwrap(), cost)
    };
    let (whole, of_whole) = made(VaeTiling::Never);
    let (tiled, of_tiled) = made(VaeTiling::Always);
    assert_eq!(whole.len(), tiled.len());
    assert_ne!(whole, tiled);
    assert!(of_tiled.work.encode > of_whole.work.encode, "{of_tiled:?} {of_whole:?}");
    assert_eq!(made(VaeTiling::Above(of_whole.memory.encode)).0, whole);
}

/// The planned memory for a picture of the default size, beside the weights, is lower with tiles.
#[test]
fn a_plan_knows_of_tiles() {
    let checkpoint = Checkpoint::open(committed_goldens().join("models/qwen-image")).unwrap();
    let planned = |vae_tiling| {
        model_bytes(&checkpoint, &LoadOptions { vae_tiling, ..LoadOptions::default() }).unwrap().activations
    };
    let estimated = |vae_tiling| {
        let model = qwen_image(vae_tiling);
        let golden = &Golden::all(committed_goldens().join("models/goldens"), "qwen-image.t2i_nocfg")[0];
        let mut request = request(golden, 0);
        request.params.size = model.family().card().default_size;
        model.estimator()(&request).memory.decode
    };
    let [whole, tiled] = [VaeTiling::Never, VaeTiling::Always].map(|tiling| (planned(tiling), estimated(tiling)));
    assert_eq!(whole.0, whole.1, "the VAE needs most");
    assert!(tiled.0 >= tiled.1 && tiled.0 < whole.0 / 2, "{tiled:?} {whole:?}");
}
