//! `latentd bench`, on models small enough for a test.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::binary::{folder, latentd, run, stderr};

/// A static mask, so that random weights do not affect the decisions.
const MASK: &str = r#"{"scm_steps_mask_policy": "medium", "scm_steps_policy": "static"}"#;

fn bench(model: &str, arguments: &[&str]) -> Command {
    let mut command = latentd();
    command.args(["bench", "--device", "cpu", "--synthetic", model]).args(arguments);
    command
}

fn figures(model: &str, arguments: &[&str]) -> Value {
    let output = run(bench(model, arguments).args(["--size", "64x48", "--json"]));
    assert!(output.status.success(), "{model} {arguments:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(figures: &Value, pointer: &str) -> f64 {
    figures.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {figures}"))
}

/// The plan for 12 steps of 6 blocks, by `latentd cache plan`.
fn planned(config: &str) -> String {
    let mut plan = latentd();
    plan.args(["cache", "plan", "--steps", "12", "--cache-config", config, "--json"]);
    let plan: Value = serde_json::from_slice(&run(&mut plan).stdout).unwrap();
    plan["best_case"].as_str().unwrap().to_owned()
}

#[test]
fn all_of_a_model_makes_a_picture_as_its_cache_is_told() {
    let arguments = ["--layers", "all", "--steps", "12", "--text-tokens", "40", "--cache-backend", "cache_dit"];
    let found = figures("qwen-image-tiny", &[&arguments[..], &["--cache-config", MASK]].concat());
    assert_eq!(found["pattern"], planned(MASK));
    let of = |pointer: &str| number(&found, pointer);
    let reused = planned(MASK).matches('C').count() as f64;
    assert!(reused > 0.0);
    assert_eq!((of("/computed/steps"), of("/reused/steps")), (12.0 - reused, reused));
    assert_eq!((of("/image_tokens"), of("/text_tokens"), of("/passes_a_step")), (12.0, 40.0, 2.0));
    assert!(of("/reused/gflop") < of("/computed/gflop") / 2.0, "{found}");
    let steps: f64 = ["computed", "reused"]
        .map(|kind| of(&format!("/{kind}/fastest_ms")) * of(&format!("/{kind}/steps")))
        .iter()
        .sum();
    assert!(of("/picture_ms") >= of("/encode_ms") + steps + of("/decode_ms"), "{found}");
    // A CPU reports neither.
    assert!(found["memory"].is_null() && found["computed"]["device"].is_null(), "{found}");
}

#[test]
fn without_a_cache_every_step_is_computed() {
    let found = figures("flux2-klein-tiny", &["--layers", "all"]);
    assert_eq!((&found["pattern"], &found["reused"]), (&"1111".into(), &Value::Null));
    assert_eq!((number(&found, "/passes_a_step"), number(&found, "/text_tokens")), (1.0, 512.0));
}

#[test]
fn the_rest_of_a_few_layers_is_arithmetic() {
    let cached = ["--cache-backend", "cache_dit", "--cache-config", MASK, "--steps", "12"];
    let found = figures("qwen-image-tiny", &[&["--layers", "1", "--true-cfg-scale", "1"][..], &cached].concat());
    let of = |pointer: &str| number(&found, pointer);
    let (block, pass) = (of("/measured/transformer_blocks_ms"), of("/measured/step_ms"));
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6 * expected, "{found}, {expected}");
    near(of("/pass_ms"), pass + 5.0 * block);
    // By the guide's default Fn, one block always runs.
    near(of("/reused_pass_ms"), pass);
    let reused = planned(MASK).matches('C').count() as f64;
    assert_eq!((of("/reused_steps"), of("/passes_a_step")), (reused, 1.0));
    near(of("/encode_ms"), 3.0 * of("/encoder_part_ms"));
    let passes = (12.0 - reused) * of("/pass_ms") + reused * of("/reused_pass_ms");
    near(of("/picture_ms"), of("/encode_ms") + passes + of("/decode_ms"));
}

