//! Times of one kind of turn as a function of its work.
//!
//! A curve is measured before the first request. Every turn then corrects it near its own size. A machine that turns
//! out slower is assumed slower for works of that size and its neighbours, and a picture that takes a hundred times its
//! prediction says nothing about small ones.

use crate::curve::Curve;
use crate::mean::Mean;

/// Factor by which an observation counts less for works twice or half as large.
const DECAY: f64 = 16.0;

/// Weight of a measured point against one observation.
const MEASURED: f64 = 0.1;

/// Times of one kind of turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// The measured or assumed curve.
    base: Option<Curve>,
    /// The works at which `base` was measured.
    measured: Vec<f64>,
    /// Observations by size.
    sizes: Vec<Size>,
    /// `base` corrected by the observations.
    corrected: Option<Curve>,
}

/// Observations of works between a power of two and the next.
#[derive(Clone, Debug)]
struct Size {
    power: i32,
    /// Means of the works, and of the ratios of their seconds to those of `base`: both as logarithms to base 2.
    work: Mean,
    ratio: Mean,
}

/// Evidence at one work: the ratio of its seconds to the curve's, and the weight of that. `work` and `ratio` are
/// logarithms to base 2.
struct Evidence {
    work: f64,
    ratio: f64,
    weight: f64,
}

impl Times {
    /// Builds a nominal curve through assumed points of (work, seconds). The first observation corrects all of them.
    pub(crate) fn nominal(points: &[(f64, f64)]) -> Self {
        let base = Curve::through(points);
        Times { corrected: base.clone(), base, measured: Vec::new(), sizes: Vec::new() }
    }

    /// Replaces everything by measured points of (work, seconds). Without a usable point nothing changes.
    pub(crate) fn calibrate(&mut self, points: &[(f64, f64)]) {
        if let Some(base) = Curve::through(&undisturbed(points)) {
            let measured = points.iter().map(|point| point.0).collect();
            *self = Times { corrected: Some(base.clone()), base: Some(base), measured, sizes: Vec::new() };
        }
    }

    /// Records that a turn of this work took `seconds`.
    pub(crate) fn observe(&mut self, work: f64, seconds: f64) {
        let usable = |x: f64| x.is_finite() && x > 0.0;
        if !usable(work) || !usable(seconds) {
            return;
        }
        let base =
            self.base.get_or_insert_with(|| Curve::through(&[(work, seconds)]).expect("a point. This is a bug."));
        let (ratio, work) = ((seconds / base.seconds(work)).log2(), work.log2());
        let power = work.floor() as i32;
        let at = self.sizes.iter().position(|size| size.power == power).unwrap_or_else(|| {
            self.sizes.push(Size { power, work: Mean::default(), ratio: Mean::default() });
            self.sizes.len() - 1
        });
        self.sizes[at].work.observe(work);
        self.sizes[at].ratio.observe(ratio);
        self.corrected = self.as_observed();
    }

    /// The corrected curve; `None` if nothing is known.
    pub(crate) fn curve(&self) -> Option<&Curve> {
        self.corrected.as_ref()
    }

    /// Lower bound on the seconds of this work. It equals [`Times::curve`] at known works and falls with the distance
    /// to the nearest known work. It is 0 if nothing is known.
    pub(crate) fn at_least(&self, work: f64) -> f64 {
        let Some(curve) = self.curve() else { return 0.0 };
        let known = || self.measured.iter().copied().chain(self.sizes.iter().map(|size| size.work.or(0.0).exp2()));
        let smaller = known().filter(|known| *known <= work).max_by(f64::total_cmp);
        let larger = known().filter(|known| *known > work).min_by(f64::total_cmp);
        let of_known = |known: f64| curve.seconds(known) * growth_at_least(work / known);
        smaller.into_iter().chain(larger).map(of_known).fold(0.0, f64::max).min(curve.seconds(work))
    }

