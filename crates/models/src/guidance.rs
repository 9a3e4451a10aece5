//! How the passes of a step become one velocity.

use candle_core::{Result, Tensor};
use diffusion::Guidance;

/// The velocity that a request's passes come to, the conditional one first. All `[tokens, channels]` in f32.
///
/// # Errors
/// The device fails.
pub fn guided(guidance: Guidance, passes: &[Tensor]) -> Result<Tensor> {
    match (guidance, passes) {
        (Guidance::None | Guidance::Embedded { .. }, [cond]) => Ok(cond.clone()),
        (Guidance::TrueCfg { scale }, [cond, uncond]) => kernels::guided(cond, uncond, scale, true),
        (Guidance::Cfg { scale }, [cond, uncond]) => kernels::guided(cond, uncond, scale, false),
        _ => candle_core::bail!("{guidance:?} was given {} passes. This is a bug.", passes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn passes() -> [Tensor; 2] {
        [[[3_f32, 4.0], [0.0, 2.0]], [[1_f32, 0.0], [2.0, 2.0]]].map(|x| Tensor::new(&x, &Device::Cpu).unwrap())
    }

    #[test]
    fn true_guidance_keeps_the_length_of_the_conditional_pass() {
        let combined = guided(Guidance::TrueCfg { scale: 4.0 }, &passes()).unwrap().to_vec2::<f32>().unwrap();
        // (9, 16) as long as (3, 4).
        assert!((combined[0][0].hypot(combined[0][1]) - 5.0).abs() < 1e-5, "{combined:?}");
        let plain = guided(Guidance::Cfg { scale: 4.0 }, &passes()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(plain, [[9.0, 16.0], [-6.0, 2.0]]);
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
