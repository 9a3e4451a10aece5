//! Metrics: counts and durations.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use scheduler::fake::{FakePipeline, Gate};
use scheduler::{Scheduler, SchedulerConfig};
use serde_json::json;

use super::{config, fake_app, generate, get, load_becomes, send, state};
use crate::{AppState, Metrics, app};

/// The samples of a scrape, by name and labels.
type Samples = BTreeMap<String, f64>;

async fn scrape(app: &Router) -> Samples {
    let lines = get(app, "/metrics").await.text;
    let samples = lines.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The counters that changed between two scrapes, without the process's CPU time and the scrapes themselves.
fn counted(before: &Samples, after: &Samples) -> Vec<String> {
    let is_count = |name: &str| {
        let name = name.split('{').next().unwrap_or_default();
        (name.ends_with("_total") || name.ends_with("_count")) && name.starts_with("latentd_")
    };
    let counts = after.iter().filter(|(name, _)| is_count(name) && !name.contains("\"/metrics\""));
    let moved = counts.map(|(name, value)| (name, value - before.get(name).copied().unwrap_or(0.0)));
    moved.filter(|(_, by)| *by != 0.0).map(|(name, by)| format!("{} {by}", &name["latentd_".len()..])).collect()
}

/// The request metrics of a generation.
fn request(outcome: &str) -> String {
    format!("requests_total{{endpoint=\"/v1/images/generations\",model=\"Fake/Fake-Image\",outcome=\"{outcome}\"}} 1")
}

#[tokio::test]
async fn a_generation_moves_each_counter_by_what_it_did() {
    let app = fake_app().await;
    let before = scrape(&app).await;
    let body = json!({"prompt": "a cat", "n": 2, "num_inference_steps": 3, "size": "128x64", "model": "gpt-image-1"});
    assert_eq!(generate(&app, body).await.status, 200);
    let after = scrape(&app).await;
    let run = r#"decision="computed",reason="uncached",branch="cond",segment="transformer_blocks""#;
    let endpoint = r#"endpoint="/v1/images/generations",model="Fake/Fake-Image""#;
    let expected = [
        "batch_size_count 3",
        &format!("cache_block_runs_total{{{run}}} 6"),
        "image_pixels_count 2",
        "images_total 2",
        "inference_steps_count 2",
        "queue_duration_seconds_count 2",
        &format!("request_duration_seconds_count{{{endpoint}}} 1"),
        &request("ok"),
        "stage_duration_seconds_count{stage=\"decode\"} 2",
        "stage_duration_seconds_count{stage=\"encode\"} 2",
        "stage_duration_seconds_count{stage=\"image\"} 2",
        "stage_duration_seconds_count{stage=\"step\"} 3",
        "step_duration_seconds_count{decision=\"computed\"} 3",
    ];
    assert_eq!(counted(&before, &after), expected);
    let sums = ["batch_size", "image_pixels", "inference_steps"].map(|name| after[&format!("latentd_{name}_sum")]);
    assert_eq!(sums, [6.0, 2.0 * 128.0 * 64.0, 6.0]);
    let gauges = ["running", "waiting"].map(|name| after[&format!("latentd_requests_{name}")]);
    assert_eq!(gauges, [0.0; 2]);
}

#[tokio::test]
async fn a_failed_picture_is_counted_with_its_reason() {
    let cases = [
        ("invalid in prepare", "invalid_value", "invalid_value"),
        ("oom in step", "out_of_memory", "out_of_memory"),
        ("fail in decode", "model_error", "internal_error"),
        ("nan in decode", "not_finite", "not_finite"),
        ("panic in step", "crashes_model", "crashes_model"),
    ];
    for (prompt, reason, outcome) in cases {
        let app = fake_app().await;
        let before = scrape(&app).await;
        generate(&app, json!({"prompt": prompt})).await;
        let counted = counted(&before, &scrape(&app).await);
        let ends: Vec<_> = counted.iter().filter(|line| !line.contains("_count")).map(String::as_str).collect();
        let (failed, request) = (format!("failed_total{{reason=\"{reason}\"}} 1"), request(outcome));
        let runs = |steps: usize| {
            format!(
                "cache_block_runs_total{{decision=\"computed\",reason=\"uncached\",branch=\"cond\",\
                 segment=\"transformer_blocks\"}} {steps}"
            )
        };
        let (once, twice) = (runs(4), runs(8));
        let restarted = "restarted_total 1";
        let expected = match reason {
            "not_finite" => vec![once.as_str(), &failed, &request],
            // Each twice.
            "model_error" => vec![twice.as_str(), &failed, &request, restarted],
            "crashes_model" => vec![failed.as_str(), &request, restarted, "worker_crashes_total 2"],
            _ => vec![failed.as_str(), &request],
        };
        assert_eq!(ends, expected, "{prompt}");
        assert!(!counted.iter().any(|line| line.starts_with("request_duration")), "no pictures, no duration");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_with_its_pictures() {
    let pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let before = scrape(&app).await;
    tokio::select! {
        _ = generate(&app, json!({"prompt": "a cat", "n": 3})) => panic!("the gate is closed"),
        () = load_becomes(&state, |load| load.running == 2) => {}
    }
    let during = scrape(&app).await;
    assert_eq!((during["latentd_requests_running"], during["latentd_requests_waiting"]), (2.0, 1.0));
    load_becomes(&state, |load| load.running + load.waiting == 0).await;
    let after = scrape(&app).await;
    let ends: Vec<_> = counted(&before, &after).into_iter().filter(|line| !line.contains("_count")).collect();
    assert_eq!(ends, ["cancelled_total 3".to_owned(), request("client_left")]);
    assert_eq!((after["latentd_requests_running"], after["latentd_requests_waiting"]), (0.0, 0.0));
    pipeline.gate.open();
}

#[tokio::test]
async fn a_refusal_is_counted_once_wherever_it_was_decided() {
    let (_never, gate) = std::sync::mpsc::channel::<FakePipeline>();
    let loading = Metrics::default();
    let scheduler = Scheduler::spawn(SchedulerConfig::default(), vec![move || gate.recv()]);
    let app = app(AppState::new(scheduler, config(), loading));
    let before = scrape(&app).await;
    generate(&app, json!({"prompt": "a cat"})).await;
    let expected = ["rejected_total{reason=\"model_loading\"} 1".to_owned(), request("model_loading")];
    assert_eq!(counted(&before, &scrape(&app).await), expected);

    let pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    let state = state(&pipeline).await;
    let app = crate::app(state.clone());
    let others = generate(&app, json!({"prompt": "a cat", "n": 4}));
    let refused = async {
        load_becomes(&state, |load| load.waiting == 2).await;
        let before = scrape(&app).await;
        assert_eq!(generate(&app, json!({"prompt": "a dog"})).await.status, 429);
        let expected = ["rejected_total{reason=\"queue_full\"} 1".to_owned(), request("queue_full")];
        // The others may be in encoding meanwhile.
        let counted = counted(&before, &scrape(&app).await).into_iter().filter(|line| !line.contains("_count"));
        assert_eq!(counted.collect::<Vec<_>>(), expected);
        pipeline.gate.open();
    };
    assert_eq!(tokio::join!(others, refused).0.status, 200);
}

#[tokio::test]
async fn labels_do_not_grow_with_what_clients_send() {
    let app = fake_app().await;
    for i in 0..20 {
        get(&app, &format!("/v1/models/x{i}")).await;
        get(&app, &format!("/nowhere/{i}")).await;
        generate(&app, json!({"prompt": "a cat", "model": format!("model-{i}")})).await;
    }
    for path in ["/v1/models", "/models/", "/health", "/livez", "/readyz"] {
        get(&app, path).await;
    }
    let samples = scrape(&app).await;
    let requests =
        samples.iter().filter_map(|(name, count)| Some((name.strip_prefix("latentd_requests_total")?, *count)));
    let label = |labels: &str, i: usize| labels.split('"').nth(i).unwrap().to_owned();
    let requests: Vec<_> = requests.map(|(labels, count)| (label(labels, 1), label(labels, 5), count)).collect();
    let expected = [
        ("/health", "ok", 1.0),
        ("/livez", "ok", 1.0),
        ("/readyz", "ok", 1.0),
        ("/v1/images/generations", "model_not_found", 20.0),
        ("/v1/models", "ok", 2.0),
        ("/v1/models/{*id}", "model_not_found", 20.0),
        ("other", "unknown_url", 20.0),
    ];
    assert_eq!(requests, expected.map(|(endpoint, outcome, count)| (endpoint.into(), outcome.into(), count)));
}

#[tokio::test]
async fn whoever_asks_for_openmetrics_gets_it() {
    let app = fake_app().await;
    let plain = get(&app, "/metrics").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(plain.text.contains("# TYPE latentd_images_total counter\n"), "{}", plain.text);
    // The header of Prometheus 2.42.
    let accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
        text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let request = Request::get("/metrics").header(header::ACCEPT, accept).body(Body::empty()).unwrap();
    let open = send(&app, request).await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.contains("# UNIT latentd_queue_duration_seconds seconds\n"), "{}", open.text);
    assert!(open.text.ends_with("# EOF\n"));
}
