//! Which steps to compute: a shortest path over the steps of a run.
//!
//! A forecast depends on the last computed steps, the *history*. So the nodes are histories, an edge computes the next
//! step, and its length is the predicted error of the steps that it skips. The path that is shortest for each number of
//! computed steps is found by dynamic programming: the idea of DPCache, <https://arxiv.org/abs/2602.22654>.

use super::forecast::LinearForecast;
use super::gram::Gram;
use crate::StepMask;

/// Computed steps that a forecast is a sum of, at most.
pub const MEMORY: usize = 3;
/// Most steps between two computed ones.
const MAX_SKIPPED: usize = 8;
/// Most steps of a run that plans are made for.
pub const MAX_PLANNED_STEPS: usize = 200;

/// One branch's residuals in one segment, and how much an error of theirs counts.
#[derive(Clone, Debug)]
pub struct Track {
    /// Over the steps of the run that is planned.
    pub gram: Gram,
    /// The square of the factor by which guidance takes the branch's velocity: `s` of the conditional one, `s - 1` of the
    /// other.
    pub weight: f64,
}

/// A run of which only some steps are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// The steps that are computed.
    pub mask: StepMask,
    /// The predicted error of the final latents, a sum of squares.
    pub error: f64,
}

/// The plans of a run.
#[derive(Debug)]
pub struct Planner {
    steps: usize,
    tracks: Vec<Track>,
    /// Each step's change of the noise level.
    dts: Vec<f64>,
    /// The predicted error of skipping one step after each history, two, and so on, by [`Planner::entry`].
    skipped: Vec<f64>,
}

/// The last computed steps, the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct History {
    steps: [usize; MEMORY],
    len: usize,
}

impl History {
    /// Of a run whose first two steps are computed.
    const START: History = History { steps: [1, 0, 0], len: 2 };

    fn newest(&self) -> usize {
        self.steps[0]
    }

    fn as_slice(&self) -> &[usize] {
        &self.steps[..self.len]
    }

    fn then(&self, step: usize) -> History {
        let [a, b, _] = self.steps;
        History { steps: [step, a, b], len: MEMORY.min(self.len + 1) }
    }

    /// Its place among those that end at the same step: by the gaps between its steps.
    fn place(&self) -> usize {
        let [a, b, c] = self.steps;
        let gap = |later: usize, earlier: usize| later - earlier - 1;
        let oldest = if self.len < MEMORY { MAX_SKIPPED + 1 } else { gap(b, c) };
        gap(a, b) * (MAX_SKIPPED + 2) + oldest
    }

    /// Its place among all.
    fn index(&self) -> usize {
        self.newest() * PLACES + self.place()
    }

    /// The one with this index.
    fn at(index: usize) -> History {
        let (newest, place) = (index / PLACES, index % PLACES);
        let (gap, oldest) = (place / (MAX_SKIPPED + 2), place % (MAX_SKIPPED + 2));
        let before = newest - gap - 1;
        match oldest > MAX_SKIPPED {
            true => History { steps: [newest, before, 0], len: MEMORY - 1 },
            false => History { steps: [newest, before, before - oldest - 1], len: MEMORY },
        }
    }
}

/// Every history of a run of so many steps, whose gaps are within bounds.
fn histories(steps: usize) -> impl Iterator<Item = History> {
    let before = |later: usize| (later.saturating_sub(MAX_SKIPPED + 1)..later).rev();
    let full = (2..steps).flat_map(move |a| {
        before(a).flat_map(move |b| before(b).map(move |c| History { steps: [a, b, c], len: MEMORY }))
    });
    std::iter::once(History::START).chain(full)
}

/// Places of histories that end at the same step.
const PLACES: usize = (MAX_SKIPPED + 1) * (MAX_SKIPPED + 2);

/// The shortest ways to all histories of so many computed steps, by [`History::index`].
struct Layer {
    /// Infinite where no way leads.
    errors: Vec<f64>,
    /// The place of the history before: all that is kept of a layer once the next is there.
    from: Vec<u8>,
}

impl Layer {
    fn unreached(steps: usize) -> Layer {
        Layer { errors: vec![f64::INFINITY; steps * PLACES], from: vec![0; steps * PLACES] }
    }

