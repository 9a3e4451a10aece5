//! Figures of single pictures, and their summary in one line of a table. All functions here are pure.

use diffusion::StepReport;
use serde::Serialize;

use crate::median::median;

/// Upper bound of a picture's PSNR in a mean, in dB. At this PSNR one byte in fifteen is off by one, which nobody sees.
/// A picture identical to the uncached one has an infinite PSNR, and the mean would be infinite without this bound.
const CEILING_DB: f64 = 60.0;

/// A picture, compared with the uncached one of its prompt and step count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PictureScore {
    /// Time of all its steps.
    pub(super) denoise_ms: f64,
    /// Speedup of its steps over those of the uncached picture in the same round.
    pub(super) speedup: f64,
    /// PSNR in dB; `null` for a picture identical to the uncached one.
    pub(super) psnr: Option<f64>,
    pub(super) ssim: f64,
    /// 0 for a picture identical to the uncached one.
    pub(super) gmsd: f64,
    /// Share of the uncached picture's (pass, step) pairs whose middle blocks ran.
    pub(super) computed: f64,
    /// Decisions of each pass in each list of blocks; empty without a cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) runs: Vec<Run>,
}

/// The decisions of one branch in one segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    pub(super) branch: &'static str,
    pub(super) segment: &'static str,
    /// One character per step: `1` computed, `C` reused.
    pub(super) decisions: String,
    /// Residual diff of each step; `null` if none was measured or it is not finite.
    pub(super) diffs: Vec<Option<f32>>,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    /// Mean share of computed (pass, step) pairs.
    pub(super) computed: f64,
    /// Median speedup.
    pub(super) speedup: f64,
    /// Mean PSNR, each picture at 60 dB at most; `null` if all are identical.
    pub(super) psnr: Option<f64>,
    /// `null` if all are identical.
    pub(super) psnr_worst: Option<f64>,
    /// Mean SSIM.
    pub(super) ssim: f64,
    pub(super) ssim_worst: f64,
    /// Mean GMSD.
    pub(super) gmsd: f64,
    pub(super) gmsd_worst: f64,
}

/// Best PSNR of uncached pictures with at most a given share of the steps. That share of the steps is also their share
/// of the time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FewerSteps(Vec<(f64, f64)>);

/// The decisions of every branch and segment of a picture.
pub(super) fn runs(steps: &[StepReport]) -> Vec<Run> {
    let Some(first) = steps.first() else { return Vec::new() };
    let run = |(i, run): (usize, &diffusion::BlockRun)| {
        let of_step = steps.iter().filter_map(|step| step.runs.get(i));
        Run {
            branch: run.branch.name(),
            segment: run.segment,
            decisions: of_step.clone().map(|run| if run.reused { 'C' } else { '1' }).collect(),
            diffs: of_step.map(|run| run.residual_diff.filter(|diff| diff.is_finite())).collect(),
        }
    };
    first.runs.iter().enumerate().map(run).collect()
}

/// The share of (pass, segment, step) triples whose middle blocks ran.
pub(super) fn computed(steps: &[StepReport]) -> f64 {
    let runs = || steps.iter().flat_map(|step| &step.runs);
    runs().filter(|run| !run.reused).count() as f64 / runs().count() as f64
}

/// Summarizes the pictures of one configuration.
pub(super) fn summarize(pictures: &[PictureScore]) -> Summary {
    let mean = |value: fn(&PictureScore) -> f64| pictures.iter().map(value).sum::<f64>() / pictures.len() as f64;
    let differs = pictures.iter().any(|picture| picture.psnr.is_some());
    let worst = |value: fn(&PictureScore) -> f64| pictures.iter().map(value).fold(f64::INFINITY, f64::min);
    Summary {
        computed: mean(|picture| picture.computed),
        speedup: median(pictures.iter().map(|picture| picture.speedup)),
        psnr: differs.then(|| mean(|picture| decibels(picture).min(CEILING_DB))),
        psnr_worst: differs.then(|| worst(decibels)),
        ssim: mean(|picture| picture.ssim),
        ssim_worst: worst(|picture| picture.ssim),
        gmsd: mean(|picture| picture.gmsd),
        gmsd_worst: -worst(|picture| -picture.gmsd),
    }
}

fn decibels(picture: &PictureScore) -> f64 {
    picture.psnr.unwrap_or(f64::INFINITY)
}

