//! Qwen-Image with the step cache against diffusers with cache-dit: decisions, diffs, latents.

use std::collections::BTreeMap;

use cache::{CacheConfig, CacheOverrides};
use diffusion::{CfgBranch, Interrupt, Pipeline, StepReport};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::compare::{Golden, goldens};
use crate::qwen_image::{model, request};

/// The manifest's entries for a cached run, beside the pipeline's arguments.
#[derive(Deserialize)]
pub struct CachedRun {
    cache_config: Map<String, Value>,
    taylorseer_order: Option<usize>,
    pub stats: Vec<Stats>,
}

#[derive(Deserialize)]
pub struct Stats {
    /// Name of the block list.
    pub context: String,
    pub cached_steps: Vec<usize>,
    pub residual_diffs: BTreeMap<usize, f64>,
    cfg_cached_steps: Vec<usize>,
    cfg_residual_diffs: BTreeMap<usize, f64>,
}

impl CachedRun {
    pub fn of(case: &str) -> Self {
        let manifest = std::fs::read(goldens().join("models/goldens/manifest.json")).unwrap();
        let mut manifest: BTreeMap<String, Value> = serde_json::from_slice(&manifest).unwrap();
        serde_json::from_value(manifest.remove(case).unwrap()).unwrap()
    }

    /// Translates the configuration to our keys. cache-dit itself does not limit consecutive cached steps.
    pub fn config(&self) -> CacheConfig {
        let mut keys = Map::from_iter([("max_continuous_cached_steps".to_owned(), Value::from(-1))]);
        keys.extend(self.cache_config.clone());
        if let Some(order) = self.taylorseer_order {
            keys.extend([("enable_taylorseer".into(), true.into()), ("taylorseer_order".into(), order.into())]);
        }
        let overrides: CacheOverrides = serde_json::from_value(Value::Object(keys)).unwrap();
        CacheConfig::default().overlaid(&overrides).unwrap()
    }
}

#[test]
fn decisions_diffs_and_latents_are_cache_dits() {
    let mut model = model();
    for golden in Golden::all(goldens().join("models/goldens"), "qwen-image.cache_") {
        let run = CachedRun::of(&golden.case);
        let mut request = request(&golden, 0);
        request.cache = Some(run.config());
        let mut state = model.prepare(&request, &Interrupt::default()).unwrap();
        let mut reports = Vec::new();
        for step in 0..golden.run.kw.num_inference_steps {
            reports.extend(model.step(&mut [&mut state], &Interrupt::default()).unwrap());
            golden.check(&format!("step.{step}.latents"), 0, state.latents(), 1e-3);
        }
        let stats = &run.stats[0];
        let segment = "transformer_blocks";
        let (cond, uncond) = ((segment, CfgBranch::Cond), (segment, CfgBranch::Uncond));
        check_branch(&golden.case, &reports, cond, &stats.cached_steps, &stats.residual_diffs);
        check_branch(&golden.case, &reports, uncond, &stats.cfg_cached_steps, &stats.cfg_residual_diffs);
        assert_eq!(state.cache_stats().unwrap().runs()[0].reused_steps(), stats.cached_steps.len());
    }
}

pub fn check_branch(
    case: &str,
    reports: &[StepReport],
    (segment, branch): (&str, CfgBranch),
    cached_steps: &[usize],
    residual_diffs: &BTreeMap<usize, f64>,
) {
    let run =
        |report: &StepReport| *report.runs.iter().find(|run| (run.segment, run.branch) == (segment, branch)).unwrap();
    let reused: Vec<_> = reports.iter().filter(|report| run(report).reused).map(|report| report.step_index).collect();
    assert_eq!(reused, cached_steps, "{case} {}", branch.name());
    let mut worst = 0_f64;
    for report in reports {
        // cache-dit records -1 where a threshold of 1 lets a step pass unmeasured.
        let theirs = residual_diffs.get(&report.step_index).copied().filter(|diff| *diff >= 0.0);
        let ours = run(report).residual_diff.map(f64::from);
        assert_eq!(ours.is_some(), theirs.is_some(), "{case} {} step {}", branch.name(), report.step_index);
        let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
        worst = worst.max((ours / theirs - 1.0).abs());
    }
    println!("{case} {}: steps {reused:?} reused, diffs off by {worst:.1e} at most, 1e-3 allowed", branch.name());
    assert!(worst <= 1e-3, "{case} {}: a diff is off by {worst:.3e}", branch.name());
}

