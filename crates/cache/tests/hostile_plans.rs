//! Malicious or truncated calibrations and aims are refused with a reason, and nothing panics.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use cache::{
    Aim, CacheConfig, CacheOverrides, Calibration, FittedPlan, Jump, PlanError, Psnr, RunSpec, VelocityChange,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn calibration() -> Calibration {
    let plan = |count: usize| FittedPlan {
        computed: (0..count).map(|i| 12 * i / count).collect(),
        jumps: (0..count).map(|i| Jump { velocities: vec![0.5; Jump::velocities_behind(i)], latents: 0.25 }).collect(),
        changes: vec![VelocityChange::of(&[0.1, 0.2]); count - 1],
        psnr: Psnr::of(vec![20.0 + count as f64; 10]),
    };
    Calibration {
        class: "SomePipeline".into(),
        model: "digest".into(),
        num_inference_steps: 12,
        guidance: Some(3.0),
        pictures: 10,
        plans: (3..=12).map(plan).collect(),
    }
}

/// Reads a file: a checked calibration, or the reason why it is invalid.
fn read(text: &str) -> Result<Calibration, String> {
    let calibration: Calibration = serde_json::from_str(text).map_err(|err| err.to_string())?;
    calibration.check()?;
    Ok(calibration)
}

/// Plans requests of every sort with a calibration.
fn plan_everything(calibration: &Calibration) {
    for steps in [0, 1, 2, 3, 7, calibration.num_inference_steps, 200, 1000] {
        let run = RunSpec { model: &calibration.model, steps, guided: calibration.guidance.is_some() };
        for aim in [Aim::Budget(1e-9), Aim::Budget(1.0), Aim::Psnr(0.0), Aim::Psnr(100.0)] {
            if let Ok(plan) = calibration.plan(run, aim) {
                assert!(plan.mask().len() == steps && plan.mask().computes(0));
                let levels: Vec<_> = (0..=calibration.num_inference_steps).map(|i| 1.0 - i as f32 / 1000.0).collect();
                let sigmas = plan.sigmas(&levels);
                assert!(sigmas.len() == steps + 1 && sigmas.windows(2).all(|pair| pair[0] >= pair[1]), "{sigmas:?}");
            }
        }
    }
}

#[test]
fn a_file_that_was_cut_off_anywhere_is_refused() {
    let text = serde_json::to_string(&calibration()).unwrap();
    plan_everything(&read(&text).unwrap());
    for end in 0..text.len() {
        let told = read(&text[..end]).unwrap_err();
        assert!(told.starts_with("EOF while parsing"), "{end}: {told}");
    }
}

