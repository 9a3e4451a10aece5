//! The VAE of FLUX.2-klein against diffusers: encoder, decoder, the tokens between them, the picture.

use candle_core::{DType, Device, Tensor};
use models::flux2::{Vae, VaeConfig, VaeEncoder};
use models::{Checkpoint, Precision, pack, unpack};

use crate::compare::{Golden, close, goldens};

/// The runs without a step cache, of which the VAE's stages are recorded.
fn cases() -> Vec<Golden> {
    let cases = Golden::all(goldens().join("models/goldens"), "flux2-klein.");
    cases.into_iter().filter(|golden| golden.has("vae.post_quant_conv")).collect()
}

/// The run with input pictures.
fn edit() -> Golden {
    Golden::all(goldens().join("models/goldens"), "flux2-klein.edit_2img").remove(0)
}

/// Loads encoder and decoder with weights in `dtype`.
fn load(dtype: DType) -> (VaeEncoder, Vae) {
    let checkpoint = Checkpoint::Dir(goldens().join("models/flux2-klein"));
    let config = VaeConfig::load(&checkpoint).unwrap();
    let weights = checkpoint.weights("vae", Precision::new(dtype, Device::Cpu)).unwrap();
    let scope = weights.scope("", &|_, _| ());
    (VaeEncoder::load(&config, &scope).unwrap(), Vae::load(&config, &scope).unwrap())
}

/// Returns picture `i` of the recorded `[batch, channels, h, w]` as `[h, w, channels]`.
fn recorded(golden: &Golden, tensor: &str, i: usize) -> Tensor {
    golden.tensor(tensor).get(i).unwrap().permute((1, 2, 0)).unwrap().contiguous().unwrap()
}

#[test]
fn encoder_stage_by_stage() {
    let ((encoder, _), golden) = (load(DType::F32), edit());
    for i in 0..2 {
        let mut seen = 0;
        let show = |stage: &str, ours: &Tensor| {
            let name = match stage {
                "out" => format!("vae.enc#{i}"),
                "quant_conv" => format!("vae.quant_conv#{i}"),
                // Stages are recorded only for the first picture.
                _ if i > 0 => return,
                stage => format!("vae.enc.{stage}"),
            };
            close(&format!("{} {name}", golden.case), ours, &recorded(&golden, &name, 0), 1e-4);
            seen += 1;
        };
        encoder.encode_stages(&recorded(&golden, &format!("vae.enc.pixels#{i}"), 0), show).unwrap();
        assert_eq!(seen, if i == 0 { 8 } else { 2 }, "conv_in, four resolutions, mid; out, quant_conv");
    }
}

/// Compares the concatenated tokens of the run's pictures with those that the pipeline made.
fn check_tokens(dtype: DType, tolerance: f64) {
    let ((encoder, vae), golden) = (load(dtype), edit());
    let tokens = |i: usize| {
        let latents = encoder.encode(&recorded(&golden, &format!("vae.enc.pixels#{i}"), 0)).unwrap();
        let (height, width, _) = latents.dims3().unwrap();
        let tokens = pack(&latents).unwrap();
        let back = unpack(&tokens, (height / 2, width / 2)).unwrap();
        close("unpack(pack)", &back, &latents, 0.0);
        vae.normalize(&tokens).unwrap()
    };
    let ours = Tensor::cat(&[tokens(0), tokens(1)], 0).unwrap();
    golden.check("latents.image", 0, &ours, tolerance);
}

#[test]
fn pictures_become_normalised_tokens() {
    check_tokens(DType::F32, 1e-4);
}

/// The activations stay f32, so the only error is the rounding of the weights to 8 and 11 bits.
#[test]
fn half_precision_weights_stay_close() {
    check_tokens(DType::BF16, 2e-2);
    check_tokens(DType::F16, 5e-3);
}

#[test]
fn decoder_stage_by_stage() {
    let (_, vae) = load(DType::F32);
    for golden in cases() {
        for i in 0..golden.batch_size() {
            let mut seen = 0;
            let show = |stage: &str, ours: &Tensor| {
                let name = if stage == "post_quant_conv" { format!("vae.{stage}") } else { format!("vae.dec.{stage}") };
                close(&format!("{} {name}[{i}]", golden.case), ours, &recorded(&golden, &name, i), 1e-4);
                seen += 1;
            };
            vae.decoder().decode_stages(&recorded(&golden, "vae.post_quant_conv.in0", i), show).unwrap();
            assert_eq!(seen, 8, "post_quant_conv, conv_in, mid, four resolutions, out");
        }
    }
}

#[test]
fn the_last_tokens_become_the_picture() {
    let (_, vae) = load(DType::F32);
    for golden in cases() {
        let last = format!("step.{}.latents", golden.run.kw.num_inference_steps - 1);
        for i in 0..golden.batch_size() {
            let grid = (golden.run.kw.height / 16, golden.run.kw.width / 16);
            let tokens = vae.denormalize(&golden.tensor(&last).get(i).unwrap()).unwrap();
            let latents = unpack(&tokens, grid).unwrap();
            let theirs = recorded(&golden, "vae.post_quant_conv.in0", i);
            close(&format!("{} latents[{i}]", golden.case), &latents, &theirs, 1e-6);
            let pixels = vae.decode(&latents).unwrap().clamp(-1f32, 1f32).unwrap();
            let pixels = ((pixels * 0.5).unwrap() + 0.5).unwrap();
            golden.check("image.float", i, &pixels, 1e-4);
            let bytes = (pixels * 255.0).unwrap().round().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            golden.check_picture(i, &bytes.iter().map(|&byte| byte as u8).collect::<Vec<_>>());
        }
    }
}

#[test]
fn odd_sides_are_refused() {
    let (encoder, _) = load(DType::F32);
    let pixels = Tensor::zeros((12, 16, 3), DType::F32, &Device::Cpu).unwrap();
    let message = encoder.encode(&pixels).unwrap_err().to_string();
    assert!(message.starts_with("pixels must have sides that are multiples of 8. Given: 12, 16"), "{message}");
}
