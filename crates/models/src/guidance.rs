//! How the two passes of true classifier-free guidance become one velocity.

use candle_core::{D, Result, Tensor};

/// `uncond + scale (cond - uncond)`, each token rescaled to the length that it has in `cond`.
///
/// All `[tokens, channels]` in f32. The rescaling keeps a large scale from burning the picture in:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L711>
///
/// # Errors
/// The device fails.
pub fn true_cfg(cond: &Tensor, uncond: &Tensor, scale: f64) -> Result<Tensor> {
    let combined = (uncond + ((cond - uncond)? * scale)?)?;
    let rescale = token_norm(cond)?.div(&token_norm(&combined)?)?;
    combined.broadcast_mul(&rescale)
}

/// The length of each token, `[tokens, 1]`.
fn token_norm(x: &Tensor) -> Result<Tensor> {
    x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn tokens_keep_the_length_of_the_conditional_pass() {
        let cond = Tensor::new(&[[3_f32, 4.0], [0.0, 2.0]], &Device::Cpu).unwrap();
        let uncond = Tensor::new(&[[1_f32, 0.0], [2.0, 2.0]], &Device::Cpu).unwrap();
        let combined = true_cfg(&cond, &uncond, 4.0).unwrap();
        let lengths = token_norm(&combined).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((lengths[0] - 5.0).abs() < 1e-5 && (lengths[1] - 2.0).abs() < 1e-5, "{lengths:?}");
        // Direction: uncond + 4 (cond - uncond) = (9, 16) for the first token.
        let first = combined.to_vec2::<f32>().unwrap()[0].clone();
        assert!((first[0] / first[1] - 9.0 / 16.0).abs() < 1e-5, "{first:?}");
    }
}
