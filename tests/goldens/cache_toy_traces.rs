//! Whole cached runs of a toy transformer in closed form: decisions, diffs and outputs of every step are compared with
//! cache-dit's. The blocks are a line of arithmetic, so only the cache is tested.

use std::collections::VecDeque;

use cache::{CacheConfig, CacheType, Reason, RequestCache, RowObservation, Segment, StepCache, StepRecord, Stream};
use serde::Deserialize;

use crate::compare::goldens;

/// Tolerance: of an output relative to its largest value; of a diff, which is relative itself, absolute up to 1.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Traces {
    blocks: Blocks,
    /// Direction in which the image stream is driven, and the text stream.
    base: Vec<f32>,
    ebase: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Blocks {
    count: usize,
    alpha: f32,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    amp: String,
    separate_cfg: bool,
    config: serde_json::Value,
    mask: Option<String>,
    decisions: String,
    decisions_cfg: Option<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    step: usize,
    branch: usize,
    diff: Option<f64>,
    h: Vec<f32>,
    e: Vec<f32>,
}

/// A branch's state in the model: the streams between the blocks, and the stored values.
#[derive(Default)]
struct BranchState {
    hidden: Vec<f32>,
    encoder: Vec<f32>,
    first_residual: Vec<f32>,
    previous_first_residual: Vec<f32>,
    stored_hidden: VecDeque<Vec<f32>>,
    stored_encoder: VecDeque<Vec<f32>>,
}

/// The drives of a branch's two streams in a step.
struct Drive {
    hidden: Vec<f32>,
    encoder: Vec<f32>,
}

/// The largest errors so far.
#[derive(Default)]
struct Worst {
    diff: f64,
    output: f64,
}

#[test]
fn toy_runs_are_the_librarys() {
    let traces = std::fs::read(goldens().join("cache/toy_traces.json")).unwrap();
    let traces: Traces = serde_json::from_slice(&traces).unwrap();
    assert!(!traces.cases.is_empty());
    let mut worst = Worst::default();
    for case in &traces.cases {
        let of_case = play(&traces, case);
        let Worst { diff, output } = of_case;
        assert!(diff <= TOLERANCE, "{}: a diff's error {diff:.1e} is over {TOLERANCE:.0e}", case.name);
        assert!(output <= TOLERANCE, "{}: an output's error {output:.1e} is over {TOLERANCE:.0e}", case.name);
        worst = Worst { diff: worst.diff.max(diff), output: worst.output.max(output) };
    }
    let Worst { diff, output } = worst;
    println!("{} cases: diffs {diff:.1e}, outputs {output:.1e}, at most {TOLERANCE:.0e}", traces.cases.len());
}

/// Plays one case; decisions must be equal.
fn play(traces: &Traces, case: &Case) -> Worst {
    let branches = if case.separate_cfg { 2 } else { 1 };
    let config = config(case, branches);
    let steps = config.num_inference_steps.unwrap();
    let made = config.steps_computation_mask.as_ref().map(|source| source.mask(steps).unwrap().to_string());
    assert_eq!(made, case.mask, "{}: mask", case.name);

    let segment = Segment { name: "transformer_blocks", num_blocks: traces.blocks.count };
    let (mut cache, _) = RequestCache::new(&config, steps, &[segment], branches);
    let mut states: Vec<BranchState> = (0..branches).map(|_| BranchState::default()).collect();
    let mut worst = Worst::default();
    for step in 0..steps {
        let drives: Vec<_> = (0..branches).map(|branch| drive(traces, case, step, steps, branch)).collect();
        let records = denoise_step(&traces.blocks, &mut cache, &mut states, &drives, step);
        for (branch, (record, state)) in records.iter().zip(&states).enumerate() {
            let row = case.rows.iter().find(|row| (row.step, row.branch) == (step, branch)).unwrap();
            let what = format!("{} step {step} branch {branch}", case.name);
            worst.diff = worst.diff.max(diff_error(&what, record, row.diff));
            worst.output = worst.output.max(error(&state.hidden, &row.h)).max(error(&state.encoder, &row.e));
        }
    }
    let decisions: Vec<_> = cache.stats().runs().iter().map(|run| run.decisions()).collect();
    let theirs: Vec<_> = [Some(&case.decisions), case.decisions_cfg.as_ref()].into_iter().flatten().collect();
    assert_eq!(decisions.iter().collect::<Vec<_>>(), theirs, "{}", case.name);
    worst
}

/// Parses the case's configuration. The library counts one call per branch towards a refresh, we count denoising steps.
fn config(case: &Case, branches: usize) -> CacheConfig {
    let mut config: CacheConfig = serde_json::from_value(case.config.clone()).unwrap();
    config.force_refresh_step_hint = config.force_refresh_step_hint.map(|calls| calls / branches);
    config
}

