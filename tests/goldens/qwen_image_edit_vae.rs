//! The VAE of Qwen-Image-Edit's checkpoint: encoder and decoder against diffusers' three-dimensional network.

use candle_core::{DType, Device, Tensor};
use models::qwen_image::{Vae, VaeConfig, VaeEncoder};
use models::{Checkpoint, Precision, unpack};

use crate::compare::{Golden, close, goldens};
use crate::qwen_image_vae::channels_last;

fn cases() -> Vec<Golden> {
    Golden::all(goldens().join("models/goldens"), "qwen-image-edit-plus.")
}

/// Loads encoder and decoder with weights in `dtype`.
fn load(dtype: DType) -> (VaeEncoder, Vae) {
    let checkpoint = Checkpoint::Dir(goldens().join("models/qwen-image-edit-plus"));
    let config = VaeConfig::load(&checkpoint).unwrap();
    let weights = checkpoint.weights("vae", Precision::new(dtype, Device::Cpu)).unwrap();
    let scope = weights.scope("", &|_, _| ());
    (VaeEncoder::load(&config, &scope).unwrap(), Vae::load(&config, &scope).unwrap())
}

/// Returns the recorded `[1, channels, 1, h, w]` as `[h, w, channels]`.
fn recorded(golden: &Golden, tensor: &str) -> Tensor {
    channels_last(&golden.tensor(tensor).get(0).unwrap())
}

/// Returns the number of the recorded run's input pictures.
fn num_pictures(golden: &Golden) -> usize {
    (0..).take_while(|i| golden.has(&format!("vae.enc.pixels#{i}"))).count()
}

#[test]
fn encoder_stage_by_stage() {
    let (encoder, _) = load(DType::F32);
    for golden in cases() {
        let num_pictures = num_pictures(&golden);
        assert!(num_pictures > 0, "{}", golden.case);
        for i in 0..num_pictures {
            let mut seen = 0;
            let show = |stage: &str, ours: &Tensor| {
                let name = match stage {
                    "out" => format!("vae.enc#{i}"),
                    "quant_conv" => format!("vae.quant_conv#{i}"),
                    // Stages are recorded only for the first picture, and not for all of its resolutions.
                    stage => format!("vae.enc.{stage}"),
                };
                if golden.has(&name) && (i == 0 || name.contains('#')) {
                    close(&format!("{} {name}", golden.case), ours, &recorded(&golden, &name), 1e-4);
                    seen += 1;
                }
            };
            encoder.encode_stages(&recorded(&golden, &format!("vae.enc.pixels#{i}")), show).unwrap();
            assert_eq!(seen, if i == 0 { 6 } else { 2 }, "conv_in, two of the resolutions, mid; out, quant_conv");
        }
    }
}

/// Compares the latents of the run's pictures with the tokens that the pipeline made of them.
fn check_latents(encoder: &VaeEncoder, golden: &Golden, tolerance: f64) {
    let (tokens, mut from) = (golden.tensor("latents.image").get(0).unwrap(), 0);
    for i in 0..num_pictures(golden) {
        let ours = encoder.encode(&recorded(golden, &format!("vae.enc.pixels#{i}"))).unwrap();
        let (height, width, _) = ours.dims3().unwrap();
        let grid = (height / 2, width / 2);
        let theirs = unpack(&tokens.narrow(0, from, grid.0 * grid.1).unwrap(), grid).unwrap();
        close(&format!("{} latents of picture {i}", golden.case), &ours, &theirs, tolerance);
        from += grid.0 * grid.1;
    }
    assert_eq!(from, tokens.dim(0).unwrap(), "{}", golden.case);
}

#[test]
fn latents_are_normalised() {
    let (encoder, _) = load(DType::F32);
    cases().iter().for_each(|golden| check_latents(&encoder, golden, 1e-4));
}

/// The activations stay f32, so the only error is the rounding of the weights to 8 and 11 bits.
#[test]
fn half_precision_weights_stay_close() {
    for (dtype, tolerance) in [(DType::BF16, 2e-2), (DType::F16, 5e-3)] {
        let (encoder, _) = load(dtype);
        cases().iter().for_each(|golden| check_latents(&encoder, golden, tolerance));
    }
}

#[test]
fn decoder_stage_by_stage() {
    let (_, vae) = load(DType::F32);
    for golden in cases() {
        let mut seen = 0;
        let show = |stage: &str, ours: &Tensor| {
            let name = if stage == "post_quant_conv" { format!("vae.{stage}") } else { format!("vae.dec.{stage}") };
            close(&format!("{} {name}", golden.case), ours, &recorded(&golden, &name), 1e-4);
            seen += 1;
        };
        vae.decoder().decode_stages(&recorded(&golden, "vae.post_quant_conv.in0"), show).unwrap();
        assert_eq!(seen, 8, "post_quant_conv, conv_in, mid, four resolutions, out");
    }
}

#[test]
fn odd_sides_are_refused() {
    let (encoder, _) = load(DType::F32);
    let pixels = Tensor::zeros((16, 20, 3), DType::F32, &Device::Cpu).unwrap();
    let message = encoder.encode(&pixels).unwrap_err().to_string();
    assert!(message.starts_with("pixels must have sides that are multiples of 8. Given: 16, 20"), "{message}");
}
