//! Upper bounds of a step's driver calls, from `bounds.json`. They are to be lowered as kernels are fused.

use std::collections::BTreeMap;

use diffusion::{ImageSize, Interrupt, Limits, Pipeline, RequestDraft};
use models::AnyPipeline;
use omni::Dtype;

use crate::counts::{Counts, are_counted, bytes_held, of, of_step, told};
use crate::runs::{GPU, MODELS, alone, load, one_row, picture};

/// How the third step runs.
#[derive(Clone, Copy)]
enum Third {
    Uncached,
    /// Computed by the cache's mask. A computed step keeps its residuals.
    Computed,
    Reused,
    /// Computed, because it was found to differ.
    Measured,
    /// Reused, because it was found to be similar. For FLUX.2 that is only the first list: the other list changes more
    /// than any threshold allows.
    Similar,
}

const STEPS: [(&str, Third); 5] = [
    ("uncached", Third::Uncached),
    ("computed", Third::Computed),
    ("reused", Third::Reused),
    ("measured", Third::Measured),
    ("similar", Third::Similar),
];

/// The configuration of a cache that computes all of `steps` steps, except perhaps the third.
fn cache(steps: i64, third: Third) -> Option<String> {
    let of_third = match third {
        Third::Uncached => return None,
        Third::Measured => return Some(r#"{"max_warmup_steps": 2, "residual_diff_threshold": 1e-6}"#.into()),
        Third::Similar => return Some(r#"{"max_warmup_steps": 2, "residual_diff_threshold": 0.999}"#.into()),
        Third::Computed => "1",
        Third::Reused => "0",
    };
    let mask = (1..=steps).map(|step| if step == 3 { of_third } else { "1" }).collect::<Vec<_>>().join(", ");
    Some(format!(r#"{{"steps_computation_mask": [{mask}], "scm_steps_policy": "static"}}"#))
}

#[test]
fn a_step_asks_no_more_of_the_driver_than_its_bound() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    let mut over = Vec::new();
    for (model, (step, third)) in MODELS.iter().flat_map(|model| STEPS.map(|step| (model, step))) {
        let found = of_step(model, Dtype::Bf16, |steps| cache(steps, third));
        println!("counts: {model}, bf16, one row, {step} step: {}", told(&found));
        over.extend(over_bound(&format!("{model}, {step}"), &found));
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}

/// The counts that exceed their bounds.
pub fn over_bound(case: &str, found: &Counts) -> Vec<String> {
    let bounds: BTreeMap<String, Counts> = serde_json::from_str(include_str!("bounds.json")).unwrap();
    let most = |name: &str| bounds.get(case).and_then(|bound| bound.get(name)).copied().unwrap_or(0);
    let over = found.iter().filter(|(name, found)| **found > most(name));
    over.map(|(name, found)| format!("{case}: {found} {name}, and {} are allowed", most(name))).collect()
}

/// The counts of one step of `num_requests` requests together.
fn of_company(pipeline: &mut AnyPipeline, num_requests: i64) -> Counts {
    let request = |seed| {
        let draft = RequestDraft {
            prompt: format!("a fox {seed}"),
            size: Some(ImageSize { width: 32, height: 32 }),
            num_inference_steps: Some(3),
            seed: Some(seed),
            true_cfg_scale: Some(3.0),
            ..RequestDraft::default()
        };
        draft.build(pipeline.card(), &Limits::NONE, || 7).unwrap().remove(0)
    };
    let requests: Vec<_> = (0..num_requests).map(request).collect();
    let prepared = requests.iter().map(|request| pipeline.prepare(request, &Interrupt::default()).unwrap());
    let mut states: Vec<_> = prepared.collect();
    let mut step = || drop(pipeline.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default()).unwrap());
    // Kernels are loaded at their first launch.
    step();
    of(step)
}

#[test]
fn company_asks_for_no_more_launches() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    let mut pipeline = load("qwen-image", GPU, Dtype::Bf16, None).into_pipeline();
    let [two, five] = [2, 5].map(|num_requests| of_company(&mut pipeline, num_requests));
    println!("counts: qwen-image, bf16, five requests, uncached step: {}", told(&five));
    // Each request has its own latents, so allocations may differ.
    for name in five.keys().filter(|name| *name != "allocations") {
        assert_eq!(five[name], two[name], "{name}");
    }
}

#[test]
fn memory_is_given_back_with_the_model() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    let after_a_model = || {
        let mut omni = load("qwen-image", GPU, Dtype::Bf16, None);
        picture(&mut omni, one_row(2));
        let loaded = bytes_held();
        picture(&mut omni, one_row(3));
        assert_eq!(bytes_held(), loaded, "a picture leaves nothing");
        drop(omni);
        assert!(bytes_held() < loaded);
        bytes_held()
    };
    // A thread keeps cuBLASLt's workspace until it opens the device again.
    let first = after_a_model();
    assert_eq!(after_a_model(), first, "a model leaves nothing more than the one before it");
}