/// Takes one step of all branches, as a model would.
fn denoise_step(
    blocks: &Blocks,
    cache: &mut RequestCache,
    states: &mut [BranchState],
    drives: &[Drive],
    step: usize,
) -> Vec<StepRecord> {
    let (first, last) = (cache.config().fn_compute_blocks, blocks.count - cache.config().bn_compute_blocks);
    for (state, drive) in states.iter_mut().zip(drives) {
        let input = vec![0.1 * step as f32; drive.hidden.len()];
        state.hidden.clone_from(&input);
        state.encoder = vec![-0.1 * step as f32; drive.encoder.len()];
        state.run(blocks, 0..first, drive);
        state.first_residual = minus(&state.hidden, &input);
    }
    let tokens: Vec<_> = states.iter().map(|state| state.hidden.len()).collect();
    let rows: Vec<_> = cache
        .needs_diff(0, &tokens)
        .iter()
        .zip(states.iter())
        .map(|(&needed, state)| RowObservation {
            tokens: state.hidden.len(),
            residual_diff: needed.then(|| residual_diff(&state.previous_first_residual, &state.first_residual)),
        })
        .collect();
    let records = cache.decide(0, &rows);
    let config = cache.config();
    for (branch, (state, drive)) in states.iter_mut().zip(drives).enumerate() {
        let cache = cache.branch(0, branch);
        if records[branch].decision.reused() {
            state.forecast(config, cache);
        } else {
            let (hidden, encoder) = (state.hidden.clone(), state.encoder.clone());
            state.run(blocks, first..last, drive);
            state.store(config, cache, &hidden, &encoder);
        }
        state.run(blocks, last..blocks.count, drive);
    }
    records
}

impl BranchState {
    /// Computes `x + scale drive + alpha x` block by block, with a scale for each stream.
    fn run(&mut self, blocks: &Blocks, range: std::ops::Range<usize>, drive: &Drive) {
        let advance = |x: &mut Vec<f32>, scale: f64, drive: &[f32]| {
            x.iter_mut().zip(drive).for_each(|(x, drive)| *x = *x + scale as f32 * drive + blocks.alpha * *x);
        };
        for block in range {
            advance(&mut self.hidden, 0.5 + 0.1 * block as f64, &drive.hidden);
            advance(&mut self.encoder, 0.3 + 0.05 * block as f64, &drive.encoder);
        }
    }

    fn store(&mut self, config: &CacheConfig, cache: &StepCache, hidden_before: &[f32], encoder_before: &[f32]) {
        self.previous_first_residual.clone_from(&self.first_residual);
        let streams = [
            (Stream::Hidden, &self.hidden, hidden_before, &mut self.stored_hidden),
            (Stream::Encoder, &self.encoder, encoder_before, &mut self.stored_encoder),
        ];
        for (stream, after, before, stored) in streams {
            stored.push_front(match config.cache_type(stream) {
                CacheType::Residual => minus(after, before),
                CacheType::HiddenStates => after.clone(),
            });
            stored.truncate(cache.keep(stream));
        }
    }

    fn forecast(&mut self, config: &CacheConfig, cache: &StepCache) {
        let streams = [
            (Stream::Hidden, &mut self.hidden, &self.stored_hidden),
            (Stream::Encoder, &mut self.encoder, &self.stored_encoder),
        ];
        for (stream, x, stored) in streams {
            let weights = cache.weights(stream);
            assert_eq!(weights.len(), stored.len(), "one weight per stored residual");
            let sum =
                |i: usize| weights.iter().zip(stored).map(|(&weight, stored)| weight as f32 * stored[i]).sum::<f32>();
            x.iter_mut().enumerate().for_each(|(i, x)| match config.cache_type(stream) {
                CacheType::Residual => *x += sum(i),
                CacheType::HiddenStates => *x = sum(i),
            });
        }
    }
}

/// Returns the drives of a step and branch: the base times an amplitude that follows the case's schedule.
fn drive(traces: &Traces, case: &Case, step: usize, steps: usize, branch: usize) -> Drive {
    let amplitude = amplitude(&case.amp, step, steps);
    let of_branch = if branch == 0 { 1.0 } else { -0.5 - 0.02 * step as f64 };
    let scaled = |base: &[f32], factor: f64| base.iter().map(|x| x * amplitude as f32 * factor as f32).collect();
    Drive { hidden: scaled(&traces.base, of_branch), encoder: scaled(&traces.ebase, 1.0) }
}

/// Returns the amplitude of the drive at a step.
fn amplitude(schedule: &str, step: usize, steps: usize) -> f64 {
    let s = step as f64;
    match schedule {
        "ramp" => 1.0 + 0.05 * s,
        "smooth" => 2.0 * 0.95_f64.powf(s),
        "jumps" => 3.0_f64.powi([5, 7, 8, 15].iter().filter(|&&jump| step >= jump).count() as i32),
        "ushape" => 1.0 + 3.0 * (s / (steps.max(2) - 1) as f64 - 0.5).powi(4) * 16.0,
        other => panic!("no amplitude schedule `{other}`"),
    }
}

fn residual_diff(previous: &[f32], current: &[f32]) -> f32 {
    let mean = |values: &mut dyn Iterator<Item = f32>| values.sum::<f32>() / previous.len() as f32;
    let difference = mean(&mut previous.iter().zip(current).map(|(p, c)| (p - c).abs()));
    difference / mean(&mut previous.iter().map(|p| p.abs()))
}

/// Returns the error of a recorded diff. For a threshold that everything passes, the library records -1.
fn diff_error(what: &str, ours: &StepRecord, theirs: Option<f64>) -> f64 {
    match (ours.residual_diff, theirs) {
        (None, None) => 0.0,
        (None, Some(-1.0)) if ours.decision.reason() == Reason::AlwaysSimilar => 0.0,
        (Some(ours), Some(theirs)) => (f64::from(ours) - theirs).abs() / theirs.abs().max(1.0),
        (ours, theirs) => panic!("{what}: diff {ours:?}, but the library has {theirs:?}"),
    }
}

fn minus(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Returns the largest difference, relative to the largest value.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    f64::from(errors.fold(0.0_f32, f32::max) / largest)
}
