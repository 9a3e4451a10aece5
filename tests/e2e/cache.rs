//! The step cache through the binary: settings from flags, files and request bodies, and its reports.

use std::fs;

use serde_json::{Value, json};

use crate::binary::{folder, latentd, run, stderr};
use crate::serve::Server;

/// Settings that are invalid for every model, and the words that each error must contain.
const INVALID: [(&str, &[&str]); 14] = [
    (r#"{"residual_diff_treshold": 0.1}"#, &["residual_diff_treshold", "residual_diff_threshold"]),
    (r#"{"Fn_compute_blocks": 0}"#, &["Fn_compute_blocks", "at least 1", "0"]),
    (r#"{"Fn_compute_blocks": 13}"#, &["Fn_compute_blocks", "at most 12", "13"]),
    (r#"{"Fn_compute_blocks": 8, "Bn_compute_blocks": 5}"#, &["Bn_compute_blocks", "at most 4", "5"]),
    (r#"{"Fn_compute_blocks": "one"}"#, &["Fn_compute_blocks", "one"]),
    (r#"{"max_warmup_steps": -1}"#, &["max_warmup_steps", "-1"]),
    (r#"{"max_cached_steps": 1.5}"#, &["max_cached_steps", "1.5"]),
    (r#"{"residual_diff_threshold": -0.1}"#, &["residual_diff_threshold", "at least 0", "-0.1"]),
    (r#"{"enable_taylorseer": "yes"}"#, &["enable_taylorseer", "yes"]),
    (r#"{"taylorseer_order": 9}"#, &["taylorseer_order", "between 0 and 4", "9"]),
    (r#"{"scm_steps_mask_policy": "turbo"}"#, &["scm_steps_mask_policy", "slow", "turbo"]),
    (r#"{"steps_computation_mask": [1, 2]}"#, &["steps_computation_mask", "2"]),
    (
        r#"{"steps_computation_mask": [0, 1], "scm_steps_policy": "static"}"#,
        &["steps_computation_mask", "start with a computed step"],
    ),
    (r#"{"quality": "best"}"#, &["quality", "lossless", "best"]),
];

#[track_caller]
fn says_all(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

#[test]
fn an_invalid_setting_stops_the_program_in_one_line() {
    let folder = folder();
    let file = folder.path().join("cache.json");
    for (config, words) in INVALID {
        fs::write(&file, config).unwrap();
        for given in [config.to_owned(), format!("@{}", file.display())] {
            for command in [&["serve", "--port", "0"][..], &["generate", "a cat", "-o", "x.png"]] {
                let flags = ["--cache-backend", "cache_dit", "--cache-config", &given];
                let output = run(latentd().args(command).args(flags).current_dir(folder.path()));
                let message = stderr(&output);
                assert_eq!(output.status.code(), Some(2), "{command:?} {given}: {message}");
                let errors: Vec<_> = message.lines().filter(|line| line.contains("error: ")).collect();
                assert_eq!(errors.len(), 1, "{command:?} {given}: {message}");
                says_all(errors[0], words);
            }
        }
    }
    assert!(!folder.path().join("x.png").exists());
}

#[test]
fn bad_json_is_no_configuration() {
    for config in ["{", "[1]", "fast", "@/no/such/file"] {
        let output = run(latentd().args(["serve", "--cache-backend", "cache_dit", "--cache-config", config]));
        assert_eq!(output.status.code(), Some(2), "{config}: {}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_setting_in_a_body_is_refused_by_name() {
    let server = Server::start(&["--allow-request-cache-config"]).await;
    for (config, words) in INVALID {
        let config: Value = serde_json::from_str(config).unwrap();
        let (status, answer) = server.post(&json!({"prompt": "x", "cache": config})).await;
        assert_eq!(status, 400, "{config}: {answer}");
        says_all(&answer["error"].to_string(), words);
    }
    let server = Server::start(&[]).await;
    let (status, answer) = server.post(&json!({"prompt": "x", "cache": {"residual_diff_threshold": 0.1}})).await;
    assert_eq!((status, answer["error"]["param"].as_str()), (400, Some("cache")), "{answer}");
    says_all(answer["error"]["message"].as_str().unwrap(), &["--allow-request-cache-config"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_batch_have_caches_of_their_own() {
    let server =
        Server::start(&["--cache-backend", "cache_dit", "--allow-request-cache-config", "--max-batch", "8"]).await;
    let body = |cache: Value| {
        let mut body = json!({"prompt": "a fox on a green background", "num_inference_steps": 20, "seed": 5});
        body["return_cache_stats"] = true.into();
        if !cache.is_null() {
            body["cache"] = cache;
        }
        body
    };
    let settings = [
        Value::Null,
        json!("off"),
        json!({"residual_diff_threshold": 0.12, "Fn_compute_blocks": 4}),
        json!({"Fn_compute_blocks": 2, "Bn_compute_blocks": 2, "enable_taylorseer": true}),
        json!({"scm_steps_mask_policy": "fast", "scm_steps_policy": "static", "enable_taylorseer": true}),
        json!("ultra"),
    ];
    let mut alone = Vec::new();
    for cache in &settings {
        alone.push(server.post(&body(cache.clone())).await.1);
    }
    let together = futures_util::future::join_all(settings.iter().map(|cache| {
        let body = body(cache.clone());
        let server = &server;
        async move { server.post(&body).await.1 }
    }))
    .await;
    for ((cache, alone), together) in settings.iter().zip(&alone).zip(&together) {
        let report = |answer: &Value| answer["data"][0]["cache"].to_string();
        assert_eq!(report(alone), report(together), "{cache}");
        assert!(alone["data"][0]["cache"]["runs"].is_array(), "{cache}: {}", report(alone));
        assert_eq!(alone["data"], together["data"], "{cache}: the picture, alone and in company");
    }
    assert_eq!(alone[1]["data"][0]["cache"]["reused_steps"], 0);
    let mask = alone[4]["data"][0]["cache"]["runs"][0]["decisions"].as_str().unwrap();
    assert_eq!(
        mask,
        ::cache::StepMask::from_policy(::cache::ScmPolicy::Fast, 20).unwrap().to_string().replace('0', "C")
    );
    let reused = |i: usize| alone[i]["data"][0]["cache"]["reused_steps"].as_u64().unwrap();
    assert!(reused(0) > 0 && reused(5) > reused(0), "{} and {}", reused(0), reused(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibrated_cache_follows_its_plan() {
    let folder = folder();
    let (plan, prompts) = (folder.path().join("plan.json"), folder.path().join("prompts.txt"));
    fs::write(&prompts, "a dog\na large cactus on a blue background\n").unwrap();
    let mut command = latentd();
    command.args(["cache", "calibrate", "--steps", "10", "--prompts"]).arg(&prompts).arg("-o").arg(&plan);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));

    let config = json!({"plan": format!("@{}", plan.display()), "budget": 0.5}).to_string();
    let flags = ["--cache-backend", "calibrated", "--cache-config", &config, "--allow-request-cache-config"];
    let server = Server::start(&flags).await;
    let ask = async |steps: usize, cache: Value| {
        let body = json!({"prompt": "a fox", "seed": 1, "num_inference_steps": steps, "return_cache_stats": true,
                          "cache": cache});
        server.post(&body).await
    };
    for (steps, cache, computed) in [
        (10, Value::Null, 5),
        (14, json!({"budget": 0.3}), 4),
        (10, json!("off"), 10),
        (2, Value::Null, 2),
        (10, json!({"psnr": 0}), 3),
        (10, json!({"quality": "high", "max_warmup_steps": 10}), 10),
    ] {
        let (status, answer) = ask(steps, cache.clone()).await;
        assert_eq!(status, 200, "{answer}");
        let report = &answer["data"][0]["cache"];
        let reused = report["reused_steps"].as_u64().unwrap_or(0);
        assert_eq!(steps as u64 - reused, computed, "{steps} {cache}: {answer}");
    }
    let (status, answer) = ask(10, json!({"budget": 3})).await;
    assert_eq!(status, 400, "{answer}");
    says_all(&answer["error"]["message"].to_string(), &["budget", "above 0 and at most 1", "3"]);
}

#[test]
fn what_is_no_calibration_is_told_in_one_line() {
    let folder = folder();
    let file = folder.path().join("plan.json");
    let at = format!("@{}", file.display());
    let told = |text: &str, config: Value| {
        fs::write(&file, text).unwrap();
        let mut command = latentd();
        command.args(["generate", "a fox", "--cache-backend", "calibrated", "--cache-config", &config.to_string()]);
        let output = run(command.current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let whole = json!({"plan": at, "budget": 0.5});
    says_all(&told("{", whole.clone()), &["plan.json` is no calibration of this program: EOF"]);
    says_all(&told("{}", whole.clone()), &["missing field `class`"]);
    let short = r#"{"class":"Q","model":"","num_inference_steps":2,"guidance":null,"pictures":1,"plans":[]}"#;
    says_all(&told(short, whole), &["it must have 3 to 200 `num_inference_steps`. Given: 2"]);
    says_all(
        &told("{}", json!({"plan": at, "budget": 0})),
        &["`budget` must be above 0 and at most 1, a share of the steps. Given: 0"],
    );
    says_all(&told("{}", json!({"plan": at, "psnr": 101})), &["`psnr` must be from 0 to 100, in dB. Given: 101"]);
    let both = told("{}", json!({"plan": at, "budget": 0.5, "psnr": 45}));
    says_all(&both, &["`psnr` must be absent where `budget` is given. Given: 45"]);
    let other = json!({"class": "SomePipeline", "model": "00", "num_inference_steps": 4, "guidance": null, "pictures": 1, "plans": [
        {"computed": [0], "jumps": [{"velocities": [1], "latents": 0}], "psnr": {"mean": 9, "tenth": 9, "least": 9}}]});
    says_all(
        &told(&other.to_string(), json!({"plan": at})),
        &["the plan is of another model (SomePipeline)", "calibrate"],
    );
    let nowhere = told("{}", json!({"plan": "@/no/such.json", "budget": 0.5}));
    says_all(&nowhere, &["cannot read `/no/such.json`"]);
}

#[test]
fn a_trace_tells_every_decision() {
    let folder = folder();
    let (trace, plot) = (folder.path().join("trace.json"), folder.path().join("plot.svg"));
    let mut command = latentd();
    command.args(["generate", "a fox", "--num-inference-steps", "12", "--seed", "1", "--cache-backend", "cache_dit"]);
    command
        .arg("-o")
        .arg(folder.path().join("fox.png"))
        .arg("--cache-trace")
        .arg(&trace)
        .arg("--cache-plot")
        .arg(&plot);
    let output = run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    let entries = trace[0]["trace"].as_array().unwrap();
    assert_eq!(entries.len(), 12 * 2, "an entry a step and branch: {trace}");
    assert!(entries.iter().any(|entry| entry["diff"].is_number()), "{trace}");
    assert!(fs::read_to_string(plot).unwrap().contains("<svg"));
}
