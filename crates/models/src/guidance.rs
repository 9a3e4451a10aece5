//! Guidance: combines the passes of a step into one velocity.

use candle_core::{Result, Tensor};
use diffusion::Guidance;
use kernels::Guided;

/// Combines each request's passes, the conditional one first, into its velocity. All are `[tokens, channels]` in f32.
///
/// # Errors
/// The device fails.
pub fn guided(requests: &[(Guidance, &[Tensor])]) -> Result<Vec<Tensor>> {
    let mut pairs = Vec::new();
    for (guidance, passes) in requests {
        pairs.extend(to_combine(*guidance, passes)?);
    }
    let mut combined = kernels::guided(&pairs)?.into_iter();
    let velocity = |(guidance, passes): &(Guidance, &[Tensor])| match to_combine(*guidance, passes)? {
        Some(_) => combined.next().ok_or_else(|| candle_core::Error::msg("a velocity is missing. This is a bug.")),
        None => Ok(passes[0].clone()),
    };
    requests.iter().map(velocity).collect()
}

/// Pairs two passes with the way they are combined; `None` for a single pass, which is the velocity itself.
fn to_combine(guidance: Guidance, passes: &[Tensor]) -> Result<Option<Guided<'_>>> {
    match (guidance, passes) {
        (Guidance::None | Guidance::Embedded { .. }, [_]) => Ok(None),
        (Guidance::TrueCfg { scale }, [cond, uncond]) => Ok(Some(Guided { cond, uncond, scale, keeps_length: true })),
        (Guidance::Cfg { scale }, [cond, uncond]) => Ok(Some(Guided { cond, uncond, scale, keeps_length: false })),
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
    fn each_request_is_guided_in_its_own_way() {
        let passes = passes();
        let requests = [
            (Guidance::TrueCfg { scale: 4.0 }, &passes[..]),
            (Guidance::None, &passes[..1]),
            (Guidance::Cfg { scale: 4.0 }, &passes[..]),
            (Guidance::Embedded { scale: 3.0 }, &passes[1..]),
        ];
        let velocities: Vec<Vec<Vec<f32>>> =
            guided(&requests).unwrap().iter().map(|velocity| velocity.to_vec2().unwrap()).collect();
        // True CFG rescales (9, 16) to the length of (3, 4).
        assert!((velocities[0][0][0].hypot(velocities[0][0][1]) - 5.0).abs() < 1e-5, "{velocities:?}");
        assert_eq!(velocities[2], [[9.0, 16.0], [-6.0, 2.0]]);
        assert_eq!((&velocities[1], &velocities[3]), (&passes[0].to_vec2().unwrap(), &passes[1].to_vec2().unwrap()));
        assert!(guided(&[(Guidance::None, &passes[..])]).is_err(), "a pass too many");
    }
}
