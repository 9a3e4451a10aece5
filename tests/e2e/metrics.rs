//! What an operator sees and sets: `GET /metrics`, bounds on what is taken, several workers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::serve::Server;

/// A scrape's samples, by name and labels.
async fn samples(server: &Server) -> BTreeMap<String, f64> {
    let text = reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap();
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
    // Two guidance branches, in one segment.
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
    // Minutes of work.
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
