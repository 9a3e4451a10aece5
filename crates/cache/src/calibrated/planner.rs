//! The planner: chooses the steps to compute by a shortest path over the steps of a run.
//!
//! A jump over skipped steps depends on the last computed steps, the *history*. So the nodes are histories, and an edge
//! leads to the next computed step. Its length is the squared error of the best jump, measured on runs that skip
//! nothing. Dynamic programming finds the shortest path for each number of computed steps, as in DPCache:
//! <https://arxiv.org/abs/2602.22654>.
//! <https://arxiv.org/abs/2602.22654>.

use super::gram::Gram;
use super::jump::{Jump, MEMORY};
use super::least_squares::LeastSquares;

/// Maximum number of skipped steps between two computed ones.
const MAX_SKIPPED: usize = 11;
/// Maximum number of steps of a run with a plan.
pub const MAX_PLANNED_STEPS: usize = 200;

/// The computed steps of a run, and the error of the jumps between them.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPath {
    /// The computed steps, ascending from 0.
    pub computed: Vec<usize>,
    /// Sum of the squared errors of the jumps, each measured separately.
    pub error: f64,
}

/// Finds the paths of a run.
#[derive(Clone, Debug)]
pub struct Planner {
    steps: usize,
    gram: Gram,
    /// The noise levels, from the start of the first step to the end of the last.
    sigmas: Vec<f64>,
    /// Error of the best jump after each history, by the step that it ends at, indexed by [`Planner::entry`]; NaN until
    /// computed.
    missed: Vec<f64>,
}

/// The last computed steps, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct History {
    steps: [usize; MEMORY],
    len: usize,
}

/// Marks a missing step in a [`History::place`].
const NONE: usize = MAX_SKIPPED + 1;
/// Number of places of histories that end at the same step.
const PLACES: usize = (MAX_SKIPPED + 2) * (MAX_SKIPPED + 2);

impl History {
    /// The history after the first step, which is always computed.
    const START: History = History { steps: [0; MEMORY], len: 1 };

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

    /// Index among the histories that end at the same step, from the gaps between its steps.
    fn place(&self) -> usize {
        let skipped = |i: usize| if i + 1 < self.len { self.steps[i] - self.steps[i + 1] - 1 } else { NONE };
        skipped(0) * (MAX_SKIPPED + 2) + skipped(1)
    }

    /// Index among all histories.
    fn index(&self) -> usize {
        self.newest() * PLACES + self.place()
    }

    /// The history with this index.
    fn at(index: usize) -> History {
        let (newest, place) = (index / PLACES, index % PLACES);
        let (first, second) = (place / (MAX_SKIPPED + 2), place % (MAX_SKIPPED + 2));
        match (first, second) {
            (NONE, _) => History { steps: [newest, 0, 0], len: 1 },
            (_, NONE) => History { steps: [newest, newest - first - 1, 0], len: 2 },
            _ => History { steps: [newest, newest - first - 1, newest - first - second - 2], len: 3 },
        }
    }
}

/// Shortest paths to all histories with a given number of computed steps, by [`History::index`].
struct Layer {
    /// Infinite if unreachable.
    errors: Vec<f64>,
    /// The place of the preceding history: all that is kept of a layer once the next is done.
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
    /// Creates a planner for runs over `sigmas`, the noise levels from the start of the first step to the end of the
    /// last. There is one more level than steps, which are 2 to [`MAX_PLANNED_STEPS`], and `gram` has as many levels.
    pub fn new(gram: Gram, sigmas: &[f64]) -> Self {
        let steps = sigmas.len() - 1;
        Planner { steps, gram, sigmas: sigmas.to_vec(), missed: vec![f64::NAN; steps * PLACES * (MAX_SKIPPED + 1)] }
    }

    /// Returns the best path for each number of computed steps, from the smallest that has one to all steps.
    pub fn paths(mut self) -> Vec<StepPath> {
        let mut layer = Layer::unreached(self.steps);
        layer.errors[History::START.index()] = 0.0;
        let (mut ways, mut paths) = (Vec::new(), Vec::new());
        for computed in 1..=self.steps {
            paths.extend(self.best(&layer, &ways));
            if computed < self.steps {
                let next = self.next_layer(&layer);
                ways.push(next.from.clone());
                layer = next;
            }
        }
        paths
    }

    /// Error of the jumps of a path.
    pub fn error(&mut self, computed: &[usize]) -> f64 {
        let (mut history, mut error) = (History::START, 0.0);
        for step in computed[1..].iter().copied().chain([self.steps]) {
            error += self.jump(&history, step);
            history = history.then(step);
        }
        error
    }

    /// Extends a layer by one computed step.
    fn next_layer(&mut self, layer: &Layer) -> Layer {
        let mut next = Layer::unreached(self.steps);
        for (history, so_far) in layer.reached() {
            for step in history.newest() + 1..self.steps.min(history.newest() + MAX_SKIPPED + 2) {
                let error = so_far + self.jump(&history, step);
                let index = history.then(step).index();
                if error < next.errors[index] {
                    (next.errors[index], next.from[index]) = (error, history.place() as u8);
                }
            }
        }
        next
    }

