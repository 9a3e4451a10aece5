//! The whole FLUX.2-klein pipeline against diffusers, and its step cache against cache-dit.

use std::path::PathBuf;

use candle_core::DType;
use diffusion::{CfgBranch, Interrupt, Pipeline};
use models::{Checkpoint, DiffusionPipeline, Flux2Klein, LoadOptions, Overrides};

use crate::compare::{Golden, changed_checkpoint, goldens, play, play_latents, request};
use crate::qwen_image_cache::{CachedRun, check_branch};

pub fn folder() -> PathBuf {
    goldens().join("models/flux2-klein")
}

/// Loads the pipeline of a recorded run, distilled or not.
fn pipeline(golden: &Golden, dtype: DType) -> DiffusionPipeline<Flux2Klein> {
    let is_distilled = golden.run.is_distilled.unwrap_or(true);
    let changed = changed_checkpoint(&folder(), &[("model_index.json", "is_distilled", is_distilled.into())]);
    let overrides = Overrides { max_sequence_length: golden.run.kw.max_sequence_length, ..Overrides::default() };
    let options = LoadOptions { dtype, overrides, ..LoadOptions::default() };
    let family = Flux2Klein::load(&Checkpoint::open(changed.path()).unwrap(), &options, &|_, _, _| ()).unwrap();
    DiffusionPipeline::new(family, &options)
}

fn cases() -> Vec<Golden> {
    let all = Golden::all(goldens().join("models/goldens"), "flux2-klein.");
    all.into_iter().filter(|golden| !golden.case.contains(".cache_")).collect()
}

#[test]
fn latents_after_each_step_and_the_picture() {
    for golden in cases() {
        play(&mut pipeline(&golden, DType::F32), &folder(), &golden, 1e-3);
    }
}

#[test]
fn weights_in_half_precision_stay_close() {
    for golden in cases() {
        for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::BF16, 2e-1)] {
            play_latents(&mut pipeline(&golden, dtype), &folder(), &golden, tolerance);
        }
    }
}

/// Each segment decides for itself. One recorded context appears twice, the second time under another name.
#[test]
fn decisions_diffs_and_latents_are_cache_dits() {
    for golden in Golden::all(goldens().join("models/goldens"), "flux2-klein.cache_") {
        let run = CachedRun::of(&golden.case);
        let mut model = pipeline(&golden, DType::F32);
        let mut request = request(model.card(), &folder(), &golden, 0);
        request.cache = Some(run.config());
        let mut state = model.prepare(&request, &Interrupt::default()).unwrap();
        let mut reports = Vec::new();
        for step in 0..golden.run.kw.num_inference_steps {
            reports.extend(model.step(&mut [&mut state], &Interrupt::default()).unwrap());
            golden.check(&format!("step.{step}.latents"), 0, state.latents(), 1e-3);
        }
        for (segment, stats) in ["single_transformer_blocks", "transformer_blocks"].into_iter().zip(&run.stats) {
            assert_eq!(stats.context, segment, "{}", golden.case);
            let (steps, diffs) = (&stats.cached_steps, &stats.residual_diffs);
            check_branch(&golden.case, &reports, (segment, CfgBranch::Cond), steps, diffs);
        }
    }
}
