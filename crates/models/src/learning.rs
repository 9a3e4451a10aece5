//! Measurements of a full run, from which plans are fitted.

use std::fmt;
use std::sync::Arc;

use cache::{Calibration, Gram, Kind};
use candle_core::{DType, Result, Tensor};
use diffusion::{RgbImage, mean_square};

/// A callback that stores learnt plans.
pub type Keep = dyn Fn(&Calibration) + Send + Sync;

/// Called with newly learnt plans, on the worker's thread.
#[derive(Clone, Default)]
pub struct OnLearnt(pub Option<Arc<Keep>>);

impl fmt::Debug for OnLearnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnLearnt(..)" } else { "OnLearnt(nobody)" })
    }
}

/// A request that plans are learnt from, between two steps. A clone shares the tensors.
#[derive(Clone)]
pub(crate) struct LearningRun {
    kind: Kind,
    /// The latents before each step so far, and those after the last one.
    levels: Vec<Tensor>,
}

/// Slightly wrong final latents of a run, and their error.
pub(crate) struct Missed {
    pub(crate) latents: Tensor,
    /// Squared error, relative to the square of the last latents.
    pub(crate) share: f64,
}

impl LearningRun {
    /// Starts a run from these latents.
    pub(crate) fn new(kind: Kind, latents: Tensor) -> Self {
        LearningRun { kind, levels: vec![latents] }
    }

    /// Records the latents after the next step.
    pub(crate) fn push(&mut self, latents: Tensor) {
        self.levels.push(latents);
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the scalar products of the latents at any two levels.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn gram(&self) -> Result<Gram> {
        gram(&self.levels)
    }

    /// Returns the end of the run if its last steps were replaced by one long step. The error resembles that of a jump,
    /// and its size that of all jumps in a typical plan. Returns `None` if the latents do not move.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn missed(&self, gram: &Gram, sigmas: &[f64]) -> Result<Option<Missed>> {
        let last = self.levels.len() - 1;
        let stretch = |from: usize| (sigmas[last] - sigmas[from]) / (sigmas[from + 1] - sigmas[from]);
        let share = |from: usize| {
            let (short, step, stretch) = ((last, from), (from, from + 1), stretch(from));
            let square = gram.of_ways(short, short)
                + 2.0 * stretch * gram.of_ways(short, step)
                + stretch * stretch * gram.of_ways(step, step);
            square / gram.get(last, last)
        };
        let shares = (0..last.saturating_sub(1)).map(|from| (from, share(from)));
        let usable = shares.filter(|(_, share)| share.is_finite() && *share > 0.0);
        let nearest = usable.min_by(|a, b| (a.1 / TYPICAL).ln().abs().total_cmp(&(b.1 / TYPICAL).ln().abs()));
        let Some((from, share)) = nearest else { return Ok(None) };
        let step = (&self.levels[from + 1] - &self.levels[from])?;
        Ok(Some(Missed { latents: (&self.levels[from] + (step * stretch(from))?)?, share }))
    }
}

/// Typical relative squared error of the last latents with a plan that computes a third of the steps.
const TYPICAL: f64 = 1e-3;

/// Returns how strongly the picture reacts to the error of its latents: see
/// [`LearntRun::sensitivity`](cache::LearntRun::sensitivity).
pub(crate) fn sensitivity(picture: &RgbImage, other: &RgbImage, missed: &Missed) -> f64 {
    mean_square(picture, other) / missed.share
}

/// Returns the scalar products of latents at any two levels, summed in f64, with a single copy from the device.
///
/// # Errors
/// The latents have different shapes, or the device fails.
pub fn gram(levels: &[Tensor]) -> Result<Gram> {
    let rows = levels.iter().map(|latents| latents.to_dtype(DType::F64)?.flatten_all()?.unsqueeze(0));
    let rows = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
    let products = rows.matmul(&rows.t()?)?.flatten_all()?.to_vec1()?;
    Ok(Gram::from_products(levels.len(), products))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use diffusion::ImageSize;

    use super::*;

    fn run() -> LearningRun {
        let level = |i: usize| {
            let numbers: Vec<f32> = (0..6).map(|j| ((i * i) as f32 * 0.05 + (i * j) as f32 * 0.2).cos()).collect();
            Tensor::from_vec(numbers, (2, 3), &Device::Cpu).unwrap()
        };
        let mut run = LearningRun::new(Kind { guidance: Some(3.0), steps: 6, tokens: 2 }, level(0));
        (1..=6).for_each(|i| run.push(level(i)));
        run
    }

    fn square(a: &Tensor) -> f64 {
        f64::from(a.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap())
    }

    #[test]
    fn the_products_are_those_of_each_pair() {
        let run = run();
        let gram = run.gram().unwrap();
        for i in 0..=6 {
            for j in 0..=6 {
                let product = kernels::inner_products(&run.levels[i], &[&run.levels[j]]).unwrap()[0];
                assert!((gram.get(i, j) - product).abs() < 1e-12, "{i} {j}");
            }
        }
    }

    #[test]
    fn what_a_long_step_misses_is_told_by_the_products_alone() {
        let run = run();
        let sigmas = [1.0, 0.9, 0.7, 0.6, 0.4, 0.1, 0.0];
        let missed = run.missed(&run.gram().unwrap(), &sigmas).unwrap().unwrap();
        let last = &run.levels[6];
        let expected = square(&(&missed.latents - last).unwrap()) / square(last);
        assert!((missed.share - expected).abs() < 1e-5 * expected, "{} {expected}", missed.share);
        let still = LearningRun { levels: vec![last.clone(); 7], ..run };
        assert!(still.missed(&still.gram().unwrap(), &sigmas).unwrap().is_none());
    }

    #[test]
    fn a_picture_that_is_twice_as_far_off_is_four_times_as_sensitive() {
        let size = ImageSize { width: 2, height: 1 };
        let picture = |byte: u8| RgbImage { size, pixels: vec![byte; 6] };
        let missed = Missed { latents: run().levels[0].clone(), share: 1e-2 };
        let of = |byte| sensitivity(&picture(100), &picture(byte), &missed);
        assert_eq!((of(103), of(94)), (900.0, 3600.0));
    }
}