#[test]
fn lines_say_what_was_measured_and_what_reckoned() {
    let output = run(&mut bench("flux2-klein-tiny", &["--layers", "1", "--size", "64x48"]));
    let lines = String::from_utf8(output.stdout).unwrap();
    for (name, told) in [
        ("transformer_blocks", "ms measured, of 2"),
        ("single_transformer_blocks", "ms measured, of 4"),
        ("a pass of all blocks", "ms by arithmetic"),
        ("text encoder", "ms measured, 1 of its layers"),
        ("decoding", "ms measured"),
        ("a picture in 4 steps", "s by arithmetic"),
    ] {
        assert!(lines.lines().any(|line| line.starts_with(name) && line.contains(told)), "{name}: {lines}");
    }
    let cached = ["--cache-backend", "cache_dit"];
    let whole = run(&mut bench("flux2-klein-tiny", &[&["--layers", "all", "--size", "64x48"][..], &cached].concat()));
    assert!(stderr(&whole).contains("which steps are reused depends on made-up numbers"), "{}", stderr(&whole));
    let lines = String::from_utf8(whole.stdout).unwrap();
    assert!(lines.contains("a computed step") && !lines.contains("arithmetic"), "{lines}");
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let cached = ["--cache-backend", "cache_dit", "--cache-config"];
    for (model, arguments, told) in [
        (
            "flux2-klein-tiny",
            vec!["--text-tokens", "100"],
            "`--text-tokens`: FLUX.2-klein fills every prompt up to 512",
        ),
        ("qwen-image-tiny", vec!["--layers", "9"], "must be `all`, or from 1 to 8"),
        ("qwen-image-tiny", vec!["--size", "big"], "`size`"),
        ("qwen-image-tiny", [&cached[..], &[r#"{"Fn_compute_blocks": 99}"#]].concat(), "`Fn_compute_blocks` must be"),
        ("qwen-image-tiny", vec!["--quantization", "int7"], "invalid value 'int7'"),
    ] {
        let output = run(&mut bench(model, &arguments));
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr(&output).contains(told), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_model_that_edits_is_measured_and_compared() {
    let folder = folder();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/models/qwen-image-edit-plus");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("prompts.txt"), "make it night\n").unwrap();
    fs::write(at("configs.json"), r#"[{"name": "defaults", "config": {}}]"#).unwrap();
    let command = |words: &[&str]| {
        let mut command = latentd();
        command.args(words).args(["--device", "cpu", "--height", "64", "--width", "64", "--true-cfg-scale", "4"]);
        command.arg("--model").arg(&model).arg("--prompts").arg(at("prompts.txt"));
        command
    };
    let picture = |command: &mut Command| _ = command.arg("--image").arg(model.join("input_a.png"));
    for words in [&["cache", "calibrate", "-o", "x.json"][..], &["bench", "cache"]] {
        let output = run(command(words).current_dir(folder.path()));
        let told = "`--image` must be given: the model makes pictures from pictures. Given: none";
        assert!(!output.status.success() && stderr(&output).contains(told), "{words:?}: {}", stderr(&output));
    }
    let mut calibrate = command(&["cache", "calibrate", "--steps", "6"]);
    picture(calibrate.arg("--output").arg(at("plan.json")));
    let output = run(&mut calibrate);
    assert!(output.status.success(), "{}", stderr(&output));

    let mut compare = command(&["bench", "cache", "--num-inference-steps", "6", "--samplers", "euler,heun"]);
    compare.args(["--fewer-steps", "3"]).arg("--plan").arg(at("plan.json"));
    picture(compare.arg("--configs").arg(at("configs.json")));
    let output = run(compare.arg("--json").arg(at("report.json")).arg("--plot").arg(at("plot.svg")));
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&fs::read(at("report.json")).unwrap()).unwrap();
    let of = |list: &str, name: &str| {
        let all = report["step_counts"][0][list].as_array().unwrap();
        let found = all.iter().find(|configuration| configuration["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {all:?}")).clone()
    };
    let plan = of("configurations", "plan, budget 0.6");
    assert_eq!((&plan["computed"], plan["pictures"].as_array().unwrap().len()), (&0.5.into(), 1));
    assert!(plan["psnr"].as_f64().unwrap() > 0.0 && plan["gmsd"].as_f64().unwrap() > 0.0, "{plan}");
    of("configurations", "defaults");
    assert_eq!(of("fewer_steps", "euler, 3 steps")["computed"], 0.5);
    // Two steps of heun are three runs of the transformer.
    assert_eq!(of("fewer_steps", "heun, 2 steps")["computed"], 0.5);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("| GMSD (worst) |") && table.contains("plan, psnr 45"), "{table}");
    assert!(fs::read_to_string(at("plot.svg")).unwrap().contains("plan, psnr 45"));
}
