//! SCM masks: those of cache-dit's `steps_mask` for every step count and policy, errors included.

use std::collections::BTreeMap;

use cache::{ScmPolicy, StepMask};
use serde::Deserialize;

use crate::compare::goldens;

#[derive(Deserialize)]
struct Masks {
    golden: BTreeMap<usize, ByPolicy>,
    extended: BTreeMap<usize, ByPolicy>,
    custom_bins: Vec<CustomBins>,
    custom_bins_errors: Vec<CustomBins>,
}

type ByPolicy = BTreeMap<String, Theirs>;

#[derive(Deserialize)]
struct CustomBins {
    compute_bins: Vec<usize>,
    cache_bins: Vec<usize>,
    total_steps: Option<usize>,
    mask: Theirs,
}

/// The library's answer: a mask, or an assertion's text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Theirs {
    Mask(String),
    Refusal { msg: String },
}

fn masks() -> Masks {
    serde_json::from_slice(&std::fs::read(goldens().join("cache/scm_masks.json")).unwrap()).unwrap()
}

#[track_caller]
fn equal(what: &str, ours: Result<StepMask, cache::MaskError>, theirs: &Theirs) {
    match (ours, theirs) {
        (Ok(ours), Theirs::Mask(theirs)) => assert_eq!(ours.to_string(), *theirs, "{what}"),
        (Err(_), Theirs::Refusal { .. }) => {}
        (Ok(ours), Theirs::Refusal { msg }) => panic!("{what}: {ours}, but the library refuses: {msg}"),
        (Err(err), Theirs::Mask(theirs)) => panic!("{what}: {err}, but the library makes {theirs}"),
    }
}

#[test]
fn every_policy_makes_the_librarys_mask_for_every_step_count() {
    let Masks { golden, extended, .. } = masks();
    let mut compared = 0;
    for (steps, by_policy) in golden.iter().chain(&extended) {
        for (name, policy) in ScmPolicy::NAMED {
            equal(&format!("{name}, {steps} steps"), StepMask::from_policy(policy, *steps), &by_policy[name]);
            compared += 1;
        }
    }
    println!("{compared} masks and refusals are equal");
    assert!(compared > 0);
}

#[test]
fn custom_bins_make_the_librarys_mask() {
    let Masks { custom_bins, custom_bins_errors, .. } = masks();
    assert!(!custom_bins.is_empty() && !custom_bins_errors.is_empty());
    for case in custom_bins.iter().chain(&custom_bins_errors) {
        let what = format!("{:?} {:?} {:?}", case.compute_bins, case.cache_bins, case.total_steps);
        equal(&what, StepMask::from_bins(&case.compute_bins, &case.cache_bins, case.total_steps), &case.mask);
    }
}
