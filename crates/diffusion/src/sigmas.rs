//! The flow-match Euler schedule: which noise levels a request visits.
//!
//! Port of diffusers' `FlowMatchEulerDiscreteScheduler.set_timesteps` as the Qwen-Image
//! pipeline calls it, in f32 as there, so that the numbers agree bit for bit:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/schedulers/scheduling_flow_match_euler_discrete.py#L249>

use crate::sigma_spacing::SigmaSpacing;

/// The contents of a checkpoint's `scheduler/scheduler_config.json`, with diffusers' defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowMatchConfig {
    /// The time shift if it does not depend on the picture's size.
    pub shift: f64,
    /// Whether the shift follows the picture's size (then `shift` is ignored).
    pub use_dynamic_shifting: bool,
    /// `mu` at `base_image_seq_len` tokens.
    pub base_shift: f64,
    /// `mu` at `max_image_seq_len` tokens.
    pub max_shift: f64,
    /// Tokens at which `mu` is `base_shift`.
    pub base_image_seq_len: usize,
    /// Tokens at which `mu` is `max_shift`.
    pub max_image_seq_len: usize,
    /// The formula of the dynamic shift.
    pub time_shift: TimeShift,
    /// The last noise level before 0, if the schedule is stretched to end there.
    pub shift_terminal: Option<f64>,
    /// Spacing of the levels between the first and the last, if other than the time shift gives.
    pub spacing: Option<SigmaSpacing>,
}

/// The two formulas of diffusers' `time_shift_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeShift {
    /// `e^mu / (e^mu + 1/sigma - 1)`
    Exponential,
    /// `mu / (mu + 1/sigma - 1)`
    Linear,
}

impl Default for FlowMatchConfig {
    fn default() -> Self {
        FlowMatchConfig {
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            time_shift: TimeShift::Exponential,
            shift_terminal: None,
            spacing: None,
        }
    }
}

impl FlowMatchConfig {
    /// The shift for a picture of `image_seq_len` tokens: a line through
    /// (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`, `max_shift`),
    /// extrapolated beyond both (diffusers' `calculate_shift`).
    pub fn mu(&self, image_seq_len: usize) -> f64 {
        let run = self.max_image_seq_len as f64 - self.base_image_seq_len as f64;
        let slope = (self.max_shift - self.base_shift) / run;
        let intercept = self.base_shift - slope * self.base_image_seq_len as f64;
        image_seq_len as f64 * slope + intercept
    }
}

/// Noise levels from 1 down to a final 0: one more than there are steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Sigmas(Vec<f32>);

impl Sigmas {
    /// The schedule of `num_inference_steps` (at least 1) steps for a picture of
    /// `image_seq_len` packed tokens.
    pub fn new(config: &FlowMatchConfig, num_inference_steps: usize, image_seq_len: usize) -> Self {
        Sigmas::with_mu(config, num_inference_steps, config.mu(image_seq_len))
    }

    /// The schedule of `num_inference_steps` (at least 1) steps under a dynamic shift of `mu`, which a
    /// configuration with a fixed shift ignores.
    pub fn with_mu(config: &FlowMatchConfig, num_inference_steps: usize, mu: f64) -> Self {
        let mut sigmas = linear(num_inference_steps);
        if config.use_dynamic_shifting {
            let weight = match config.time_shift {
                TimeShift::Exponential => mu.exp() as f32,
                TimeShift::Linear => mu as f32,
            };
            sigmas.iter_mut().for_each(|s| *s = weight / (weight + (1.0 / *s - 1.0)));
        } else {
            let shift = config.shift as f32;
            sigmas.iter_mut().for_each(|s| *s = shift * *s / (1.0 + (config.shift - 1.0) as f32 * *s));
        }
        if let Some(terminal) = config.shift_terminal {
            stretch_to_terminal(&mut sigmas, terminal);
        }
        if let Some(spacing) = config.spacing {
            spacing.apply(&mut sigmas);
        }
        sigmas.push(0.0);
        Sigmas(sigmas)
    }

    /// A schedule of these levels: at least two, none larger than its predecessor.
    pub fn of_levels(levels: Vec<f32>) -> Self {
        Sigmas(levels)
    }

    /// Number of steps of the schedule.
    pub fn num_inference_steps(&self) -> usize {
        self.0.len() - 1
    }

