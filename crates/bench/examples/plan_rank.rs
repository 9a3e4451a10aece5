//! Measures how well a plan's error is predicted. Over random plans, prints the rank correlation between several costs,
//! including the planner's, and the true error of the final latents, on pictures that were not used for fitting.
//!
//!     cargo run --release -p bench --example plan_rank -- [PLANS] [PICTURES] [STEPS] [MODEL]

use std::collections::VecDeque;

use cache::{Gram, Jump, JumpFit, MEMORY, Planner};
use candle_core::Tensor;
use diffusion::{Interrupt, Limits, Pipeline, PipelineError, RequestDraft};
use kernels::inner_products;
use latentd::Error;
use models::{AnyPipeline, RequestState, along_jump};
use omni::Omni;

/// Shares of the steps that the plans compute. Each share gets the same number of plans.
const SHARES: [f64; 4] = [0.464, 0.357, 0.286, 0.214];
/// Maximum number of skipped steps between two computed ones, as in the planner.
const MAX_SKIPPED: usize = 11;

/// A reference picture whose steps were all computed: its start, and its latents at every noise level.
struct Whole {
    start: RequestState,
    latents: Vec<Tensor>,
}

/// Measurements of the reference pictures.
struct Known {
    gram: Gram,
    sigmas: Vec<f64>,
    /// Growth of the squared error from each noise level to the end of the run.
    carried: Vec<f64>,
}

/// The costs that are compared.
const COSTS: [&str; 5] = [
    "squares of jumps (the planner's)",
    "lengths of jumps",
    "squares, carried to the end",
    "lengths, carried to the end",
    "steps computed",
];

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (plans, pictures, steps): (usize, usize, usize) = (number(200), number(4), number(28));
    let builder = Omni::builder();
    let builder = match arguments.next() {
        Some(model) => builder.model(model),
        None => builder,
    };
    let mut pipeline = builder.build()?.into_pipeline();
    let wholes = wholes(&mut pipeline, 2 * pictures, steps)?;
    let (fitted, judged) = wholes.split_at(pictures);
    let known = Known::measure(&mut pipeline, fitted)?;
    let carried: Vec<_> = known.carried.iter().map(|square| format!("{:.2}", square.sqrt())).collect();
    println!("what is missed at a level is so many times as large at the end: {}", carried.join(" "));
    let mut found: Vec<(usize, [f64; COSTS.len()], f64)> = Vec::new();
    let mut random = Random(1);
    for plan in 0..plans {
        let count = (SHARES[plan % SHARES.len()] * steps as f64).round() as usize;
        let computed = random.plan(steps, count.max(2));
        let error = missed(&mut pipeline, fitted, judged, &known.sigmas, &computed)?;
        found.push((computed.len(), known.costs(&computed), error));
        eprint!("\r{} of {plans} plans", plan + 1);
    }
    eprintln!();
    let mut counts: Vec<_> = found.iter().map(|plan| plan.0).collect();
    counts.sort_unstable();
    counts.dedup();
    println!(
        "| cost | all plans | {} |",
        counts.iter().map(|n| format!("{n} of {steps}")).collect::<Vec<_>>().join(" | ")
    );
    println!("|---|---|{}", "---|".repeat(counts.len()));
    for (i, name) in COSTS.iter().enumerate() {
        let rank = |of: Option<usize>| {
            let plans: Vec<_> = found.iter().filter(|plan| of.is_none_or(|count| plan.0 == count)).collect();
            spearman(&plans.iter().map(|plan| (plan.1[i], plan.2)).collect::<Vec<_>>())
        };
        let of_counts: Vec<_> = counts.iter().map(|&count| format!("{:.3}", rank(Some(count)))).collect();
        println!("| {name} | {:.3} | {} |", rank(None), of_counts.join(" | "));
    }
    Ok(())
}

fn wholes(pipeline: &mut AnyPipeline, count: usize, steps: usize) -> Result<Vec<Whole>, Error> {
    let mut wholes = Vec::new();
    for (prompt, seed) in demo::calibration_prompts().into_iter().cycle().take(count).zip(0..) {
        let num_inference_steps = Some(steps as i64);
        let draft = RequestDraft { prompt, num_inference_steps, seed: Some(seed), ..RequestDraft::default() };
        let requests = draft.build(pipeline.card(), &Limits::NONE, || 0)?;
        let start = pipeline.prepare(&requests[0], &Interrupt::default())?;
        let mut run = Whole { latents: vec![start.latents().clone()], start };
        let mut state = run.start.clone();
        for _ in 0..steps {
            pipeline.step(&mut [&mut state], &Interrupt::default())?;
            run.latents.push(state.latents().clone());
        }
        wholes.push(run);
    }
    Ok(wholes)
}

