//! Whole cached runs of a transformer of a few blocks, with and without a picture to edit. Decisions, diffs,
//! predictions and final latents are compared with cache-dit's.

use std::collections::HashMap;

use cache::CacheConfig;
use candle_core::{DType, Device, Tensor};
use models::{
    Checkpoint, Dit, DitRow, LoadError, Precision, ReferenceLatents, RequestPasses, RequestResiduals, Scope, forward,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::compare::{close, goldens};

const GUIDANCE: f64 = 4.0;
/// Rows and columns of the picture's tokens.
const GRID: (usize, usize) = (4, 4);

/// A recorded family: its files, and its guidance scale.
pub struct Family {
    /// Prefix of its file names.
    pub name: &'static str,
    /// The distilled guidance scale.
    pub guidance: Option<f32>,
}

#[derive(Deserialize)]
struct Traces<C> {
    model_kwargs: C,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    separate_cfg: bool,
    edit: bool,
    /// Factor of the second segment's threshold.
    single_threshold_factor: Option<f64>,
    config: CacheConfig,
    mask: Option<String>,
    decisions: HashMap<String, String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    step: usize,
    branch: usize,
    contexts: Vec<Context>,
}

/// Record of one segment.
#[derive(Deserialize)]
struct Context {
    diff: Option<f64>,
}

/// The transformer, its recorded inputs and its recorded outputs.
struct Recording<D> {
    transformer: D,
    guidance: Option<f32>,
    inputs: HashMap<String, Tensor>,
    outputs: HashMap<String, Tensor>,
}

/// Plays every recorded run of a family, whose transformer is loaded by `load`.
pub fn runs_are_the_librarys<D: Dit, C: DeserializeOwned>(
    family: Family,
    load: fn(&C, &Scope<'_>) -> Result<D, LoadError>,
) {
    let traces = std::fs::read(goldens().join(format!("cache/{}_traces.json", family.name))).unwrap();
    let traces: Traces<C> = serde_json::from_slice(&traces).unwrap();
    assert!(!traces.cases.is_empty());
    let recording = Recording::open(family, |scope| load(&traces.model_kwargs, scope));
    for case in &traces.cases {
        let steps = case.config.num_inference_steps.unwrap();
        let mask = case.config.steps_computation_mask.as_ref();
        assert_eq!(mask.map(|source| source.mask(steps).unwrap().to_string()), case.mask, "{}: mask", case.name);
        recording.play(case, steps);
    }
}

impl<D: Dit> Recording<D> {
    fn open(family: Family, load: impl FnOnce(&Scope<'_>) -> Result<D, LoadError>) -> Self {
        let folder = goldens().join("cache");
        let name = family.name;
        let tensors = |file: String| candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
        // The loader reads a component of a checkpoint.
        let checkpoint = tempfile::tempdir().unwrap();
        let component = checkpoint.path().join("transformer");
        std::fs::create_dir(&component).unwrap();
        let weights = component.join("diffusion_pytorch_model.safetensors");
        std::fs::copy(folder.join(format!("{name}.safetensors")), weights).unwrap();
        let precision = Precision::new(DType::F32, Device::Cpu);
        let weights = Checkpoint::Dir(checkpoint.path().into()).weights("transformer", precision).unwrap();
        Recording {
            transformer: load(&weights.scope("w", &|_, _| ())).unwrap(),
            guidance: family.guidance,
            inputs: tensors(format!("{name}.safetensors")),
            outputs: tensors(format!("{name}_outputs.safetensors")),
        }
    }

    fn input(&self, name: &str) -> Tensor {
        self.inputs[&format!("in.{name}")].squeeze(0).unwrap()
    }

    /// Runs a case: decisions must be equal, diffs and latents within 1e-3.
    fn play(&self, case: &Case, steps: usize) {
        let prompts = if case.separate_cfg { vec!["cond", "uncond"] } else { vec!["cond"] };
        let prompts: Vec<_> = prompts.into_iter().map(|name| self.input(name)).collect();
        let references = [ReferenceLatents { latents: self.input("ref"), token_grid: GRID }];
        let references = if case.edit { &references[..] } else { &[] };
        let factors = case.single_threshold_factor.map_or(Vec::new(), |factor| vec![1.0, factor]);
        let config = CacheConfig { segment_threshold_factors: factors, ..case.config.clone() };
        let (residuals, _) = RequestResiduals::new(&config, steps, self.transformer.segments(), prompts.len());
        let mut residuals = residuals.unwrap();
        let mut latents = self.input("x0");
        let mut worst = 0_f64;
        for step in 0..steps {
            let sigma = sigma(step, steps);
            let (latents_now, guidance) = (&latents, self.guidance);
            let row = |prompt_embeds| DitRow {
                latents: latents_now,
                token_grid: GRID,
                references,
                prompt_embeds,
                sigma,
                guidance,
            };
            let rows = prompts.iter().map(row).collect();
            let passes = forward(&self.transformer, vec![RequestPasses { rows, residuals: Some(&mut residuals) }]);
            let passes = passes.unwrap();
            for (segment, records) in passes.records.iter().enumerate() {
                for (branch, record) in records.iter().enumerate() {
                    worst = worst.max(case.diff_error(step, segment, branch, record.unwrap().residual_diff));
                }
            }
            let velocity = match &passes.velocities[..] {
                [cond, uncond] => (uncond + ((cond - uncond).unwrap() * GUIDANCE).unwrap()).unwrap(),
                velocities => velocities[0].clone(),
            };
            if let Some(recorded) = self.outputs.get(&format!("{}.pred.{step:03}", case.name)) {
                close(&format!("{} velocity {step}", case.name), &velocity, &recorded.squeeze(0).unwrap(), 1e-3);
            }
            let dt = self::sigma(step + 1, steps) - sigma;
            latents = (latents + (velocity * f64::from(dt)).unwrap()).unwrap();
        }
        println!("{}: diffs off by {worst:.1e} at most, 1e-3 allowed", case.name);
        assert!(worst <= 1e-3, "{}: a diff is off by {worst:.3e}", case.name);
        for (i, run) in residuals.stats().runs().iter().enumerate() {
            let context = format!("ctx{}_branch{}", i / prompts.len(), run.branch);
            assert_eq!(run.decisions(), case.decisions[&context], "{} {context}", case.name);
        }
        let recorded = &self.outputs[&format!("{}.final", case.name)];
        close(&format!("{} final", case.name), &latents, &recorded.squeeze(0).unwrap(), 1e-3);
    }
}

impl Case {
    /// Returns the relative error of a diff, and checks that it was measured where the library measured one.
    fn diff_error(&self, step: usize, segment: usize, branch: usize, ours: Option<f32>) -> f64 {
        let row = self.rows.iter().find(|row| (row.step, row.branch) == (step, branch)).unwrap();
        // The library records no diff for an unconditional branch that takes over the conditional one's.
        let Some(theirs) = row.contexts[segment].diff else {
            let shared = branch == 1 && !self.config.cfg_diff_compute_separate;
            assert!(ours.is_none() || shared, "{} step {step} segment {segment} branch {branch}: {ours:?}", self.name);
            return 0.0;
        };
        let place = || format!("{} step {step} segment {segment} branch {branch}", self.name);
        let ours = f64::from(ours.unwrap_or_else(|| panic!("{}: no diff", place())));
        (ours / theirs - 1.0).abs()
    }
}

/// The noise level before step `step`: `3u / (1 + 2u)` with `u` falling from 1 to `1 / steps`, then 0.
fn sigma(step: usize, steps: usize) -> f32 {
    let u = 1.0 - step as f64 / steps as f64;
    (3.0 * u / (1.0 + 2.0 * u)) as f32
}