    fn as_observed(&self) -> Option<Curve> {
        let base = self.base.as_ref()?;
        let evidence = self.evidence();
        let corrected = |work: f64| (work, base.seconds(work) * correction(&evidence, work.log2()));
        let points: Vec<_> = knots(base.loads().chain(self.sizes.iter().map(|size| size.work.or(0.0).exp2())))
            .into_iter()
            .map(corrected)
            .collect();
        Curve::through(&points)
    }

    fn evidence(&self) -> Vec<Evidence> {
        let observed = |power: i32| self.sizes.iter().any(|size| size.power == power);
        let measured = self.measured.iter().map(|work| work.log2()).filter(|work| !observed(work.floor() as i32));
        let measured = measured.map(|work| Evidence { work, ratio: 0.0, weight: MEASURED });
        let observed = self.sizes.iter().map(|size| Evidence {
            work: size.work.or(0.0),
            ratio: size.ratio.or(0.0),
            weight: f64::from(size.ratio.n_observed()),
        });
        measured.chain(observed).collect()
    }
}

/// Lower bound on the growth in time for a work `times` as large. More work runs at a better rate, by an unknown
/// amount: more cores or tiles may be busy, and attention may be as fast as linear layers on one machine and several
/// times faster or slower on another. Less work does not run at a better rate.
fn growth_at_least(times: f64) -> f64 {
    if times > 1.0 { times.sqrt() } else { times }
}

/// Removes disturbances, which only lengthen a turn: a point that took longer than one of more work gets the time of
/// the latter.
fn undisturbed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut points: Vec<_> = points.iter().copied().filter(|point| point.0 > 0.0 && point.1 > 0.0).collect();
    points.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut least = f64::INFINITY;
    for (_, seconds) in &mut points {
        least = least.min(*seconds);
        *seconds = least;
    }
    points
}

/// Weighted mean of the evidence; nearer evidence counts more.
fn correction(evidence: &[Evidence], work: f64) -> f64 {
    let nearest = evidence.iter().map(|known| (known.work - work).abs()).fold(f64::INFINITY, f64::min);
    let (mut sum, mut weights) = (0.0, 0.0);
    for known in evidence {
        // Relative to the nearest, so that at no distance all weights vanish.
        let weight = known.weight * DECAY.powf(nearest - (known.work - work).abs());
        sum += weight * known.ratio;
        weights += weight;
    }
    if weights > 0.0 { (sum / weights).exp2() } else { 1.0 }
}

