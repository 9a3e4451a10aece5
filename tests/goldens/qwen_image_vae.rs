//! The VAE of Qwen-Image, a two-dimensional network here, against diffusers' three-dimensional one.

use candle_core::Tensor;

use crate::compare::close;
use crate::qwen_image::{cases, model};

/// Converts `[channels, 1, h, w]` to `[h, w, channels]`.
pub fn channels_last(t: &Tensor) -> Tensor {
    t.squeeze(1).unwrap().permute((1, 2, 0)).unwrap().contiguous().unwrap()
}

#[test]
fn decoder_stage_by_stage() {
    let model = model();
    for golden in cases() {
        for i in 0..golden.batch_size() {
            let latents = channels_last(&golden.tensor("vae.post_quant_conv.in0").get(i).unwrap());
            let mut seen = 0;
            let show = |stage: &str, ours: &Tensor| {
                let name = if stage == "post_quant_conv" { format!("vae.{stage}") } else { format!("vae.dec.{stage}") };
                let theirs = channels_last(&golden.tensor(&name).get(i).unwrap());
                close(&format!("{} {name}[{i}]", golden.case), ours, &theirs, 1e-4);
                seen += 1;
            };
            model.family().vae().decoder().decode_stages(&latents, show).unwrap();
            assert_eq!(seen, 8, "post_quant_conv, conv_in, mid, four resolutions, out");
        }
    }
}
