//! Guidance: combines the passes with and without the prompt into one velocity.

use candle_core::{D, Result, Tensor, bail};

use crate::Guided;
use crate::devices::backend;

/// `uncond + scale * (cond - uncond)` of each request, rescaled to the length of `cond` if the request asks for it.
///
/// # Errors
/// A request's passes have different shapes.
pub fn guided(requests: &[Guided<'_>]) -> Result<Vec<Tensor>> {
    for Guided { cond, uncond, .. } in requests {
        cond.dims2()?;
        if uncond.dims() != cond.dims() {
            bail!("uncond must be {:?} as cond is. Given: {:?}", cond.dims(), uncond.dims())
        }
    }
    let Some(first) = requests.first() else { return Ok(Vec::new()) };
    match backend(first.cond.device()).guided(requests)? {
        Some(velocities) => Ok(velocities),
        None => requests.iter().map(guided_reference).collect(),
    }
}

fn guided_reference(request: &Guided<'_>) -> Result<Tensor> {
    let Guided { cond, uncond, scale, keeps_length } = *request;
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

    fn guided_at_4([cond, uncond]: &[Tensor; 2], keeps_length: bool) -> Vec<f32> {
        numbers(&guided(&[Guided { cond, uncond, scale: 4.0, keeps_length }]).unwrap()[0])
    }

    #[test]
    fn tokens_keep_the_length_of_the_conditional_pass() {
        let velocity = guided_at_4(&passes(), true);
        let lengths = [0, 2].map(|i| velocity[i].hypot(velocity[i + 1]));
        assert!((lengths[0] - 5.0).abs() < 1e-5 && (lengths[1] - 2.0).abs() < 1e-5, "{lengths:?}");
        // Direction: uncond + 4 (cond - uncond) = (9, 16) for the first token.
        assert!((velocity[0] / velocity[1] - 9.0 / 16.0).abs() < 1e-5, "{velocity:?}");
    }

    #[test]
    fn plain_guidance_keeps_no_length() {
        assert_eq!(guided_at_4(&passes(), false), [9.0, 16.0, -6.0, 2.0]);
    }

    #[test]
    fn errors_name_what_was_given() {
        let [cond, uncond] = passes();
        let short = uncond.narrow(0, 0, 1).unwrap();
        let requests = [&uncond, &short].map(|uncond| Guided { cond: &cond, uncond, scale: 4.0, keeps_length: true });
        let message = guided(&requests).unwrap_err().to_string();
        assert!(message.starts_with("uncond must be [2, 2] as cond is. Given: [1, 2]"), "{message}");
    }
}