/// The smaller step counts that an uncached run of `steps` is compared with: tenths, denser where quality falls
/// fastest, and `steps - 1`.
pub(super) fn fewer_steps(steps: usize) -> Vec<usize> {
    let shares = [0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
    let counts = shares.map(|share| (share * steps as f64).round() as usize);
    let mut counts: Vec<_> = counts.into_iter().chain([steps - 1]).filter(|count| (1..steps).contains(count)).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

impl FewerSteps {
    /// The line through the step counts.
    pub(super) fn new(counts: &[Summary]) -> Self {
        let mut line: Vec<_> = counts.iter().filter_map(|count| Some((count.computed, count.psnr?))).collect();
        line.sort_by(|one, other| one.0.total_cmp(&other.0).then(other.1.total_cmp(&one.1)));
        let mut best = f64::NEG_INFINITY;
        line.retain(|&(_, psnr)| {
            let is_better = psnr > best;
            best = best.max(psnr);
            is_better
        });
        FewerSteps(line)
    }

    /// The PSNR at `share`, interpolated between the two neighbouring counts; `None` outside all counts.
    ///
    /// The interpolation is linear in the logarithm of the share, because Euler's error falls with a power of the step
    /// count.
    pub(super) fn at(&self, share: f64) -> Option<f64> {
        let after = self.0.iter().position(|&(x, _)| x >= share)?;
        let (x1, y1) = self.0[after];
        if x1 == share {
            return Some(y1);
        }
        let (x0, y0) = *self.0.get(after.checked_sub(1)?)?;
        Some(y0 + (y1 - y0) * (share / x0).ln() / (x1 / x0).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::testing::steps;

    fn picture(computed: f64, speedup: f64, psnr: Option<f64>, ssim: f64) -> PictureScore {
        PictureScore { denoise_ms: 100.0, speedup, psnr, ssim, gmsd: 1.0 - ssim, computed, runs: Vec::new() }
    }

    #[test]
    fn a_picture_is_the_sum_of_its_steps() {
        let mut steps = steps("WWssd", "WWsdL");
        assert_eq!(computed(&steps), 0.7);
        steps[4].runs[0].residual_diff = Some(f32::NAN);
        let runs = runs(&steps);
        assert_eq!([&runs[0].decisions, &runs[1].decisions], ["11CC1", "11C11"]);
        assert_eq!((runs[0].branch, runs[1].branch), ("cond", "uncond"));
        assert_eq!(runs[0].diffs, [None, None, Some(0.1), Some(0.1), None]);
    }

    #[test]
    fn a_line_is_means_a_median_and_the_worst() {
        let pictures =
            [picture(0.5, 1.5, Some(70.0), 0.9), picture(0.7, 9.0, Some(30.0), 0.8), picture(0.6, 1.6, None, 1.0)];
        let summary = summarize(&pictures);
        assert!((summary.computed - 0.6).abs() < 1e-12 && (summary.ssim - 0.9).abs() < 1e-12);
        assert_eq!((summary.speedup, summary.ssim_worst), (1.6, 0.8));
        assert!((summary.gmsd - 0.1).abs() < 1e-12 && (summary.gmsd_worst - 0.2).abs() < 1e-12);
        assert_eq!((summary.psnr, summary.psnr_worst), (Some((60.0 + 30.0 + 60.0) / 3.0), Some(30.0)));
        let identical = summarize(&[picture(1.0, 1.0, None, 1.0)]);
        assert_eq!((identical.psnr, identical.psnr_worst), (None, None));
    }

    #[test]
    fn smaller_counts_span_the_range() {
        assert_eq!(fewer_steps(20), [2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 19]);
        assert_eq!(fewer_steps(4), [1, 2, 3]);
        assert_eq!(fewer_steps(1), [0; 0]);
    }

    #[test]
    fn between_two_counts_the_line_is_straight_in_the_logarithm() {
        let count = |computed, psnr| summarize(&[picture(computed, 1.0, Some(psnr), 1.0)]);
        let line = FewerSteps::new(&[count(0.8, 50.0), count(0.2, 30.0)]);
        assert_eq!(line.0, [(0.2, 30.0), (0.8, 50.0)]);
        assert_eq!((line.at(0.2), line.at(0.8)), (Some(30.0), Some(50.0)));
        assert!((line.at(0.4).unwrap() - 40.0).abs() < 1e-9, "half of two doublings");
        assert_eq!((line.at(0.19), line.at(0.81)), (None, None));
        // For equal steps the best counts, and a point worse than one with fewer steps is dropped.
        let line = FewerSteps::new(&[count(0.2, 25.0), count(0.2, 30.0), count(0.3, 29.0), count(0.8, 50.0)]);
        assert_eq!(line.0, [(0.2, 30.0), (0.8, 50.0)]);
    }
}
