//! Previews: when a request gets one, and how it is drawn.

use serde::{Deserialize, Serialize};

/// How a preview is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreviewMethod {
    /// A linear map from latents to colours: blurred and almost free (ComfyUI's name).
    #[default]
    Latent2Rgb,
    /// The full VAE: as sharp and as expensive as the final picture.
    Vae,
}

/// After which steps a preview is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreviewTimes {
    /// This many, spread evenly over the steps; fewer if there are fewer steps.
    Count(usize),
    /// After every n-th step; 0 counts as 1.
    Interval(usize),
}

/// The previews that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previews {
    /// How the previews are drawn.
    pub method: PreviewMethod,
    /// When the previews are drawn.
    pub times: PreviewTimes,
}

impl Previews {
    /// Whether a preview is drawn after step `step_index`, from 0. Never after the last step, which gives the picture
    /// itself.
    pub fn is_due(&self, step_index: usize, num_inference_steps: usize) -> bool {
        self.due_by(step_index + 1, num_inference_steps) > self.due_by(step_index, num_inference_steps)
    }

    /// Number of previews drawn within the first `steps_taken` steps.
    pub fn due_by(&self, steps_taken: usize, num_inference_steps: usize) -> usize {
        let taken = steps_taken.min(num_inference_steps.saturating_sub(1));
        match self.times {
            // The steps, including the last, are split into one part more than there are previews. Each part except the
            // last ends with a preview.
            PreviewTimes::Count(count) => taken * (count.min(num_inference_steps) + 1) / num_inference_steps.max(1),
            PreviewTimes::Interval(interval) => taken / interval.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps taken before each preview, for a run of `num_inference_steps` steps.
    fn due(times: PreviewTimes, num_inference_steps: usize) -> Vec<usize> {
        let previews = Previews { method: PreviewMethod::Latent2Rgb, times };
        let is_due = |taken: &usize| previews.is_due(taken - 1, num_inference_steps);
        (1..=num_inference_steps).filter(is_due).collect()
    }

    #[test]
    fn a_count_is_spread_over_the_steps() {
        for (count, steps, expected) in [
            (1, 20, &[10][..]),
            (3, 20, &[5, 10, 15]),
            (2, 20, &[7, 14]),
            (3, 4, &[1, 2, 3]),
            (3, 3, &[1, 2]),
            (3, 2, &[1]),
            (3, 1, &[]),
            (0, 20, &[]),
        ] {
            assert_eq!(due(PreviewTimes::Count(count), steps), expected, "{count} of {steps}");
        }
    }

    #[test]
    fn a_count_is_never_exceeded_and_met_where_there_are_steps() {
        for steps in 1..=60 {
            for count in (0..=70).chain([usize::MAX]) {
                let due = due(PreviewTimes::Count(count), steps);
                assert_eq!(due.len(), count.min(steps - 1), "{count} of {steps}: {due:?}");
                assert!(!due.contains(&steps), "the last step is the picture");
                // Including both ends, gaps differ by at most one step.
                let ends: Vec<_> = [0].into_iter().chain(due).chain([steps]).collect();
                let gaps: Vec<_> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
                assert!(gaps.iter().max().unwrap() - gaps.iter().min().unwrap() <= 1, "{count} of {steps}: {ends:?}");
            }
        }
    }

    #[test]
    fn an_interval_counts_steps_and_leaves_the_last_out() {
        assert_eq!(due(PreviewTimes::Interval(5), 20), [5, 10, 15]);
        assert_eq!(due(PreviewTimes::Interval(6), 20), [6, 12, 18]);
        assert_eq!(due(PreviewTimes::Interval(1), 4), [1, 2, 3]);
        assert_eq!(due(PreviewTimes::Interval(0), 4), [1, 2, 3]);
        assert_eq!(due(PreviewTimes::Interval(20), 20), [0_usize; 0]);
    }
}
