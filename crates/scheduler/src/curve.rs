//! The time of a turn as a function of its load.

/// The share of the best throughput that counts as saturation.
const SATURATED: f64 = 0.9;

/// Seconds of a turn as a function of its load in floating point operations: monotone and piecewise linear.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// (load, seconds), both ascending; the first load is 0.
    points: Vec<(f64, f64)>,
    /// Minimum seconds per unit of load, over each point and all points of larger load.
    best: Vec<f64>,
    /// The load beyond which more load no longer pays.
    budget: f64,
    /// Seconds per unit of load in a turn of at least the budget. Cached, because it is read many times for each job in
    /// hand.
    full: f64,
}

impl Curve {
    /// Builds a curve through measured points, in any order; `None` without a point of positive load and time. A point
    /// that took less time than one of lower load gets the time of the latter.
    pub(crate) fn through(measured: &[(f64, f64)]) -> Option<Curve> {
        let mut points: Vec<_> =
            measured.iter().copied().filter(|&(load, seconds)| load > 0.0 && seconds > 0.0).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|next, kept| {
            kept.1 = if next.0 == kept.0 { kept.1.min(next.1) } else { kept.1 };
            next.0 == kept.0
        });
        let mut longest = 0.0_f64;
        for (_, seconds) in &mut points {
            longest = longest.max(*seconds);
            *seconds = longest;
        }
        if points.is_empty() {
            return None;
        }
        points.insert(0, (0.0, fixed_part(&points)));
        let best = best(&points);
        let budget = budget(&points, best[0] / SATURATED);
        let mut curve = Curve { points, best, budget, full: 0.0 };
        curve.full = curve.best_seconds_per_load(budget);
        Some(curve)
    }

    /// Seconds of a turn with this load. Beyond the last point the rate stays constant: nothing shows that more load
    /// would pay.
    pub(crate) fn seconds(&self, load: f64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= load);
        let (from, from_seconds) = self.points[after.max(1) - 1];
        match self.points.get(after) {
            Some(&(to, to_seconds)) => from_seconds + (to_seconds - from_seconds) * (load - from) / (to - from),
            None => from_seconds * load / from,
        }
    }

    /// The smallest load whose throughput reaches [`SATURATED`] of the best.
    pub(crate) fn budget(&self) -> f64 {
        self.budget
    }

    /// Seconds per unit of load in a full turn, of [`Curve::budget`] or more.
    pub(crate) fn full_seconds_per_load(&self) -> f64 {
        self.full
    }

    /// Minimum seconds per unit of load over turns of this load or more: the best rate that a batch can reach.
    pub(crate) fn best_seconds_per_load(&self, load: f64) -> f64 {
        let after = self.points.partition_point(|point| point.0 <= load);
        let own = if load > 0.0 { self.seconds(load) / load } else { f64::INFINITY };
        self.best.get(after).map_or(own, |best| best.min(own))
    }

    /// The loads of the curve's points.
    pub(crate) fn loads(&self) -> impl Iterator<Item = f64> {
        self.points.iter().map(|point| point.0)
    }
}

/// Minimum seconds per unit of load, over each point and those after it. No load between two points does better.
fn best(points: &[(f64, f64)]) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; points.len()];
    let mut least = f64::INFINITY;
    for (best, (load, seconds)) in best.iter_mut().zip(points).rev() {
        if *load > 0.0 {
            least = least.min(seconds / load);
        }
        *best = least;
    }
    best
}

/// The smallest load at which a unit of load takes at most `enough` seconds. Between two points the line
/// `fixed + slope * load` reaches that rate at `fixed / (enough - slope)`.
fn budget(points: &[(f64, f64)], enough: f64) -> f64 {
    let reached = |pair: &[(f64, f64)]| {
        let ((from, from_seconds), (to, to_seconds)) = (pair[0], pair[1]);
        let slope = (to_seconds - from_seconds) / (to - from);
        (to_seconds <= enough * to).then(|| ((from_seconds - slope * from) / (enough - slope)).clamp(from, to))
    };
    points.windows(2).find_map(reached).expect("the best point is enough. This is a bug.")
}

/// Intercept of the line through the first two points: the time of a step without load.
fn fixed_part(points: &[(f64, f64)]) -> f64 {
    match points {
        [(load, seconds), (next_load, next_seconds), ..] => {
            let slope = (next_seconds - seconds) / (next_load - load);
            (seconds - slope * load).clamp(0.0, *seconds)
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn between_two_points_lies_a_line_and_before_them_its_beginning() {
        let curve = Curve::through(&[(100.0, 2.0), (300.0, 4.0)]).unwrap();
        let seconds = [0.0, 50.0, 100.0, 200.0, 300.0].map(|load| curve.seconds(load));
        assert_eq!(seconds, [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(curve.seconds(600.0), 8.0, "beyond the last point the rate stays");
    }

    #[test]
    fn one_point_makes_a_straight_line_and_none_no_curve() {
        let curve = Curve::through(&[(100.0, 2.0)]).unwrap();
        assert_eq!([0.0, 50.0, 200.0].map(|load| curve.seconds(load)), [0.0, 1.0, 4.0]);
        assert_eq!(Curve::through(&[]), None);
        assert_eq!(Curve::through(&[(0.0, 1.0), (5.0, 0.0)]), None);
    }

    #[test]
    fn company_is_of_more_load_never_of_less() {
        // The best rate is at 20; larger loads cannot reach it.
        let curve = Curve::through(&[(10.0, 1.0), (20.0, 1.0), (40.0, 9.0)]).unwrap();
        let best = [5.0, 20.0, 40.0, 80.0].map(|load| curve.best_seconds_per_load(load));
        assert_eq!(best, [0.05, 0.05, 0.225, 0.225]);
        assert_eq!(curve.best_seconds_per_load(0.0), 0.05);
        assert_eq!(curve.full_seconds_per_load(), curve.best_seconds_per_load(curve.budget()));
    }

    #[test]
    fn the_budget_is_where_throughput_is_nine_tenths_of_the_best() {
        let budget = |points: &[(f64, f64)]| Curve::through(points).unwrap().budget();
        // 1 + load / 100: a load of 900 reaches nine tenths of what an endless one would.
        let soft = budget(&[(100.0, 2.0), (1e9, 1.0 + 1e7)]);
        assert!((soft - 900.0).abs() < 0.01, "{soft}");
        // Constant time up to 64.
        assert!((budget(&[(16.0, 1.0), (64.0, 1.0), (128.0, 2.0)]) - 57.6).abs() < 1e-9);
        assert_eq!(budget(&[(16.0, 1.0), (64.0, 4.0)]), 0.0, "nothing gained by company");
        // Throughput that falls again: nine tenths of its maximum.
        assert!((budget(&[(10.0, 1.0), (20.0, 1.0), (40.0, 9.0)]) - 18.0).abs() < 1e-9);
    }

    proptest! {
        /// More load never takes less time, and never less than the best rate allows.
        #[test]
        fn a_curve_is_monotone(
            measured in prop::collection::vec((1.0..1e4_f64, 1e-4..10.0_f64), 1..8),
            mut loads in prop::collection::vec(0.0..4e4_f64, 2..20),
        ) {
            let curve = Curve::through(&measured).unwrap();
            loads.sort_by(f64::total_cmp);
            let seconds: Vec<_> = loads.iter().map(|&load| curve.seconds(load)).collect();
            prop_assert!(seconds.is_sorted_by(|a, b| *a <= b * (1.0 + 1e-12)), "{:?}", seconds);
            prop_assert!(seconds.iter().all(|s| s.is_finite() && *s >= 0.0));
        }
    }
}