    /// The best path through `layer` to the end of the run; `ways` links the layers backwards.
    fn best(&mut self, layer: &Layer, ways: &[Vec<u8>]) -> Option<StepPath> {
        let ends = layer.reached().filter(|(history, _)| self.steps - 1 - history.newest() <= MAX_SKIPPED);
        let ends: Vec<_> = ends.collect();
        let whole = ends.into_iter().map(|(history, error)| (history, error + self.jump(&history, self.steps)));
        let (mut history, error) = whole.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let mut computed = vec![history.newest()];
        for from in ways.iter().rev() {
            let before = history.steps[1];
            history = History::at(before * PLACES + usize::from(from[history.index()]));
            computed.push(history.newest());
        }
        computed.reverse();
        Some(StepPath { computed, error })
    }

    /// Index of the jump after `history` to `end`.
    fn entry(history: &History, end: usize) -> usize {
        history.index() * (MAX_SKIPPED + 1) + end - history.newest() - 1
    }

    /// Error of the best jump after `history` to the level of step `end`.
    fn jump(&mut self, history: &History, end: usize) -> f64 {
        let entry = Planner::entry(history, end);
        if self.missed[entry].is_nan() {
            self.missed[entry] = self.best_jump(history, end).error;
        }
        self.missed[entry]
    }

    fn best_jump(&self, history: &History, end: usize) -> LeastSquares {
        WayProducts::new(&self.gram, &self.sigmas, history.as_slice(), end).best()
    }

    /// The jumps of a path, each fitted separately: none corrects the errors of those before it.
    pub fn jumps(&self, computed: &[usize]) -> Vec<Jump> {
        let best = |(history, end): (History, usize)| {
            // The weights of a jump are relative to the change of the noise level.
            let dsigma = self.sigmas[end] - self.sigmas[history.newest()];
            let mut velocities = self.best_jump(&history, end).weights;
            velocities.iter_mut().for_each(|weight| *weight /= dsigma);
            let latents = velocities.pop().expect("latents are the last term. This is a bug.");
            Jump { velocities, latents }
        };
        ways(computed, self.steps).map(best).collect()
    }
}

/// The history and the end of each jump of a path.
fn ways(computed: &[usize], steps: usize) -> impl Iterator<Item = (History, usize)> {
    let ends = computed.iter().skip(1).copied().chain([steps]);
    ends.scan(None, |last: &mut Option<(History, usize)>, end| {
        let history = last.map_or(History::START, |(history, from)| history.then(from));
        *last = Some((history, end));
        Some((history, end))
    })
}

/// Squared error of each jump of a path in one run.
pub(super) fn missed(gram: &Gram, sigmas: &[f64], computed: &[usize], jumps: &[Jump]) -> Vec<f64> {
    let of_jump = |((history, end), jump): ((History, usize), &Jump)| {
        let dsigma = sigmas[end] - sigmas[history.newest()];
        let weights: Vec<_> = jump.velocities.iter().chain([&jump.latents]).map(|weight| weight * dsigma).collect();
        WayProducts::new(gram, sigmas, history.as_slice(), end).missed(&weights)
    };
    ways(computed, sigmas.len() - 1).zip(jumps).map(of_jump).collect()
}

/// The scalar products that determine a jump: of its velocities, newest first, and its initial latents, with each other
/// and with the displacement to reproduce.
struct WayProducts {
    terms: usize,
    products: Vec<f64>,
    target: Vec<f64>,
    own: f64,
}

impl WayProducts {
    /// Computes the products for a jump after the computed steps `known`, newest first, to the level of step `end`.
    fn new(gram: &Gram, sigmas: &[f64], known: &[usize], end: usize) -> Self {
        let (n, newest) = (known.len(), known[0]);
        // A velocity is the displacement of an Euler step divided by the change of the noise level.
        let way = |i: usize| (known[i], known[i] + 1);
        let dsigma = |i: usize| sigmas[known[i] + 1] - sigmas[known[i]];
        let product = |i: usize, j: usize| match (i < n, j < n) {
            (true, true) => gram.of_ways(way(i), way(j)) / (dsigma(i) * dsigma(j)),
            (true, false) => gram.of_way(newest, way(i)) / dsigma(i),
            (false, true) => gram.of_way(newest, way(j)) / dsigma(j),
            (false, false) => gram.get(newest, newest),
        };
        let to_go = (newest, end);
        let of_velocities = (0..n).map(|i| gram.of_ways(way(i), to_go) / dsigma(i));
        WayProducts {
            terms: n + 1,
            products: (0..=n).flat_map(|i| (0..=n).map(move |j| (i, j))).map(|(i, j)| product(i, j)).collect(),
            target: of_velocities.chain([gram.of_way(newest, to_go)]).collect(),
            own: gram.of_ways(to_go, to_go),
        }
    }

    fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.terms + j]
    }

    fn best(&self) -> LeastSquares {
        LeastSquares::new(self.terms, |i, j| self.product(i, j), &self.target, self.own)
    }

    /// Squared error of the sum with these weights.
    fn missed(&self, weights: &[f64]) -> f64 {
        let fitted: f64 = weights.iter().zip(&self.target).map(|(weight, target)| weight * target).sum();
        let row = |i: usize| (0..weights.len()).map(|j| weights[i] * weights[j] * self.product(i, j)).sum::<f64>();
        (self.own - 2.0 * fitted + (0..weights.len()).map(row).sum::<f64>()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A planner over wandering latents: each step changes the displacement of the step before by its entry of `turns`.
    fn planner(turns: &[[f64; 3]]) -> Planner {
        let (mut way, mut latents) = ([0.3, 0.2, 0.1], vec![[1.0, -1.0, 0.5]]);
        for turn in turns {
            way = std::array::from_fn(|i| way[i] + turn[i]);
            let last = latents[latents.len() - 1];
            latents.push(std::array::from_fn(|i| last[i] + way[i]));
        }
        let product = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let own = |i: usize, j: usize| if i == j { 1e-3 } else { 0.0 };
        let rows = (0..latents.len()).map(|i| (0..=i).map(|j| product(&latents[i], &latents[j]) + own(i, j)).collect());
        let sigmas: Vec<_> = (0..latents.len()).map(|i| 1.0 - i as f64 / turns.len() as f64).collect();
        Planner::new(Gram::from_triangle(&rows.collect::<Vec<_>>()), &sigmas)
    }

    fn any_turns(steps: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<[f64; 3]>> {
        prop::collection::vec(prop::array::uniform3(-0.2..0.2_f64), steps)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// No set of steps is better than the path with the same number of steps.
        #[test]
        fn paths_are_the_best_of_all(turns in any_turns(3..=14)) {
            let steps = turns.len();
            let mut planner = planner(&turns);
            let mut best = vec![f64::INFINITY; steps + 1];
            for bits in 0..1_u32 << (steps - 1) {
                let computed: Vec<_> = (0..steps).filter(|&step| step == 0 || bits >> (step - 1) & 1 == 1).collect();
                let ends = computed.iter().skip(1).chain([&steps]);
                if computed.iter().zip(ends).all(|(from, to)| to - from - 1 <= MAX_SKIPPED) {
                    let n = computed.len();
                    best[n] = best[n].min(planner.error(&computed));
                }
            }
            for path in planner.paths() {
                let n = path.computed.len();
                prop_assert!((path.error - best[n]).abs() <= 1e-12 + 1e-9 * best[n], "{n}: {} {}", path.error, best[n]);
            }
        }
    }

    #[test]
    fn the_jumps_of_a_path_miss_what_it_says() {
        let turns: Vec<_> = (0..12).map(|i| [0.1, -0.05, 0.02 * f64::from(i % 3)]).collect();
        let mut planner = planner(&turns);
        let computed = [0, 1, 4, 6, 9];
        let jumps = planner.jumps(&computed);
        assert_eq!(jumps.iter().map(|jump| jump.velocities.len()).collect::<Vec<_>>(), [1, 2, 3, 3, 3]);
        let by_best: f64 = missed(&planner.gram, &planner.sigmas, &computed, &jumps).iter().sum();
        let expected = planner.error(&computed);
        assert!(expected > 1e-9 && (by_best - expected).abs() < 1e-9 * expected, "{by_best} {expected}");
        let euler = vec![Jump::euler(); computed.len()];
        let by_euler: f64 = missed(&planner.gram, &planner.sigmas, &computed, &euler).iter().sum();
        assert!(by_euler > 2.0 * expected, "{by_euler} {expected}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// There is a path for each number of computed steps down to the minimum, each starting with the first step.
        #[test]
        fn there_is_a_path_of_every_length(turns in any_turns(2..=40)) {
            let steps = turns.len();
            let paths = planner(&turns).paths();
            let counts: Vec<_> = paths.iter().map(|path| path.computed.len()).collect();
            let fewest = steps.div_ceil(MAX_SKIPPED + 1);
            prop_assert_eq!(counts, (fewest..=steps).collect::<Vec<_>>());
            for path in &paths {
                prop_assert!(path.computed[0] == 0 && path.error.is_finite());
                prop_assert!(path.computed.windows(2).all(|pair| pair[0] < pair[1]));
                let mut again = planner(&turns);
                prop_assert!((again.error(&path.computed) - path.error).abs() <= 1e-12 + 1e-9 * path.error);
            }
            prop_assert_eq!(&paths[paths.len() - 1].computed, &(0..steps).collect::<Vec<_>>());
        }
    }
}