/// Settings that differ in the blocks that always run, in what is stored and in how it is decided.
const SETTINGS: [&str; 6] = [
    r#"{"residual_diff_threshold": 0.6, "Fn_compute_blocks": 2, "max_warmup_steps": 2}"#,
    r#"{"residual_diff_threshold": 0.6, "Bn_compute_blocks": 2, "max_warmup_steps": 3, "enable_taylorseer": true}"#,
    r#"{"residual_diff_threshold": 0.5, "Fn_compute_blocks": 2, "Bn_compute_blocks": 1, "max_warmup_steps": 2,
        "enable_taylorseer": true, "taylorseer_cache_type": "hidden_states"}"#,
    r#"{"steps_computation_mask": [1, 0, 1, 0, 0, 1, 0, 0, 0, 1], "scm_steps_policy": "static",
        "max_warmup_steps": 0, "enable_taylorseer": true, "taylorseer_order": 2}"#,
    r#"{"residual_diff_threshold": 0.7, "branches_agree": true, "max_warmup_steps": 1}"#,
    r#"{"residual_diff_threshold": 0.6, "cfg_diff_compute_separate": false, "max_warmup_steps": 2,
        "force_refresh_step_hint": 4}"#,
];

/// Requests of different sizes, prompts and configurations give the same results together as alone. At least one step
/// of the batch mixes computed and reused rows.
#[test]
fn a_mixed_batch_changes_no_request() {
    let mut model = model();
    let cases = Golden::all(goldens().join("models/goldens"), "qwen-image.");
    let golden_configs = cases.iter().map(|golden| {
        let cached = golden.case.contains(".cache_");
        (golden.case.clone(), request(golden, 0), cached.then(|| CachedRun::of(&golden.case).config()))
    });
    let own_configs = SETTINGS.iter().zip(cases.iter().cycle()).map(|(settings, golden)| {
        let config: CacheConfig = serde_json::from_str(settings).unwrap();
        ((*settings).to_owned(), request(golden, 0), Some(config))
    });
    let (mut names, mut requests) = (Vec::new(), Vec::new());
    for (name, mut request, config) in golden_configs.chain(own_configs) {
        request.params.num_inference_steps = 10;
        if let Some(config) = config {
            request.cache = Some(config);
        }
        names.push(name);
        requests.push(request);
    }
    let alone: Vec<_> = requests.iter().map(|request| run_all(&mut model, std::slice::from_ref(request))).collect();
    let together = run_all(&mut model, &requests);
    assert!(together.mixed, "no step mixed computed and reused rows");
    for ((name, alone), (latents, steps)) in names.iter().zip(&alone).zip(together.requests) {
        let (alone_latents, alone_steps) = &alone.requests[0];
        assert_eq!(&steps, alone_steps, "{name}");
        assert_eq!(&latents, alone_latents, "{name}: bit for bit on the CPU");
        let reused = steps.iter().flat_map(|step| &step.runs).any(|run| run.reused);
        assert!(reused || !name.contains("max_warmup"), "{name}: nothing was reused");
    }
}

struct Batch {
    /// Final latents and reports of each request.
    requests: Vec<(Vec<f32>, Vec<StepReport>)>,
    mixed: bool,
}

fn run_all(model: &mut crate::qwen_image::Model, requests: &[diffusion::ImageRequest]) -> Batch {
    let mut states: Vec<_> =
        requests.iter().map(|request| model.prepare(request, &Interrupt::default()).unwrap()).collect();
    let mut steps = vec![Vec::new(); states.len()];
    let mut mixed = false;
    for _ in 0..10 {
        let reports = model.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default()).unwrap();
        let runs = || reports.iter().flat_map(|report| &report.runs);
        mixed |= runs().any(|run| run.reused) && runs().any(|run| !run.reused);
        steps.iter_mut().zip(reports).for_each(|(steps, report)| steps.push(report));
    }
    let latents = states.iter().map(|state| state.latents().flatten_all().unwrap().to_vec1().unwrap());
    Batch { requests: latents.zip(steps).collect(), mixed }
}