/// These works and the powers of two between them.
fn knots(works: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut works: Vec<f64> = works.filter(|&work| work > 0.0).collect();
    let least = works.iter().copied().fold(f64::INFINITY, f64::min).log2().ceil() as i32;
    let most = works.iter().copied().fold(0.0, f64::max).log2().floor() as i32;
    works.extend((least..=most).map(|power| f64::from(power).exp2()));
    works
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measured() -> Times {
        let mut times = Times::default();
        times.calibrate(&[(16.0, 1.0), (64.0, 1.0), (256.0, 4.0)]);
        times
    }

    fn seconds(times: &Times, work: f64) -> f64 {
        times.curve().unwrap().seconds(work)
    }

    #[test]
    fn a_slower_machine_is_slower_at_its_size_and_about_it() {
        let mut times = measured();
        (0..9).for_each(|_| times.observe(64.0, 2.0));
        assert!((seconds(&times, 64.0) - 2.0).abs() < 0.02, "{}", seconds(&times, 64.0));
        assert!(seconds(&times, 128.0) > 3.8, "a neighbour");
        let far = seconds(&times, 256.0);
        assert!((4.0..6.5).contains(&far), "measured, and not observed: {far}");
    }

    #[test]
    fn one_huge_work_says_nothing_of_small_ones() {
        let mut times = measured();
        // 135 times the prediction, again and again, before anything small was seen.
        (0..50).for_each(|_| times.observe(4096.0, 135.0 * 64.0));
        assert!((seconds(&times, 4096.0) / (135.0 * 64.0) - 1.0).abs() < 0.01);
        for (work, at_most) in [(16.0, 1.01), (64.0, 1.05), (128.0, 2.5)] {
            assert!(seconds(&times, work) <= at_most, "{work}: {}", seconds(&times, work));
        }
        assert!((seconds(&times, 8192.0) / (135.0 * 128.0) - 1.0).abs() < 0.01, "what is larger takes longer yet");
    }

    #[test]
    fn the_least_is_surer_the_nearer_it_is_to_what_is_known() {
        let mut times = measured();
        assert_eq!([64.0, 256.0].map(|work| times.at_least(work)), [1.0, 4.0], "measured");
        assert_eq!([1024.0, 256.0 * 256.0].map(|work| times.at_least(work)), [8.0, 64.0], "expected: 16 and 1024");
        assert_eq!(times.at_least(4.0), 0.25, "no better rate than of more work");
        times.observe(1024.0, 12.0);
        assert!((times.at_least(1024.0) / 12.0 - 1.0).abs() < 0.01, "seen");
        assert_eq!(Times::nominal(&[(1.0, 0.1)]).at_least(1.0), 0.0, "neither measured nor seen");
    }

    #[test]
    fn small_works_say_nothing_of_huge_ones_that_were_seen() {
        let mut times = measured();
        times.observe(4096.0, 135.0 * 64.0);
        (0..50).for_each(|_| times.observe(16.0, 0.5));
        assert!((seconds(&times, 4096.0) / (135.0 * 64.0) - 1.0).abs() < 0.01);
        assert!((seconds(&times, 16.0) - 0.5).abs() < 0.01);
    }

    #[test]
    fn the_first_observation_corrects_all_that_was_not_measured() {
        let mut times = Times::nominal(&[(1.0, 0.1), (4096.0, 0.2)]);
        times.observe(64.0, 0.5);
        let nominal = Times::nominal(&[(1.0, 0.1), (4096.0, 0.2)]);
        let ratio = |work| seconds(&times, work) / seconds(&nominal, work);
        assert!((ratio(1.0) - ratio(4096.0)).abs() < 1e-6 && ratio(1.0) > 4.0, "{} {}", ratio(1.0), ratio(4096.0));
        let mut times = Times::default();
        assert!(times.curve().is_none());
        times.observe(64.0, 0.5);
        assert!((seconds(&times, 128.0) - 1.0).abs() < 1e-9, "a straight line");
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let mut times = measured();
        for (work, took) in [(0.0, 1.0), (16.0, 0.0), (f64::NAN, 1.0), (16.0, f64::INFINITY)] {
            times.observe(work, took);
        }
        assert_eq!(seconds(&times, 16.0), 1.0);
    }

    #[test]
    fn a_measurement_that_was_disturbed_is_not_believed() {
        let mut times = Times::default();
        times.calibrate(&[(16.0, 9.0), (17.0, 1.0), (64.0, 4.0)]);
        assert!(seconds(&times, 16.0) <= 1.0);
    }

    proptest! {
        /// For any observations, more work never takes less time, and lower bounds are positive, monotone and below the
        /// prediction.
        #[test]
        fn times_are_monotone_and_finite(
            observed in prop::collection::vec((0.0..40.0_f64, -20.0..10.0_f64), 1..60),
            mut works in prop::collection::vec(0.0..45.0_f64, 2..20),
        ) {
            let mut times = measured();
            observed.iter().for_each(|(work, took)| times.observe(work.exp2(), took.exp2()));
            works.sort_by(f64::total_cmp);
            let seconds: Vec<_> = works.iter().map(|work| seconds(&times, work.exp2())).collect();
            prop_assert!(seconds.is_sorted_by(|a, b| *a <= b * (1.0 + 1e-9)), "{:?}", seconds);
            prop_assert!(seconds.iter().all(|s| s.is_finite() && *s > 0.0), "{:?}", seconds);
            let least: Vec<_> = works.iter().map(|work| times.at_least(work.exp2())).collect();
            prop_assert!(least.is_sorted_by(|a, b| *a <= b * (1.0 + 1e-9)), "{:?}", least);
            prop_assert!(least.iter().zip(&seconds).all(|(least, s)| *least > 0.0 && least <= s), "{:?}", least);
        }
    }
}
