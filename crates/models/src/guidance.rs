//! How the passes of a step become one velocity.

use candle_core::{D, Result, Tensor};
use diffusion::Guidance;

/// The velocity that a request's passes come to, the conditional one first. All `[tokens, channels]` in f32.
///
/// # Errors
/// The device fails.
pub fn guided(guidance: Guidance, passes: &[Tensor]) -> Result<Tensor> {
    match (guidance, passes) {
        (Guidance::None | Guidance::Embedded { .. }, [cond]) => Ok(cond.clone()),
        (Guidance::TrueCfg { scale }, [cond, uncond]) => true_cfg(cond, uncond, scale),
        (Guidance::Cfg { scale }, [cond, uncond]) => cfg(cond, uncond, scale),
        _ => candle_core::bail!("{guidance:?} was given {} passes. This is a bug.", passes.len()),
    }
}

/// `uncond + scale (cond - uncond)`
fn cfg(cond: &Tensor, uncond: &Tensor, scale: f64) -> Result<Tensor> {
    uncond + ((cond - uncond)? * scale)?
}

/// The same, each token rescaled to the length that it has in `cond`.
///
/// The rescaling keeps a large scale from burning the picture in:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L711>
fn true_cfg(cond: &Tensor, uncond: &Tensor, scale: f64) -> Result<Tensor> {
    let combined = cfg(cond, uncond, scale)?;
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

    fn passes() -> [Tensor; 2] {
        [[[3_f32, 4.0], [0.0, 2.0]], [[1_f32, 0.0], [2.0, 2.0]]].map(|x| Tensor::new(&x, &Device::Cpu).unwrap())
    }

    #[test]
    fn tokens_keep_the_length_of_the_conditional_pass() {
        let combined = guided(Guidance::TrueCfg { scale: 4.0 }, &passes()).unwrap();
        let lengths = token_norm(&combined).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((lengths[0] - 5.0).abs() < 1e-5 && (lengths[1] - 2.0).abs() < 1e-5, "{lengths:?}");
        // Direction: uncond + 4 (cond - uncond) = (9, 16) for the first token.
        let first = combined.to_vec2::<f32>().unwrap()[0].clone();
        assert!((first[0] / first[1] - 9.0 / 16.0).abs() < 1e-5, "{first:?}");
    }

    #[test]
    fn plain_guidance_keeps_no_length() {
        let combined = guided(Guidance::Cfg { scale: 4.0 }, &passes()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(combined, [[9.0, 16.0], [-6.0, 2.0]]);
    }

    #[test]
    fn one_pass_is_the_velocity() {
        let [cond, _] = passes();
        for guidance in [Guidance::None, Guidance::Embedded { scale: 3.0 }] {
            let velocity = guided(guidance, std::slice::from_ref(&cond)).unwrap();
            assert_eq!(velocity.to_vec2::<f32>().unwrap(), cond.to_vec2::<f32>().unwrap());
        }
        assert!(guided(Guidance::None, &passes()).is_err(), "a pass too many");
    }
}
