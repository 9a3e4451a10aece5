//! The access log: one line a request.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::spans::Spans;
use super::{fake_app, generate, get, send};

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends to the log of this thread.
struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Installs a subscriber that collects lines by thread, and spans by request.
///
/// One subscriber serves all tests. One for each test would lose lines: which events are enabled is cached for the
/// whole process, and concurrent tests would mislead each other.
pub(super) fn subscribe() {
    static SUBSCRIBER: Once = Once::new();
    let lines = || tracing_subscriber::fmt::layer().json().with_writer(|| ThisThread);
    SUBSCRIBER.call_once(|| tracing_subscriber::registry().with(LevelFilter::INFO).with(lines()).with(Spans).init());
}

/// What this test logs at info and above. Its handlers run on the test's own thread.
struct Collected;

impl Collected {
    fn start() -> Self {
        subscribe();
        LOGGED.set(Vec::new());
        Collected
    }

    fn text(&self) -> String {
        String::from_utf8(LOGGED.with_borrow(Clone::clone)).unwrap()
    }

    /// The fields of each request's line.
    fn requests(&self) -> Vec<Value> {
        let lines = self.text();
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take());
        events.filter(|fields| fields["message"] == "request").collect()
    }
}

#[tokio::test]
async fn a_generation_is_one_line_without_its_prompt() {
    let app = fake_app().await;
    let collected = Collected::start();
    let body = json!({"prompt": "a secret fox", "negative_prompt": "a secret dog", "n": 2, "num_inference_steps": 3});
    let answer = generate(&app, body).await;
    let [line] = &collected.requests()[..] else { panic!("{}", collected.text()) };
    assert_eq!(line["request_id"], answer.header("x-request-id"));
    assert_eq!(line["path"], "/v1/images/generations");
    let facts = json!([line["status"], line["model"], line["size"], line["steps"], line["n"]]);
    assert_eq!(facts, json!([200, "Fake/Fake-Image", "64x64", 3, 2]));
    for stage in ["ms", "queue_ms", "text_encoder_ms", "denoise_ms", "vae_ms", "encode_image_ms"] {
        assert!(line[stage].is_f64(), "{stage} in {line}");
    }
    assert_eq!(line["bytes"], answer.text.len());
    assert!(!collected.text().contains("secret"), "{}", collected.text());
}