    fn reached(&self) -> impl Iterator<Item = (History, f64)> {
        let reached = self.errors.iter().enumerate().filter(|(_, error)| error.is_finite());
        reached.map(|(index, &error)| (History::at(index), error))
    }
}

impl Planner {
    /// Of a run over `sigmas`, the noise levels from the first step's to the last's end: one more than there are steps,
    /// which are 2 to [`MAX_PLANNED_STEPS`], as many as each track has.
    pub fn new(tracks: Vec<Track>, sigmas: &[f64]) -> Self {
        let dts: Vec<_> = sigmas.windows(2).map(|pair| pair[0] - pair[1]).collect();
        let steps = dts.len();
        let mut planner = Planner { steps, tracks, dts, skipped: vec![0.0; steps * PLACES * MAX_SKIPPED] };
        for history in histories(steps) {
            let skipped = planner.gap(&history, MAX_SKIPPED.min(steps - 1 - history.newest()));
            for (error, step) in skipped.into_iter().zip(history.newest() + 1..) {
                planner.skipped[Planner::entry(&history, step)] = error;
            }
        }
        planner
    }

    /// The best plan for each number of computed steps, from the fewest that a path is found with to all of them.
    pub fn plans(&self) -> Vec<StepPlan> {
        let mut layer = Layer::unreached(self.steps);
        layer.errors[History::START.index()] = 0.0;
        let (mut ways, mut plans) = (Vec::new(), Vec::new());
        for computed in 2..=self.steps {
            plans.extend(self.best(&layer, &ways));
            if computed < self.steps {
                let next = self.next_layer(&layer);
                ways.push(next.from.clone());
                layer = next;
            }
        }
        plans
    }

    /// The predicted error of a run with these computed steps, the first two among them.
    pub fn error(&self, mask: &StepMask) -> f64 {
        let mut history = History::START;
        let mut error = 0.0;
        for step in (2..self.steps).filter(|&step| mask.computes(step)).chain([self.steps]) {
            let skipped = step - history.newest() - 1;
            error += self.gap(&history, skipped).last().unwrap_or(&0.0);
            history = history.then(step);
        }
        error
    }

    /// For each track, the weights of step `step` after the newest of the computed steps before it, newest first.
    pub fn weights(&self, mask: &StepMask, step: usize) -> Vec<Vec<f64>> {
        let history: Vec<_> = (0..step).rev().filter(|&before| mask.computes(before)).take(MEMORY).collect();
        self.tracks.iter().map(|track| LinearForecast::new(&track.gram, &history, step).weights).collect()
    }

    /// One more step computed.
    fn next_layer(&self, layer: &Layer) -> Layer {
        let mut next = Layer::unreached(self.steps);
        for (history, so_far) in layer.reached() {
            for step in history.newest() + 1..self.steps.min(history.newest() + MAX_SKIPPED + 2) {
                let error = so_far + self.skipped_before(&history, step);
                let index = history.then(step).index();
                if error < next.errors[index] {
                    (next.errors[index], next.from[index]) = (error, history.place() as u8);
                }
            }
        }
        next
    }

    /// The best way of `layer` to the end of the run; `ways` lead to it from layer to layer.
    fn best(&self, layer: &Layer, ways: &[Vec<u8>]) -> Option<StepPlan> {
        let ends = layer.reached().filter(|(history, _)| self.steps - 1 - history.newest() <= MAX_SKIPPED);
        let whole = ends.map(|(history, error)| (history, error + self.skipped_before(&history, self.steps)));
        let (mut history, error) = whole.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let mut computed = vec![false; self.steps];
        (computed[0], computed[1]) = (true, true);
        for from in ways.iter().rev() {
            let [newest, before, _] = history.steps;
            computed[newest] = true;
            history = History::at(before * PLACES + usize::from(from[history.index()]));
        }
        Some(StepPlan { mask: StepMask::from_steps(computed), error })
    }

    /// Where the error of skipping `step` after `history` stands.
    fn entry(history: &History, step: usize) -> usize {
        history.index() * MAX_SKIPPED + step - history.newest() - 1
    }

    /// The predicted error of skipping what is between the newest of `history` and `step`.
    fn skipped_before(&self, history: &History, step: usize) -> f64 {
        match step - history.newest() {
            1 => 0.0,
            _ => self.skipped[Planner::entry(history, step - 1)],
        }
    }

