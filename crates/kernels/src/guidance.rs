//! Guidance: two passes of a token become one velocity.

use candle_core::{D, Result, Tensor, bail};

use crate::devices::backend;

/// `uncond + scale * (cond - uncond)` of `[tokens, channels]` passes; with `keeps_length` each token is rescaled to the
/// length that it has in `cond`, which keeps a large scale from burning the picture in:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L711>.
///
/// # Errors
/// The passes have different shapes.
pub fn guided(cond: &Tensor, uncond: &Tensor, scale: f64, keeps_length: bool) -> Result<Tensor> {
    cond.dims2()?;
    if uncond.dims() != cond.dims() {
        bail!("uncond must be {:?} as cond is. Given: {:?}", cond.dims(), uncond.dims())
    }
    match backend(cond.device()).guided(cond, uncond, scale, keeps_length)? {
        Some(velocity) => Ok(velocity),
        None => guided_reference(cond, uncond, scale, keeps_length),
    }
}

fn guided_reference(cond: &Tensor, uncond: &Tensor, scale: f64, keeps_length: bool) -> Result<Tensor> {
    let combined = (uncond + ((cond - uncond)? * scale)?)?;
    if !keeps_length {
        return Ok(combined);
    }
    let rescale = token_norm(cond)?.div(&token_norm(&combined)?)?;
    combined.broadcast_mul(&rescale)
}

/// The length of each token, `[tokens, 1]`.
fn token_norm(x: &Tensor) -> Result<Tensor> {
    x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::numbers;

    fn passes() -> [Tensor; 2] {
        [[[3_f32, 4.0], [0.0, 2.0]], [[1_f32, 0.0], [2.0, 2.0]]].map(|x| Tensor::new(&x, &Device::Cpu).unwrap())
    }

    #[test]
    fn tokens_keep_the_length_of_the_conditional_pass() {
        let [cond, uncond] = passes();
        let velocity = guided(&cond, &uncond, 4.0, true).unwrap();
        let lengths = numbers(&token_norm(&velocity).unwrap());
        assert!((lengths[0] - 5.0).abs() < 1e-5 && (lengths[1] - 2.0).abs() < 1e-5, "{lengths:?}");
        // Direction: uncond + 4 (cond - uncond) = (9, 16) for the first token.
        let first = numbers(&velocity);
        assert!((first[0] / first[1] - 9.0 / 16.0).abs() < 1e-5, "{first:?}");
    }

    #[test]
    fn plain_guidance_keeps_no_length() {
        let [cond, uncond] = passes();
        assert_eq!(numbers(&guided(&cond, &uncond, 4.0, false).unwrap()), [9.0, 16.0, -6.0, 2.0]);
    }

    #[test]
    fn errors_name_what_was_given() {
        let [cond, uncond] = passes();
        let message = guided(&cond, &uncond.narrow(0, 0, 1).unwrap(), 4.0, true).unwrap_err().to_string();
        assert!(message.starts_with("uncond must be [2, 2] as cond is. Given: [1, 2]"), "{message}");
    }
}