impl Known {
    fn measure(pipeline: &mut AnyPipeline, wholes: &[Whole]) -> Result<Known, Error> {
        let sigmas: Vec<_> = wholes[0].start.sigmas().as_slice().iter().copied().map(f64::from).collect();
        let mut gram: Option<Gram> = None;
        for whole in wholes {
            let known: Vec<_> = whole.latents.iter().collect();
            let rows: candle_core::Result<Vec<_>> =
                (0..known.len()).map(|i| inner_products(known[i], &known[..=i])).collect();
            let of_run = Gram::from_triangle(&rows.map_err(failed)?);
            match &mut gram {
                Some(sum) => sum.add(&of_run),
                None => gram = Some(of_run),
            }
        }
        let gram = gram.ok_or_else(|| Error::Flag("there must be a picture".into()))?;
        let known = Known { gram, sigmas, carried: Vec::new() };
        let carried = (2..known.sigmas.len()).map(|level| known.carried_from(pipeline, wholes, level));
        let mut carried: Vec<_> = carried.collect::<Result<_, _>>()?;
        // The first levels have no error, because a single step is exact.
        carried.splice(0..0, [carried[0]; 2]);
        Ok(Known { carried, ..known })
    }

    /// Continues the runs from `level` with the error of a jump over one step, and compares the squared errors at the
    /// end and at `level`.
    fn carried_from(&self, pipeline: &mut AnyPipeline, wholes: &[Whole], level: usize) -> Result<f64, Error> {
        let newest = level.saturating_sub(2);
        let history: Vec<_> = (0..MEMORY).filter_map(|i| newest.checked_sub(2 * i)).collect();
        let (jump, _) = self.jump(&history, level);
        let (mut before, mut after) = (0.0, 0.0);
        for whole in wholes {
            let velocity = |&step: &usize| {
                let dsigma = self.sigmas[step + 1] - self.sigmas[step];
                (&whole.latents[step + 1] - &whole.latents[step])? / dsigma
            };
            let start = &whole.latents[newest];
            let velocities: candle_core::Result<VecDeque<_>> = history.iter().map(velocity).collect();
            let velocity = along_jump(&jump, start, &velocities.map_err(failed)?).map_err(failed)?;
            let missing =
                (start + (velocity * (self.sigmas[level] - self.sigmas[newest])).map_err(failed)?).map_err(failed)?;
            before += square(&missing, &whole.latents[level])?;
            let mut state = whole.start.clone().resumed_at(level, missing);
            for _ in level..self.sigmas.len() - 1 {
                pipeline.step(&mut [&mut state], &Interrupt::default())?;
            }
            after += square(state.latents(), &whole.latents[self.sigmas.len() - 1])?;
        }
        Ok(after / before)
    }

    /// The best jump from the last computed steps (newest first) on the reference pictures, and its squared error.
    fn jump(&self, history: &[usize], end: usize) -> (Jump, f64) {
        let (newest, n) = (history[0], history.len());
        let dsigma = |from: usize, to: usize| self.sigmas[to] - self.sigmas[from];
        // Vector `i`: a velocity, then the latents (`None`), then the target. Velocities and target are displacements
        // between two noise levels, divided by the change of sigma.
        let way = |i: usize| match i {
            i if i < n => Some((history[i], history[i] + 1)),
            i if i == n => None,
            _ => Some((newest, end)),
        };
        let product = |i: usize, j: usize| match (way(i), way(j)) {
            (Some(a), Some(b)) => self.gram.of_ways(a, b) / dsigma(a.0, a.1) / dsigma(b.0, b.1),
            (Some(way), None) | (None, Some(way)) => self.gram.of_way(newest, way) / dsigma(way.0, way.1),
            (None, None) => self.gram.get(newest, newest),
        };
        let rows: Vec<Vec<f64>> = (0..n + 2).map(|i| (0..n + 2).map(|j| product(i, j)).collect()).collect();
        let mut fit = JumpFit::new(n);
        fit.add(&rows);
        let jump = fit.jump();
        let factors: Vec<_> = jump.velocities.iter().copied().chain([jump.latents, -1.0]).collect();
        let square: f64 = (0..n + 2)
            .flat_map(|i| (0..n + 2).map(move |j| (i, j)))
            .map(|(i, j)| factors[i] * factors[j] * rows[i][j])
            .sum();
        (jump, square.max(0.0) * dsigma(newest, end).powi(2))
    }

