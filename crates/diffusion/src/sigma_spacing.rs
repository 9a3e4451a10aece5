//! Schedules that keep the first and last of the shifted noise levels and respace the levels between them.
//!
//! Ports of `_convert_to_karras`, `_convert_to_exponential` and `_convert_to_beta`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/schedulers/scheduling_flow_match_euler_discrete.py#L533>

use statrs::function::beta::inv_beta_reg;

/// Spacing of the noise levels between the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigmaSpacing {
    /// diffusers' `use_karras_sigmas`: evenly spaced in `sigma^(1/7)`.
    Karras,
    /// `use_exponential_sigmas`: evenly spaced in `log(sigma)`.
    Exponential,
    /// `use_beta_sigmas`: at the quantiles of a beta distribution of 0.6 and 0.6.
    Beta,
}

impl SigmaSpacing {
    /// Respaces `sigmas`, which decrease from first to last. Computed in f64 and rounded once, as in diffusers.
    pub(crate) fn apply(self, sigmas: &mut [f32]) {
        let (Some(&max), Some(&min)) = (sigmas.first(), sigmas.last()) else { return };
        let (max, min) = (f64::from(max), f64::from(min));
        let last = (sigmas.len() - 1).max(1) as f64;
        let at = |ramp: f64| match self {
            SigmaSpacing::Karras => {
                let (max, min) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
                (max + ramp * (min - max)).powf(RHO)
            }
            SigmaSpacing::Exponential => (max.ln() + ramp * (min.ln() - max.ln())).exp(),
            SigmaSpacing::Beta => min + beta_quantile(1.0 - ramp) * (max - min),
        };
        sigmas.iter_mut().enumerate().for_each(|(i, sigma)| *sigma = at(i as f64 / last) as f32);
    }
}

/// The exponent that the paper uses: <https://arxiv.org/abs/2206.00364>
const RHO: f64 = 7.0;

/// `scipy.stats.beta.ppf(probability, 0.6, 0.6)`. The library's inverse covers only the open interval from 0 to 1.
fn beta_quantile(probability: f64) -> f64 {
    match probability {
        p if p <= 0.0 => 0.0,
        p if p >= 1.0 => 1.0,
        p => inv_beta_reg(0.6, 0.6, p),
    }
}

#[cfg(test)]
mod tests {
    use crate::{FlowMatchConfig, Sigmas};

    use super::SigmaSpacing::{self, Beta, Exponential, Karras};

    /// `FlowMatchEulerDiscreteScheduler(**config).set_timesteps(sigmas=linspace(1, 1 / n, n), mu=…)` of diffusers 0.42.1.
    #[test]
    fn every_spacing_is_diffusers() {
        let qwen_image = FlowMatchConfig {
            use_dynamic_shifting: true,
            max_shift: 0.9,
            max_image_seq_len: 8192,
            shift_terminal: Some(0.02),
            ..FlowMatchConfig::default()
        };
        let fixed = FlowMatchConfig { shift: 3.0, ..FlowMatchConfig::default() };
        let cases: [(&FlowMatchConfig, SigmaSpacing, usize, &[f64]); 7] = [
            (&qwen_image, Karras, 35, &[1.0, 0.452732325, 0.185220093, 0.0664691404, 0.0200000405, 0.0]),
            (&qwen_image, Exponential, 35, &[1.0, 0.376060486, 0.141421497, 0.0531830415, 0.0200000405, 0.0]),
            (&qwen_image, Beta, 35, &[1.0, 0.827833235, 0.51000005, 0.192166805, 0.0200000405, 0.0]),
            (&fixed, Karras, 35, &[1.0, 0.79970789, 0.634835005, 0.5, 0.0]),
            (&fixed, Exponential, 35, &[1.0, 0.793700516, 0.629960537, 0.5, 0.0]),
            (&fixed, Beta, 35, &[1.0, 0.862293363, 0.637706637, 0.5, 0.0]),
            (
                &qwen_image,
                Beta,
                4096,
                &[
                    1.0,
                    0.986602366,
                    0.957783043,
                    0.917900085,
                    0.869167328,
                    0.813269198,
                    0.751663983,
                    0.685694873,
                    0.616642118,
                    0.545751035,
                    0.474248946,
                    0.403357834,
                    0.334305108,
                    0.268335998,
                    0.206730768,
                    0.150832683,
                    0.10209991,
                    0.0622169077,
                    0.033397641,
                    0.0199999809,
                    0.0,
                ],
            ),
        ];
        for (config, spacing, tokens, expected) in cases {
            let config = FlowMatchConfig { spacing: Some(spacing), ..config.clone() };
            let sigmas = Sigmas::new(&config, expected.len() - 1, tokens);
            assert_eq!(sigmas.as_slice().len(), expected.len());
            for (ours, theirs) in sigmas.as_slice().iter().zip(expected) {
                assert!((f64::from(*ours) - theirs).abs() < 2e-6, "{spacing:?}: {sigmas:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn one_step_starts_from_pure_noise() {
        for spacing in [Karras, Exponential, Beta] {
            let config = FlowMatchConfig { spacing: Some(spacing), ..FlowMatchConfig::default() };
            assert_eq!(Sigmas::new(&config, 1, 64).as_slice(), [1.0, 0.0], "{spacing:?}");
        }
    }
}