    /// The noise level at the start of a step, in 0..=1. Qwen-Image's DiT takes this value itself (diffusers'
    /// `timestep / 1000`).
    pub fn sigma(&self, step_index: usize) -> f32 {
        self.0[step_index]
    }

    /// The Euler step's size, `sigma[i + 1] - sigma[i]`: negative.
    pub fn dt(&self, step_index: usize) -> f32 {
        self.0[step_index + 1] - self.0[step_index]
    }

    /// All noise levels, the last of them 0.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

/// The shift of FLUX.2, which also depends on the number of steps:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py#L64>
pub fn empirical_mu(image_seq_len: usize, num_inference_steps: usize) -> f64 {
    let tokens = image_seq_len as f64;
    let (at_10, at_200) = (8.738_095_24e-5 * tokens + 1.898_333_33, 0.000_169_27 * tokens + 0.456_666_66);
    if image_seq_len > 4300 {
        return at_200;
    }
    let slope = (at_200 - at_10) / 190.0;
    slope * num_inference_steps as f64 + at_200 - 200.0 * slope
}

/// `numpy.linspace(1, 1 / n, n)`, computed in f64 and rounded once.
fn linear(n: usize) -> Vec<f32> {
    let last = 1.0 / n as f64;
    let step = if n > 1 { (last - 1.0) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(|i| if i + 1 == n && n > 1 { last } else { 1.0 + i as f64 * step }).map(|s| s as f32).collect()
}

/// Stretches `1 - sigma` so that the last level becomes `terminal`.
fn stretch_to_terminal(sigmas: &mut [f32], terminal: f64) {
    let Some(last) = sigmas.last() else { return };
    let scale = (1.0 - last) / (1.0 - terminal) as f32;
    // With one step the only level is 1, and there is nothing to stretch.
    if scale != 0.0 {
        sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen_image() -> FlowMatchConfig {
        FlowMatchConfig {
            use_dynamic_shifting: true,
            max_shift: 0.9,
            max_image_seq_len: 8192,
            shift_terminal: Some(0.02),
            ..FlowMatchConfig::default()
        }
    }

    #[test]
    fn four_steps_of_a_35_token_picture_are_diffusers() {
        // FlowMatchEulerDiscreteScheduler(**QWEN).set_timesteps(sigmas=linspace(1, 1/4, 4), mu=calculate_shift(35))
        let sigmas = Sigmas::new(&qwen_image(), 4, 35);
        for (ours, theirs) in sigmas.as_slice().iter().zip([1.0, 0.7432, 0.4250, 0.0200, 0.0]) {
            assert!((ours - theirs).abs() < 5e-5, "{sigmas:?}");
        }
    }

    #[test]
    fn a_schedule_falls_from_pure_noise_to_nothing() {
        for steps in [1, 2, 20, 50, 1000] {
            for seq_len in [1, 64, 4096, 65536] {
                let sigmas = Sigmas::new(&qwen_image(), steps, seq_len);
                assert_eq!(sigmas.num_inference_steps(), steps);
                assert_eq!((sigmas.sigma(0), sigmas.as_slice()[steps]), (1.0, 0.0));
                assert!(sigmas.as_slice().is_sorted_by(|a, b| b < a), "{steps} {seq_len} {sigmas:?}");
            }
        }
    }

    #[test]
    fn the_empirical_shift_is_diffusers() {
        let config = FlowMatchConfig { use_dynamic_shifting: true, ..FlowMatchConfig::default() };
        let sigmas = Sigmas::with_mu(&config, 4, empirical_mu(35, 4));
        for (ours, theirs) in sigmas.as_slice().iter().zip([1.0, 0.9546, 0.8751, 0.7002, 0.0]) {
            assert!((ours - theirs).abs() < 5e-5, "{sigmas:?}");
        }
        assert!((empirical_mu(4301, 4) - empirical_mu(4301, 50)).abs() < 1e-12, "large pictures have one shift");
    }

    #[test]
    fn a_static_shift_ignores_the_size() {
        let config = FlowMatchConfig { shift: 3.0, ..FlowMatchConfig::default() };
        let sigmas = Sigmas::new(&config, 4, 100);
        assert_eq!(sigmas, Sigmas::new(&config, 4, 4096));
        assert!((sigmas.sigma(1) - 0.9).abs() < 1e-6, "3 * 0.75 / (1 + 2 * 0.75) = 0.9");
    }
}
