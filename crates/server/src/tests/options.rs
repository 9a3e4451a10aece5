//! Priorities, deadlines, and the queue's headers.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use scheduler::SchedulerConfig;
use scheduler::fake::{FakePipeline, Gate};
use serde_json::{Value, json};

use super::{Answer, bounded_state, fake_app, generate, get, load_becomes, send, state};
use crate::app;

/// A generation with one more header.
async fn generate_with(app: &Router, name: &str, value: &str) -> Answer {
    let request = Request::post("/v1/images/generations").header("content-type", "application/json");
    send(app, request.header(name, value).body(Body::from(r#"{"prompt": "a cat"}"#)).unwrap()).await
}

#[tokio::test]
async fn the_queue_is_told_with_the_picture() {
    let pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    let bounds = SchedulerConfig { max_batch: 2, ..SchedulerConfig::default() };
    let state = bounded_state(&pipeline, bounds).await;
    let app = app(state.clone());
    let others = generate(&app, json!({"prompt": "a cat", "n": 5}));
    let late = async {
        load_becomes(&state, |load| load.waiting == 3).await;
        tokio::join!(generate(&app, json!({"prompt": "a dog", "n": 2})), async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            pipeline.gate.open();
        })
    };
    let (first, (late, ())) = tokio::join!(others, late);
    assert_eq!((first.status.as_u16(), late.status.as_u16()), (200, 200));
    assert_eq!((first.header("x-queue-position"), late.header("x-queue-position")), ("0", "3"));
    assert!(late.header("x-queue-ms").parse::<u64>().unwrap() >= 30, "{}", late.header("x-queue-ms"));
}

#[tokio::test]
async fn the_more_urgent_goes_first() {
    // The answers are far enough apart to be distinguished.
    let step_delay = Duration::from_millis(5);
    let pipeline = FakePipeline { gate: Gate::closed(), step_delay, ..FakePipeline::default() };
    let bounds = SchedulerConfig { max_batch: 1, ..SchedulerConfig::default() };
    let state = bounded_state(&pipeline, bounds).await;
    let app = app(state.clone());
    let answered = std::cell::RefCell::new(Vec::new());
    // Submits once `running` pictures are running and `waiting` are queued.
    let submit = async |running: usize, waiting: usize, priority: i64| {
        load_becomes(&state, |load| (load.running, load.waiting) == (running, waiting)).await;
        let answer = generate(&app, json!({"prompt": "a cat", "priority": priority})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answered.borrow_mut().push(priority);
    };
    let open = async {
        load_becomes(&state, |load| load.waiting == 3).await;
        pipeline.gate.open();
    };
    tokio::join!(submit(0, 0, 0), submit(1, 0, -5), submit(1, 1, 1), submit(1, 2, 10), open);
    assert_eq!(*answered.borrow(), [0, 10, 1, -5]);
}

#[tokio::test]
async fn a_priority_has_bounds_unless_there_are_none() {
    let answer = async |priorities: bool, priority: Value| {
        let mut state = state(&FakePipeline::default()).await;
        std::sync::Arc::get_mut(&mut state.config).unwrap().api.priorities = priorities;
        generate(&app(state), json!({"prompt": "a cat", "priority": priority})).await
    };
    for priority in [-10, 0, 10] {
        let answer = answer(true, json!(priority)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ignored-params")), (200, ""));
    }
    for (priority, message) in [
        (json!(11), "`priority` must be between -10 and 10. Given: 11"),
        (json!(-300), "`priority` must be between -10 and 10. Given: -300"),
        (json!("high"), "`priority` must be an integer. Given: \"high\""),
    ] {
        let answer = answer(true, priority).await;
        let error = &answer.json["error"];
        assert_eq!((error["param"].as_str(), error["message"].as_str()), (Some("priority"), Some(message)));
        assert_eq!(answer.status, 400);
    }
    let ignored = answer(false, json!(11)).await;
    assert_eq!((ignored.status.as_u16(), ignored.header("x-ignored-params")), (200, "priority"));
}

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused_at_once() {
    let step_delay = Duration::from_millis(20);
    let app = app(state(&FakePipeline { step_delay, ..FakePipeline::default() }).await);
    // After this one the time of a picture is known.
    assert_eq!(generate_with(&app, "x-request-timeout", "60").await.status, 200);
    for header in ["x-request-timeout", "x-stainless-read-timeout"] {
        let begun = std::time::Instant::now();
        let refused = generate_with(&app, header, "0.03").await;
        assert!(begun.elapsed() < step_delay, "{:?}", begun.elapsed());
        let error = &refused.json["error"];
        assert_eq!((refused.status.as_u16(), error["code"].as_str()), (429, Some("deadline_too_short")), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("with no wait for others, and is needed within 30.0ms"), "{message}");
        assert_eq!(refused.header("x-should-retry"), "false");
    }
}

#[tokio::test]
async fn a_deadline_that_the_queue_spoils_says_when_to_come_back() {
    let step_delay = Duration::from_millis(20);
    let state = state(&FakePipeline { step_delay, ..FakePipeline::default() }).await;
    let app = app(state.clone());
    // After this one the time of a picture is known.
    assert_eq!(generate_with(&app, "x-request-timeout", "60").await.status, 200);
    let others = generate(&app, json!({"prompt": "a cat", "n": 2, "num_inference_steps": 20, "priority": 1}));
    let refused = async {
        load_becomes(&state, |load| load.running == 2).await;
        // Enough for itself, but not for the pictures ahead of it.
        let refused = generate_with(&app, "x-request-timeout", "0.3").await;
        let error = &refused.json["error"];
        assert_eq!((refused.status.as_u16(), error["code"].as_str()), (429, Some("deadline_too_short")), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("of it waiting for others, and is needed within 300.0ms"), "{message}");
        assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), ("1", ""));
    };
    assert_eq!(tokio::join!(others, refused).0.status, 200);
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_job() {
    let pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    let app = app(state(&pipeline).await);
    // More than the guess for a picture of an uncalibrated pipeline.
    let late = generate_with(&app, "x-request-timeout", "0.8").await;
    let error = &late.json["error"];
    assert_eq!((late.status.as_u16(), error["code"].as_str()), (504, Some("deadline_exceeded")), "{error}");
    assert_eq!(late.header("x-should-retry"), "false");
    let samples = get(&app, "/metrics").await.text;
    assert!(samples.contains("latentd_failed_total{reason=\"deadline_exceeded\"} 1\n"), "{samples}");
    pipeline.gate.open();
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused_or_ignored() {
    let app = fake_app().await;
    let refused = generate_with(&app, "x-request-timeout", "soon").await;
    let error = &refused.json["error"];
    assert_eq!((refused.status.as_u16(), error["param"].as_str()), (400, Some("x-request-timeout")));
    assert_eq!(error["message"], "`x-request-timeout` must be a number of seconds above 0. Given: \"soon\"");
    assert_eq!(generate_with(&app, "x-stainless-read-timeout", "NOT_GIVEN").await.status, 200);
}