#[tokio::test]
async fn a_line_names_the_key_and_does_not_tell_it() {
    let mut config = super::config();
    config.api_keys.add("team-a=sk-secret").unwrap();
    let state = super::configured_state(&Default::default(), Default::default(), config).await;
    let collected = Collected::start();
    for key in ["sk-secret", "sk-secret-too"] {
        let request = Request::post("/v1/images/generations").header("authorization", format!("Bearer {key}"));
        let request = request.header("content-type", "application/json").body(Body::from(r#"{"prompt": "a cat"}"#));
        send(&crate::app(state.clone()), request.unwrap()).await;
    }
    let facts: Vec<_> = collected.requests().iter().map(|line| json!([line["status"], line["key"]])).collect();
    assert_eq!(facts, [json!([200, "team-a"]), json!([401, null])]);
    assert!(!collected.text().contains("sk-secret"), "{}", collected.text());
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_wait_for_is_logged_as_left() {
    let app = fake_app().await;
    let collected = Collected::start();
    let response = app.clone().oneshot(Request::get("/v1/models").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), collected.text()), (200, String::new()));
    drop(response);
    let head = send(&app, Request::head("/v1/models").body(Body::empty()).unwrap()).await;
    assert_eq!(head.text, "");
    let facts: Vec<_> = collected.requests().iter().map(|line| json!([line["status"], line["bytes"]])).collect();
    assert_eq!(facts, [json!([499, 0]), json!([200, 0])]);
}

#[tokio::test]
async fn a_refusal_is_one_line_with_its_code() {
    let app = fake_app().await;
    let collected = Collected::start();
    generate(&app, json!({"prompt": "a secret fox", "n": 11})).await;
    get(&app, "/nowhere").await;
    let facts: Vec<_> = collected.requests().iter().map(|line| json!([line["status"], line["code"]])).collect();
    assert_eq!(facts, [json!([400, "invalid_value"]), json!([404, "unknown_url"])]);
    assert!(!collected.text().contains("secret"));
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_with_what_it_asked_for() {
    let pipeline = scheduler::fake::FakePipeline { gate: scheduler::fake::Gate::closed(), ..Default::default() };
    let state = super::state(&pipeline).await;
    let collected = Collected::start();
    let app = crate::app(state.clone());
    let request = Request::post("/v1/images/generations").header("content-type", "application/json");
    let request = request.body(Body::from(r#"{"prompt": "a cat", "n": 2}"#)).unwrap();
    tokio::select! {
        _ = send(&app, request) => panic!("the gate is closed"),
        () = super::load_becomes(&state, |load| load.running == 2) => {}
    }
    pipeline.gate.open();
    let [line] = &collected.requests()[..] else { panic!("{}", collected.text()) };
    assert_eq!(json!([line["status"], line["n"], line["size"]]), json!([499, 2, "64x64"]));
}

#[tokio::test]
async fn a_streams_line_is_written_at_its_end() {
    let app = fake_app().await;
    let collected = Collected::start();
    let body = |prompt| json!({"prompt": prompt, "n": 2, "stream": true, "partial_images": 1});
    let whole = generate(&app, body("a cat")).await;
    let failed = generate(&app, body("oom in decode")).await;
    let left = app.clone().oneshot(super::generation(body("a cat"), &[])).await.unwrap();
    assert_eq!(collected.requests().len(), 2, "the third has begun and not ended");
    drop(left);
    let lines = collected.requests();
    let facts: Vec<_> = lines.iter().map(|line| json!([line["status"], line["code"], line["n"]])).collect();
    assert_eq!(facts, [json!([200, null, 2]), json!([200, "out_of_memory", 2]), json!([499, null, 2])]);
    assert_eq!([&lines[0]["bytes"], &lines[1]["bytes"]], [whole.text.len(), failed.text.len()]);
    for figure in ["first_partial_ms", "queue_ms", "denoise_ms", "encode_image_ms", "queue_position"] {
        assert!(lines[0][figure].is_number(), "{figure} in {}", lines[0]);
    }
    assert!(lines[0]["first_partial_ms"].as_f64().unwrap() <= lines[0]["ms"].as_f64().unwrap());
}

#[tokio::test]
async fn a_jobs_line_is_written_when_the_job_ends() {
    for (prompt, status, code) in
        [("a cat", json!(202), Value::Null), ("oom in step", json!(202), json!("out_of_memory"))]
    {
        let pipeline = scheduler::fake::FakePipeline { gate: scheduler::fake::Gate::closed(), ..Default::default() };
        let app = crate::app(super::state(&pipeline).await);
        let collected = Collected::start();
        let accepted = generate(&app, json!({"prompt": prompt, "async": true})).await;
        assert_eq!((accepted.status.as_u16(), collected.requests().len()), (202, 0), "accepted, and not ended");
        pipeline.gate.open();
        super::jobs::ended(&app, accepted.json["id"].as_str().unwrap()).await;
        tokio::task::yield_now().await;
        let id = accepted.header("x-request-id");
        let lines = collected.requests();
        let line = lines.iter().find(|line| line["request_id"] == id).unwrap_or_else(|| panic!("{}", collected.text()));
        assert_eq!((&line["status"], &line["code"], &line["bytes"]), (&status, &code, &json!(accepted.text.len())));
        assert_eq!(line["denoise_ms"].is_f64(), code.is_null());
    }
}

#[tokio::test]
async fn probes_are_quiet_while_all_is_well() {
    let app = fake_app().await;
    let collected = Collected::start();
    get(&app, "/health").await;
    assert_eq!(collected.text(), "");
}

#[tokio::test]
async fn the_reason_of_a_fault_is_logged_and_not_told() {
    let app = fake_app().await;
    let collected = Collected::start();
    let answer = generate(&app, json!({"prompt": "fail in step"})).await;
    let reason = "the model failed: the prompt asked for a failure";
    assert!(collected.text().contains(reason) && !answer.json.to_string().contains(reason));
    let id = answer.header("x-request-id");
    let text = collected.text();
    let is_told = |line: &str| line.contains(reason) && line.contains(id);
    assert!(text.lines().any(is_told), "the reason stands under the request's id: {text}");
}