    /// The predicted errors of skipping one step after `history`, two, and so on up to `most`.
    fn gap(&self, history: &History, most: usize) -> Vec<f64> {
        let skipped = (history.newest() + 1..).take(most);
        let errors = skipped.scan(0.0, |sum, step| {
            let forecast = |track: &Track| LinearForecast::new(&track.gram, history.as_slice(), step);
            let errors = self.tracks.iter().map(|track| track.weight * forecast(track).error);
            *sum += self.dts[step].powi(2) * errors.sum::<f64>();
            Some(*sum)
        });
        errors.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of residuals that wander: each step adds some of `turns`.
    fn gram(turns: &[[f64; 3]]) -> Gram {
        let mut residual = [1.0, 0.0, 0.0];
        let residuals: Vec<_> = turns
            .iter()
            .map(|turn| {
                residual = std::array::from_fn(|i| residual[i] + turn[i]);
                residual
            })
            .collect();
        let product = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let rows = (0..turns.len()).map(|i| {
            (0..=i).map(|j| product(&residuals[i], &residuals[j]) + if i == j { 1e-3 } else { 0.0 }).collect()
        });
        Gram::from_triangle(&rows.collect::<Vec<_>>()).unwrap()
    }

    fn planner(turns: &[[f64; 3]], guidance: f64) -> Planner {
        let sigmas: Vec<_> = (0..=turns.len()).map(|i| 1.0 - i as f64 / turns.len() as f64).collect();
        let reversed: Vec<_> = turns.iter().rev().copied().collect();
        let tracks = vec![
            Track { gram: gram(turns), weight: guidance.powi(2) },
            Track { gram: gram(&reversed), weight: (guidance - 1.0).powi(2) },
        ];
        Planner::new(tracks, &sigmas)
    }

    fn any_turns(steps: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<[f64; 3]>> {
        prop::collection::vec(prop::array::uniform3(-0.5..0.5_f64), steps)
    }

    fn count(mask: &StepMask, steps: usize) -> usize {
        (0..steps).filter(|&step| mask.computes(step)).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// No mask whatever is better than the plan of as many computed steps.
        #[test]
        fn plans_are_the_best_of_all_masks(turns in any_turns(3..=11), guidance in 1.0..5.0_f64) {
            let planner = planner(&turns, guidance);
            let steps = turns.len();
            let mut best = vec![f64::INFINITY; steps + 1];
            for bits in 0..1_u32 << (steps - 2) {
                let mask = StepMask::from_steps((0..steps).map(|step| step < 2 || bits >> (step - 2) & 1 == 1));
                // Runs of skipped steps are bounded.
                let skipped = mask.to_string().split('1').map(str::len).max().unwrap();
                if skipped <= MAX_SKIPPED {
                    let n = count(&mask, steps);
                    best[n] = best[n].min(planner.error(&mask));
                }
            }
            for plan in planner.plans() {
                let n = count(&plan.mask, steps);
                prop_assert!((plan.error - planner.error(&plan.mask)).abs() <= 1e-12 + 1e-9 * plan.error);
                prop_assert!((plan.error - best[n]).abs() <= 1e-12 + 1e-9 * best[n], "{n}: {} {}", plan.error, best[n]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// A plan for each number of computed steps down to the fewest, each better than the one before.
        #[test]
        fn there_is_a_plan_for_every_budget(turns in any_turns(2..=40)) {
            let planner = planner(&turns, 3.0);
            let steps = turns.len();
            let plans = planner.plans();
            let counts: Vec<_> = plans.iter().map(|plan| count(&plan.mask, steps)).collect();
            let fewest = 2 + (steps - 2) / (MAX_SKIPPED + 1);
            prop_assert_eq!(counts, (fewest..=steps).collect::<Vec<_>>());
            for plan in &plans {
                prop_assert!(plan.mask.computes(0) && plan.mask.computes(1) && plan.error.is_finite());
                let weights: Vec<_> = (2..steps).map(|step| planner.weights(&plan.mask, step)).collect();
                prop_assert!(weights.iter().flatten().flatten().all(|weight| weight.is_finite()));
            }
            prop_assert_eq!(plans[plans.len() - 1].error, 0.0, "nothing is skipped");
        }
    }
}
