//! The operator's view: `GET /metrics`, admission bounds, several workers, audits.

use std::collections::BTreeMap;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

use crate::binary::{latentd, run, stderr};
use crate::serve::Server;

/// A scrape's samples, by name and labels.
pub async fn samples(server: &Server) -> BTreeMap<String, f64> {
    let text = tests::http().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The sum of the samples whose names and labels contain all of `parts`.
fn sum(samples: &BTreeMap<String, f64>, parts: &[&str]) -> f64 {
    samples.iter().filter(|(name, _)| parts.iter().all(|part| name.contains(part))).map(|(_, value)| value).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_and_an_uncached_picture_are_told_apart() {
    let server = Server::start(&["--cache-backend", "cache_dit", "--allow-request-cache-config"]).await;
    let body = |cache: Value| {
        let prompt = "a fox on a green background";
        json!({"prompt": prompt, "num_inference_steps": 20, "seed": 5, "cache": cache, "return_cache_stats": true})
    };
    assert_eq!(server.post(&body("off".into())).await.0, 200);
    let uncached = samples(&server).await;
    let runs = "latentd_cache_block_runs_total{";
    // There are two guidance branches in one segment.
    for branch in ["cond", "uncond"] {
        let labels = format!(r#"decision="computed",reason="uncached",branch="{branch}""#);
        assert_eq!(sum(&uncached, &[runs, &labels]), 20.0, "{branch}");
    }
    assert_eq!(sum(&uncached, &[runs]), 40.0);
    assert_eq!(sum(&uncached, &["step_duration_seconds_count", "computed"]), 20.0);
    assert_eq!(uncached["latentd_cache_residual_diff_count"], 0.0);

    let (status, answer) = server.post(&body(Value::Null)).await;
    assert_eq!(status, 200, "{answer}");
    let cached = samples(&server).await;
    let report = &answer["data"][0]["cache"];
    let of_runs = |key: &str| report["runs"].as_array().unwrap().iter().map(|run| run[key].as_f64().unwrap()).sum();
    let (computed, reused): (f64, f64) = (of_runs("computed_steps"), of_runs("reused_steps"));
    assert!(computed + reused == 40.0 && reused > 0.0, "{report}");
    assert_eq!(sum(&cached, &[runs, "decision=\"computed\""]), 40.0 + computed);
    assert_eq!(sum(&cached, &[runs, "decision=\"reused\""]), reused);
    assert_eq!(sum(&cached, &[runs, "reason=\"similar\""]), reused);
    let whole_steps = sum(&cached, &["step_duration_seconds_count", "decision=\"reused\""]);
    assert_eq!(Some(whole_steps), report["reused_steps"].as_f64());
    assert!(cached["latentd_cache_residual_diff_count"] >= reused);

    let ok = r#"latentd_requests_total{endpoint="/v1/images/generations",model="latentd/builtin",outcome="ok"}"#;
    assert_eq!((cached[ok], cached["latentd_images_total"]), (2.0, 2.0));
    assert_eq!(cached["latentd_inference_steps_sum"], 40.0);
    assert_eq!(cached["latentd_image_pixels_sum"], 2.0 * 128.0 * 128.0);
    assert!(cached["process_resident_memory_bytes"] > 1e7);
    // The empty negative prompt was cached by the warm-up, and the prompt by the first picture.
    assert_eq!(sum(&cached, &["encoding_cache_lookups_total", "kind=\"prompt\"", "result=\"miss\""]), 1.0);
    assert_eq!(sum(&cached, &["encoding_cache_lookups_total", "kind=\"prompt\"", "result=\"hit\""]), 3.0);
    assert!(cached["latentd_encoding_cache_bytes{worker=\"0\"}"] > 1e3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_bounds_is_refused_before_any_work() {
    let server = Server::start(&["--memory-budget", "1KiB"]).await;
    let (status, error) = server.post(&json!({"prompt": "a fox"})).await;
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("size")), "{error}");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("at most 1.0 KiB of memory (the server's --memory-budget)"), "{message}");
    assert_eq!(sum(&samples(&server).await, &["rejected_total", "request_too_large"]), 1.0);

    let server = Server::start(&["--max-request-seconds", "1"]).await;
    // This picture takes minutes.
    let long = json!({"prompt": "a cat", "num_inference_steps": 1000, "size": "256x256", "negative_prompt": " "});
    let (status, error) = server.post(&long).await;
    assert_eq!((status, error["error"]["code"].as_str()), (429, Some("deadline_too_short")), "{error}");
    let samples = samples(&server).await;
    assert_eq!(sum(&samples, &["rejected_total", "deadline_too_short"]), 1.0);
    assert_eq!(sum(&samples, &["step_duration_seconds_count"]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_make_the_pictures_of_one() {
    let body = |seed| json!({"prompt": "a cat", "num_inference_steps": 6, "seed": seed});
    let (one, two) = (Server::start(&[]).await, Server::start(&["--device", "cpu,cpu"]).await);
    let pictures = async |server: &Server| {
        let bodies = [body(1), body(2)];
        let (a, b) = tokio::join!(server.post(&bodies[0]), server.post(&bodies[1]));
        [a.1["data"].clone(), b.1["data"].clone()]
    };
    let expected = pictures(&one).await;
    assert!(expected.iter().all(Value::is_array), "{expected:?}");
    assert_eq!(pictures(&two).await, expected);
}

/// Sends a generation with an additional header.
async fn generate(server: &Server, body: Value, name: &'static str, value: &'static str) -> Response {
    let client = tests::http();
    let request = client.post(server.url("/v1/images/generations")).header("content-type", "application/json");
    request.header(name, value).body(body.to_string()).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Waits until these numbers of pictures are running and waiting.
async fn load_becomes(server: &Server, running: f64, waiting: f64) {
    let became = timeout(Duration::from_secs(60), async {
        loop {
            let samples = samples(server).await;
            if [samples["latentd_requests_running"], samples["latentd_requests_waiting"]] == [running, waiting] {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    became.await.expect("the load stays as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_more_urgent_of_two_is_made_first() {
    let server = Server::start(&["--max-batch", "1"]).await;
    let body =
        |steps: usize, priority: i64| json!({"prompt": "a cat", "num_inference_steps": steps, "priority": priority});
    let picture = async |steps, priority, running, waiting| {
        load_becomes(&server, running, waiting).await;
        let response = generate(&server, body(steps, priority), "authorization", "Bearer sk-1").await;
        assert_eq!(response.status(), 200);
        (header(&response, "x-queue-ms").parse::<u64>().unwrap(), header(&response, "x-queue-position").to_owned())
    };
    // The third request overtakes the second, which then waits until the third is done.
    let (first, idle, urgent) =
        tokio::join!(picture(200, 0, 0.0, 0.0), picture(1, -5, 1.0, 0.0), picture(20, 5, 1.0, 1.0));
    assert_eq!([&first.1, &idle.1, &urgent.1], ["0"; 3]);
    assert!(idle.0 > urgent.0 && urgent.0 > first.0, "{first:?} {idle:?} {urgent:?}");

    let (status, error) = server.post(&body(1, 11)).await;
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("priority")), "{error}");
    let server = Server::start(&["--no-priorities"]).await;
    let response = generate(&server, body(1, 11), "x-request-timeout", "600").await;
    assert_eq!((response.status().as_u16(), header(&response, "x-ignored-params")), (200, "priority"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_how_long_it_may_take() {
    let server = Server::start(&[]).await;
    let body = || json!({"prompt": "a cat", "num_inference_steps": 4});
    for (name, value, status) in [
        ("x-request-timeout", "0.001", 429),
        ("x-stainless-read-timeout", "0.001", 429),
        ("x-request-timeout", "soon", 400),
        ("x-stainless-read-timeout", "soon", 200),
        ("x-request-timeout", "600", 200),
        ("x-stainless-read-timeout", "600", 200),
    ] {
        assert_eq!(generate(&server, body(), name, value).await.status(), status, "{name}: {value}");
    }
    let samples = samples(&server).await;
    assert_eq!(sum(&samples, &["rejected_total", "deadline_too_short"]), 2.0);
    assert_eq!(samples["latentd_images_total"], 3.0);
}

#[test]
fn every_flag_is_an_environment_variable_too() {
    let refused = |variables: &[(&str, &str)]| stderr(&run(latentd().arg("serve").envs(variables.iter().copied())));
    for (name, value, told) in [
        ("LATENTD_MAX_BATCH", "0", "LATENTD_MAX_BATCH must be at least 1. Given: 0"),
        ("LATENTD_MEMORY_BUDGET", "0B", "LATENTD_MEMORY_BUDGET must be at least 1 byte. Given: 0"),
        (
            "LATENTD_MAX_BACKLOG_SECONDS",
            "0",
            "LATENTD_MAX_BACKLOG_SECONDS: must be a whole number of at least 1. Given: 0",
        ),
        (
            "LATENTD_MAX_REQUEST_SECONDS",
            "0",
            "LATENTD_MAX_REQUEST_SECONDS: must be a whole number of at least 1. Given: 0",
        ),
        ("LATENTD_DEVICE", "cpu,gpu", "LATENTD_DEVICE: must be `auto`, `cpu`, `cuda` or `cuda:N`. Given: cpu,gpu"),
        ("LATENTD_NO_PRIORITIES", "maybe", "LATENTD_NO_PRIORITIES: value was not a boolean. Given: maybe"),
    ] {
        let message = refused(&[(name, value)]);
        assert!(message.contains(told), "{message}");
    }
    // Switches accept the common spellings, so only the other variable is refused.
    for switch in ["NO_PRIORITIES", "ALLOW_REQUEST_CACHE_CONFIG", "ENABLE_CACHE_DIT_SUMMARY"] {
        for value in ["1", "true", "off"] {
            let message = refused(&[(&format!("LATENTD_{switch}"), value), ("LATENTD_MAX_BATCH", "0")]);
            assert!(message.contains("LATENTD_MAX_BATCH must be at least 1"), "{switch}={value}: {message}");
        }
    }
}

/// The audit figures of `/info`, once `done` audits have finished.
async fn audits(server: &Server, done: u64) -> Value {
    let all = async {
        loop {
            let info: Value = tests::http().get(server.url("/info")).send().await.unwrap().json().await.unwrap();
            if info["cache_audits"]["done"].as_u64() == Some(done) {
                return info["cache_audits"].clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(120), all).await.expect("audits are done while nothing else is")
}

#[tokio::test(flavor = "multi_thread")]
async fn audited_pictures_are_like_their_uncached_ones_and_count_nowhere_else() {
    let flags = ["--cache-backend", "calibrated", "--cache-config", "{\"psnr\":45}", "--allow-request-cache-config"];
    let server = Server::start(&[&flags[..], &["--cache-audit", "1"]].concat()).await;
    let body = |seed: u64, cache: Value| {
        // The built-in model's plans are for requests with guidance.
        json!({"prompt": "a fox on a green background", "num_inference_steps": 20, "seed": seed, "cache": cache})
    };
    for seed in 0..3 {
        assert_eq!(server.post(&body(seed, Value::Null)).await.0, 200);
    }
    assert_eq!(server.post(&body(3, "off".into())).await.0, 200, "without a cache there is nothing to audit");
    let told = audits(&server, 3).await;
    let mean = |key: &str| told["mean"][key].as_f64().unwrap();
    // 20 dB would be another picture, 100 dB the same one.
    assert!((30.0..90.0).contains(&mean("psnr_db")) && (0.8..=1.0).contains(&mean("ssim")), "{told}");
    assert!(mean("latent_error") > 0.0 && mean("latent_error") < 0.3, "{told}");
    assert_eq!((&told["promised_psnr_db"], &told["aims"][0]["aim"]), (&json!(45.0), &json!("psnr_45")));

    let scraped = samples(&server).await;
    assert_eq!(scraped["latentd_cache_audits_total{outcome=\"done\"}"], 3.0);
    for histogram in ["psnr_db", "ssim", "latent_error"] {
        assert_eq!(scraped[&format!("latentd_cache_audit_{histogram}_count{{aim=\"psnr_45\"}}")], 3.0);
    }
    assert_eq!(scraped["latentd_images_total"], 4.0, "of what was asked for alone");
    assert_eq!(scraped["latentd_inference_steps_sum"], 80.0);
    assert_eq!((scraped["latentd_requests_waiting"], scraped["latentd_requests_running"]), (0.0, 0.0));
}