    fn costs(&self, computed: &[usize]) -> [f64; COSTS.len()] {
        let ends = computed.iter().skip(1).copied().chain([self.sigmas.len() - 1]);
        let jumps: Vec<_> = ends
            .enumerate()
            .map(|(i, end)| {
                let history: Vec<_> = computed[..=i].iter().rev().take(MEMORY).copied().collect();
                (self.jump(&history, end).1, self.carried[end])
            })
            .collect();
        let sum = |cost: fn(&(f64, f64)) -> f64| jumps.iter().map(cost).sum::<f64>();
        let planners = Planner::new(self.gram.clone(), &self.sigmas).error(computed);
        let squares = sum(|jump| jump.0);
        assert!((planners - squares).abs() <= 1e-6 * squares, "{planners} and {squares} are the same cost");
        [
            planners,
            sum(|jump| jump.0.sqrt()),
            sum(|jump| jump.0 * jump.1),
            sum(|jump| (jump.0 * jump.1).sqrt()),
            -(computed.len() as f64),
        ]
    }
}

/// Squared error of the final latents of the `judged` pictures, with jumps fitted on the `fitted` ones in order.
fn missed(
    pipeline: &mut AnyPipeline,
    fitted: &[Whole],
    judged: &[Whole],
    sigmas: &[f64],
    computed: &[usize],
) -> Result<f64, Error> {
    let wholes: Vec<_> = fitted.iter().chain(judged).collect();
    let mut states: Vec<_> = wholes.iter().map(|whole| whole.start.clone()).collect();
    let mut velocities: Vec<VecDeque<Tensor>> = vec![VecDeque::new(); wholes.len()];
    let ends = computed.iter().skip(1).copied().chain([sigmas.len() - 1]);
    for ((count, &step), end) in computed.iter().enumerate().zip(ends) {
        let before: Vec<_> = states.iter().map(|state| state.latents().clone()).collect();
        pipeline.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default())?;
        let mut fit = JumpFit::new(Jump::velocities_behind(count));
        for (i, whole) in wholes.iter().enumerate() {
            let found = ((states[i].latents() - &before[i]).map_err(failed)? / (sigmas[step + 1] - sigmas[step]))
                .map_err(failed)?;
            velocities[i].push_front(found);
            velocities[i].truncate(MEMORY);
            if i < fitted.len() {
                let way = ((&whole.latents[end] - &before[i]).map_err(failed)? / (sigmas[end] - sigmas[step]))
                    .map_err(failed)?;
                let vectors: Vec<_> = velocities[i].iter().chain([&before[i], &way]).collect();
                let rows: candle_core::Result<Vec<_>> =
                    vectors.iter().map(|vector| inner_products(vector, &vectors)).collect();
                fit.add(&rows.map_err(failed)?);
            }
        }
        let jump = fit.jump();
        for (i, state) in states.iter_mut().enumerate() {
            let velocity = along_jump(&jump, &before[i], &velocities[i]).map_err(failed)?;
            let latents = (&before[i] + (velocity * (sigmas[end] - sigmas[step])).map_err(failed)?).map_err(failed)?;
            *state = state.clone().resumed_at(end, latents);
        }
    }
    let judged = wholes.iter().zip(&states).skip(fitted.len());
    judged.map(|(whole, state)| square(state.latents(), &whole.latents[sigmas.len() - 1])).sum()
}

fn square(one: &Tensor, other: &Tensor) -> Result<f64, Error> {
    let difference = (one - other).map_err(failed)?;
    Ok(inner_products(&difference, &[&difference]).map_err(failed)?[0])
}

fn failed(err: candle_core::Error) -> Error {
    PipelineError::Model(err.to_string()).into()
}

/// Knuth's linear congruential generator. Only its upper bits are used, because the lower ones are poor.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// A random plan that computes `count` of `steps` steps, including the first, with gaps of at most [`MAX_SKIPPED`].
    fn plan(&mut self, steps: usize, count: usize) -> Vec<usize> {
        loop {
            let mut others: Vec<_> = (1..steps).collect();
            for i in 0..count - 1 {
                let j = i + self.below(others.len() - i);
                others.swap(i, j);
            }
            let mut computed = vec![0];
            computed.extend(&others[..count - 1]);
            computed.sort_unstable();
            let ends = computed.iter().skip(1).chain([&steps]);
            if computed.iter().zip(ends).all(|(from, to)| to - from - 1 <= MAX_SKIPPED) {
                return computed;
            }
        }
    }
}

/// Spearman's rank correlation. Equal values share their mean rank.
fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let ranks = |values: Vec<f64>| -> Vec<f64> {
        let rank = |value: &f64| {
            let below = values.iter().filter(|other| *other < value).count() as f64;
            let equal = values.iter().filter(|other| *other == value).count() as f64;
            below + (equal - 1.0) / 2.0
        };
        values.iter().map(rank).collect()
    };
    let (a, b) = (ranks(pairs.iter().map(|pair| pair.0).collect()), ranks(pairs.iter().map(|pair| pair.1).collect()));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}