#[test]
fn what_means_harm_is_refused_with_the_reason() {
    let with = |pointer: &str, value: &str| {
        let mut calibration = serde_json::to_value(calibration()).unwrap();
        *calibration.pointer_mut(pointer).unwrap() = json!("HERE");
        calibration.to_string().replace("\"HERE\"", value)
    };
    let deep = "[".repeat(100_000);
    let of_jumps = "must have `jumps` of numbers up to 100";
    for (pointer, value, reason) in [
        ("/num_inference_steps", "18446744073709551615", "must have 3 to 200 `num_inference_steps`"),
        ("/num_inference_steps", "99999999999999999999", "invalid type: floating point"),
        ("/num_inference_steps", "-1", "invalid value: integer `-1`"),
        ("/num_inference_steps", "11", "must have `computed` steps that rise from 0 and are below 11"),
        ("/pictures", "1.5", "invalid type: floating point `1.5`"),
        ("/guidance", "1e999", "number out of range"),
        ("/guidance", "NaN", "expected value"),
        ("/class", "null", "invalid type: null"),
        ("/plans", "[]", "must have `plans`"),
        ("/plans", "{}", "invalid type: map"),
        ("/plans", deep.as_str(), "invalid type: sequence, expected usize"),
        ("/plans/0", "null", "invalid type: null"),
        ("/plans/3/computed", "[]", "must have `plans` of which each computes more steps than the one before"),
        ("/plans/0/computed", "[0,4,4]", "must have `computed` steps that rise from 0"),
        ("/plans/0/computed", "[0,4,18446744073709551615]", "must have `computed` steps that rise from 0"),
        ("/plans/0/computed", "[1,4,8]", "must have `computed` steps that rise from 0"),
        ("/plans/0/jumps", "[]", "must have a jump for each of 3 computed steps. Given: 0"),
        ("/plans/0/jumps/0/velocities", "[1,0]", of_jumps),
        ("/plans/0/jumps/2/velocities", "[1,0,0,0]", of_jumps),
        ("/plans/0/jumps/2/velocities", "[]", of_jumps),
        ("/plans/0/changes/0/spread", "-1", "must have finite `changes`, none or one for each of 3 computed steps"),
        ("/plans/0/jumps/2/latents", "1e309", "number out of range"),
        ("/plans/0/jumps/2", r#"{"velocities":[1],"latents":0,"also":1}"#, "unknown field `also`"),
        ("/plans/0/psnr/mean", "null", "invalid type: null"),
        ("/plans/0/psnr", r#"{"mean":1,"mean":2,"tenth":1,"least":1}"#, "duplicate field `mean`"),
    ] {
        let told = read(&with(pointer, value)).unwrap_err();
        let value = &value[..value.len().min(30)];
        assert!(told.contains(reason), "{pointer} {value}: {told}");
    }
}

#[test]
fn a_plan_of_another_model_or_another_guidance_is_refused() {
    let of = |run| calibration().plan(run, Aim::Budget(0.5)).unwrap_err();
    let run = RunSpec { model: "digest", steps: 12, guided: true };
    assert_eq!(of(RunSpec { model: "Digest", ..run }), PlanError::OtherModel { calibrated: "SomePipeline".into() });
    assert_eq!(of(RunSpec { model: "", ..run }), PlanError::OtherModel { calibrated: "SomePipeline".into() });
    assert_eq!(of(RunSpec { guided: false, ..run }), PlanError::Guidance { calibrated: true });
    assert_eq!(of(RunSpec { steps: 2, ..run }), PlanError::Steps { least: 3, given: 2 });
}

/// Any value in a request's `cache`.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.0, 1.0, 1.0 + 1e-9, 45.0, 100.0, 100.1, f64::MAX, f64::MIN_POSITIVE])
            .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["@/etc/passwd", "NaN", "high", "Infinity"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// A file in which one byte or one part is replaced.
    #[test]
    fn a_damaged_file_is_refused_or_harmless(place in any::<prop::sample::Index>(), byte in any::<u8>(), part in any_value()) {
        let text = serde_json::to_string(&calibration()).unwrap();
        let mut bytes = text.clone().into_bytes();
        let at = place.index(bytes.len());
        bytes[at] = byte;
        let mut whole: Value = serde_json::from_str(&text).unwrap();
        let parts = parts(&whole, String::new());
        *whole.pointer_mut(&parts[place.index(parts.len())]).unwrap() = part;
        for text in [String::from_utf8_lossy(&bytes).into_owned(), whole.to_string()] {
            match read(&text) {
                Ok(calibration) => plan_everything(&calibration),
                Err(why) => prop_assert!(!why.is_empty()),
            }
        }
    }

    /// A request to a calibrated server.
    #[test]
    fn what_a_request_asks_for_is_refused_or_within_its_bounds(
        key in prop::sample::select(vec!["budget", "psnr", "plan", "quality", "calibrated", ""]),
        value in any_value(),
    ) {
        let server = CacheConfig { planned: Some(Aim::Psnr(50.0)), ..CacheConfig::default() };
        let Ok(overrides) = serde_json::from_value::<CacheOverrides>(json!({ key: value })) else { return Ok(()) };
        match server.overlaid(&overrides) {
            Ok(config) => {
                if let Some(aim) = config.planned {
                    prop_assert_eq!(aim.check(), Ok(()));
                }
                prop_assert!(!["plan", "calibrated", ""].contains(&key), "{} is no key", key);
            }
            Err(err) => prop_assert!(err.to_string().contains(key), "{}", err),
        }
    }
}

/// The pointers to all parts of a document.
fn parts(value: &Value, at: String) -> Vec<String> {
    let below: Vec<_> = match value {
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(i, item)| parts(item, format!("{at}/{i}"))).collect()
        }
        Value::Object(map) => map.iter().flat_map(|(key, item)| parts(item, format!("{at}/{key}"))).collect(),
        _ => Vec::new(),
    };
    std::iter::once(at).chain(below).collect()
}
