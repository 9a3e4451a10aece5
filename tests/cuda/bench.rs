//! `latentd bench --synthetic` on the GPU: a model with weights generated there, and the time and memory of the GPU
//! that it reports.

use std::process::Command;

use omni::Dtype;
use serde_json::Value;

use crate::counts::{are_counted, of_step};
use crate::runs::alone;

/// The figures of a tiny model with the shape of the goldens' and one row per step.
fn figures(model: &str, arguments: &[&str]) -> Option<Value> {
    let Some(program) = std::env::var_os("LATENTD") else {
        println!("skipped: LATENTD names no program");
        return None;
    };
    let mut command = Command::new(program);
    command.args(["bench", "--device", "cuda", "--synthetic", model, "--size", "32x32", "--json"]).args(arguments);
    let output = command.env_remove("EMULATOR_COUNTS").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn number(figures: &Value, pointer: &str) -> f64 {
    figures.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {figures}"))
}

#[test]
fn a_synthetic_model_tells_of_the_gpus_time_and_memory() {
    let _alone = alone();
    let cache = r#"{"scm_steps_mask_policy": "medium", "scm_steps_policy": "static"}"#;
    let cached = ["--cache-backend", "cache_dit", "--cache-config", cache, "--steps", "8"];
    for (model, guidance) in [("qwen-image-tiny", "4"), ("flux2-klein-tiny", "1")] {
        let Some(found) = figures(model, &[&cached[..], &["--true-cfg-scale", guidance]].concat()) else { return };
        let of = |pointer: &str| number(&found, pointer);
        assert!(found["pattern"].as_str().unwrap().contains('C'), "{found}");
        let calls = ["computed", "reused"].map(|kind| {
            let of = |name| of(&format!("/{kind}/device/{name}"));
            assert!(of("busy_ms") > 0.0 && of("outside_at_most_ms") >= of("outside_ms"), "{found}");
            of("calls")
        });
        assert!(calls[1] < 0.7 * calls[0], "a reused step runs few blocks: {calls:?}");
        assert!(of("/memory/weights_bytes") > 1e5 && of("/memory/most_bytes") > of("/memory/weights_bytes"), "{found}");
    }
}

#[test]
fn every_call_that_gives_the_gpu_work_is_timed() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    let Some(found) = figures("qwen-image-tiny", &["--true-cfg-scale", "1", "--steps", "3"]) else { return };
    let counts = of_step("qwen-image", Dtype::Bf16, |_| None);
    let work = ["launches", "products", "copies on the device", "fills"].map(|name| counts[name]).iter().sum::<u64>();
    assert_eq!(number(&found, "/computed/device/calls"), work as f64, "{counts:?}");
}
