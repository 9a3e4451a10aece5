//! Refusals and their errors.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use scheduler::fake::{FakePipeline, Gate};
use scheduler::{Scheduler, SchedulerConfig};
use serde_json::{Value, json};

use super::{Answer, config, fake_app, generate, get, load_becomes, send, state};
use crate::{AppState, Metrics, app};

/// Status, code, param and message of an error as one line; also checks its schema.
fn line(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), "application/json", "{}", answer.json);
    let error = answer.json["error"].as_object().unwrap_or_else(|| panic!("{}", answer.json));
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    let expected_type = match answer.status.as_u16() {
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    assert_eq!(error["type"], expected_type);
    let text = |key: &str| error[key].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} | {}", answer.status.as_u16(), text("code"), text("param"), text("message"))
}

#[tokio::test]
async fn a_name_stands_in_a_body_once() {
    let app = fake_app().await;
    for (body, name) in [
        (r#"{"prompt": "a cat", "prompt": "a dog"}"#, "prompt"),
        (r#"{"prompt": "a cat", "n": 1, "n": 1}"#, "n"),
        (r#"{"prompt": "a cat", "n": 1, "n": null}"#, "n"),
        (r#"{"prompt": "a cat", "extra_body": {"seed": 1, "seed": 2}}"#, "seed"),
    ] {
        let expected = format!("400 invalid_value {name} | `{name}` must be there once. Given: more than one value");
        assert_eq!(line(&generate(&app, body).await), expected, "{body}");
    }
    for body in [
        r#"{"prompt": "a cat", "n": null, "n": 1}"#,
        r#"{"prompt": "a cat", "seed": 1, "extra_body": {"seed": 2}}"#,
        r#"{"prompt": "a cat", "unknown": 1, "unknown": 2}"#,
    ] {
        assert_eq!(generate(&app, body).await.status, 200, "{body}");
    }
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let app = fake_app().await;
    let cases = [
        (json!({}), "400 missing_required_parameter prompt | Missing required parameter: `prompt`"),
        (json!({"prompt": null}), "400 missing_required_parameter prompt | Missing required parameter: `prompt`"),
        (json!({"prompt": 5}), "400 invalid_type prompt | `prompt` must be a string. Given: 5"),
        (json!({"prompt": ""}), "400 invalid_value prompt | `prompt` must not be empty. Given: \"\""),
        (json!({"prompt": " \n"}), "400 invalid_value prompt | `prompt` must not be empty. Given: \" \\n\""),
        (
            json!({"prompt": "é".repeat(32_001)}),
            "400 invalid_value prompt | `prompt` must have at most 32000 characters. Given: 32001 characters",
        ),
        (
            json!({"prompt": "x", "negative_prompt": []}),
            "400 invalid_type negative_prompt | `negative_prompt` must be a string. Given: []",
        ),
        (
            json!({"prompt": "x", "model": "dall-e-3"}),
            "404 model_not_found model | The model `dall-e-3` does not exist. Available: Fake/Fake-Image, gpt-image-1",
        ),
        (json!({"prompt": "x", "model": 3}), "400 invalid_type model | `model` must be a string. Given: 3"),
        (json!({"prompt": "x", "n": "two"}), "400 invalid_type n | `n` must be an integer. Given: \"two\""),
        (json!({"prompt": "x", "n": 1.5}), "400 invalid_type n | `n` must be an integer. Given: 1.5"),
        (json!({"prompt": "x", "n": 0}), "400 invalid_value n | `n` must be between 1 and 10. Given: 0"),
        (json!({"prompt": "x", "n": 11}), "400 invalid_value n | `n` must be between 1 and 10. Given: 11"),
        (
            json!({"prompt": "x", "size": "big"}),
            "400 invalid_value size | `size` must be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto. Given: \"big\"",
        ),
        (
            json!({"prompt": "x", "size": "0x64"}),
            "400 invalid_value size | `size` must have sides of at least 1 pixel. Given: \"0x64\"",
        ),
        (json!({"prompt": "x", "size": 64}), "400 invalid_type size | `size` must be a string. Given: 64"),
        (
            json!({"prompt": "x", "size": "512x512"}),
            "400 invalid_value size | `size` must have at most 65536 pixels (the server's --max-generated-image-size). Given: 512x512",
        ),
        (
            json!({"prompt": "x", "size": "99999999999x99999999999"}),
            "400 invalid_value size | `size` must have sides of at most 16384 pixels. Given: 99999999999x99999999999",
        ),
        (
            json!({"prompt": "x", "num_inference_steps": 0}),
            "400 invalid_value num_inference_steps | `num_inference_steps` must be between 1 and 1000. Given: 0",
        ),
        (
            json!({"prompt": "x", "num_inference_steps": 1001}),
            "400 invalid_value num_inference_steps | `num_inference_steps` must be between 1 and 1000. Given: 1001",
        ),
        (
            json!({"prompt": "x", "seed": -2}),
            "400 invalid_value seed | `seed` must be between -1 and 9223372036854775807. Given: -2",
        ),
        (
            json!({"prompt": "x", "seed": u64::MAX}),
            "400 invalid_value seed | `seed` must be between -1 and 9223372036854775807. Given: 18446744073709551615",
        ),
        (json!({"prompt": "x", "n": 1e30}), "400 invalid_value n | `n` must be between 1 and 10. Given: 1e+30"),
        (
            json!({"prompt": "x", "width": u64::MAX, "height": 64}),
            "400 invalid_value width | `width` must be between 1 and 9223372036854775807. Given: 18446744073709551615",
        ),
        (
            json!({"prompt": "x", "partial_images": "two"}),
            "400 invalid_type partial_images | `partial_images` must be an integer. Given: \"two\"",
        ),
        (
            json!({"prompt": "x", "preview_interval": 0}),
            "400 invalid_value preview_interval | `preview_interval` must be at least 1. Given: 0",
        ),
        (
            json!({"prompt": "x", "stream_progress": "yes"}),
            "400 invalid_type stream_progress | `stream_progress` must be true or false. Given: \"yes\"",
        ),
        (
            json!({"prompt": "x", "guidance_scale": "high"}),
            "400 invalid_type guidance_scale | `guidance_scale` must be a number. Given: \"high\"",
        ),
        (
            json!({"prompt": "x", "true_cfg_scale": 21}),
            "400 invalid_value true_cfg_scale | `true_cfg_scale` must be between 0 and 20. Given: 21",
        ),
        (
            json!({"prompt": "x", "true_cfg_scale": 4, "cfg_scale": 5}),
            "400 invalid_value cfg_scale | `cfg_scale` must equal true_cfg_scale, 4. Given: 5",
        ),
        (
            json!({"prompt": "x", "output_format": "gif"}),
            "400 invalid_value output_format | `output_format` must be one of png, jpeg, jpg, webp. Given: \"gif\"",
        ),
        (
            json!({"prompt": "x", "output_compression": 101}),
            "400 invalid_value output_compression | `output_compression` must be between 0 and 100. Given: 101",
        ),
        (
            json!({"prompt": "x", "quality": "best"}),
            "400 invalid_value quality | `quality` must be one of auto, low, medium, standard, high, hd, xhigh, max. Given: \"best\"",
        ),
        (
            json!({"prompt": "x", "background": "transparent"}),
            "400 unsupported_value background | `background` must be opaque or auto: the model has no alpha. Given: \"transparent\"",
        ),
        (
            json!({"prompt": "x", "stream": "yes"}),
            "400 invalid_type stream | `stream` must be true or false. Given: \"yes\"",
        ),
        (
            json!({"prompt": "x", "cache": {"mode": "off"}}),
            "400 unsupported_value cache | `cache` must be absent: the server was not started with --allow-request-cache-config. Given: {\"mode\":\"off\"}",
        ),
        (json!({"prompt": "x", "user": 1}), "400 invalid_type user | `user` must be a string. Given: 1"),
    ];
    for (body, expected) in cases {
        assert_eq!(line(&generate(&app, body).await), expected);
    }
}

#[tokio::test]
async fn a_long_value_is_not_echoed_whole() {
    let answer = generate(&fake_app().await, json!({"prompt": "x", "size": "9".repeat(100_000)})).await;
    assert!(line(&answer).len() < 300, "{}", line(&answer).len());
}

#[tokio::test]
async fn what_is_no_json_object_is_said() {
    let app = fake_app().await;
    let message = "The body is not valid JSON: EOF while parsing a value at line 1 column 0";
    assert_eq!(line(&generate(&app, "").await), format!("400 invalid_json - | {message}"));
    for (body, kind) in
        [("[1]", "an array"), ("\"x\"", "a string"), ("null", "a single value"), ("1", "a single value")]
    {
        let expected = format!("400 invalid_json - | The body must be a JSON object. Given: {kind}");
        assert_eq!(line(&generate(&app, body).await), expected);
    }
    for body in ["{", "{\"prompt\": \"x\",}", "{'prompt': 'x'}", "{\"n\": 1e999}", &"[".repeat(100_000), "{} {}"] {
        assert!(line(&generate(&app, body).await).starts_with("400 invalid_json - | The body is not valid JSON: "));
    }
    let latin1 = Request::post("/v1/images/generations").header("content-type", "application/json");
    let answer = send(&app, latin1.body(Body::from(&b"{\"prompt\": \"\xe9\"}"[..])).unwrap()).await;
    assert!(line(&answer).starts_with("400 invalid_json"));
}

#[tokio::test]
async fn a_byte_order_mark_is_read_over() {
    let app = fake_app().await;
    // Also before a body so long that it is read on another thread.
    for padding in [0, 200_000] {
        let body = json!({"prompt": "a cat", "padding": "x".repeat(padding)});
        let answer = generate(&app, format!("\u{feff}{body}")).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-ignored-params")), (200, "padding"), "{}", answer.text);
    }
    assert!(line(&generate(&app, "\u{feff}").await).starts_with("400 invalid_json"));
    assert!(line(&generate(&app, "\u{feff}\u{feff}{}").await).starts_with("400 invalid_json"));
}

#[tokio::test]
async fn a_compressed_body_is_told_so() {
    let app = fake_app().await;
    let post = async |coding: &str| {
        let body = r#"{"prompt": "a cat"}"#;
        send(&app, super::generation(body, &[("content-encoding", coding)])).await
    };
    for coding in ["identity", "Identity", ""] {
        assert_eq!(post(coding).await.status, 200, "{coding}");
    }
    for (coding, given) in [("gzip", "gzip"), ("identity, br", "br"), ("GZIP", "GZIP")] {
        let answer = post(coding).await;
        let message = "Content-Encoding must be absent: compressed bodies are not accepted. Given:";
        assert_eq!(line(&answer), format!("415 unsupported_content_encoding - | {message} {given}"));
        assert_eq!(answer.header("accept-encoding"), "identity");
    }
}

#[tokio::test]
async fn a_long_body_is_told_as_a_short_one() {
    let app = fake_app().await;
    let body =
        |padding: usize, n: &str| format!(r#"{{"padding": "{}", "prompt": "x", "n": {n}}}"#, "x".repeat(padding));
    for padding in [0, 300_000] {
        assert_eq!(generate(&app, body(padding, "2")).await.json["data"].as_array().map(Vec::len), Some(2));
        let expected = "400 invalid_type n | `n` must be an integer. Given: {\"a\":[null,1.5]}";
        assert_eq!(line(&generate(&app, body(padding, r#"{"a": [null, 1.5]}"#)).await), expected);
        assert!(line(&generate(&app, body(padding, "x")).await).starts_with("400 invalid_json"));
        let expected = "400 invalid_value n | `n` must be there once. Given: more than one value";
        assert_eq!(line(&generate(&app, body(padding, r#"1, "n": [[]]"#)).await), expected);
    }
}

#[tokio::test]
async fn only_json_is_taken() {
    let app = fake_app().await;
    let post = |content_type: Option<&str>| {
        let request = Request::post("/v1/images/generations");
        let request = content_type.into_iter().fold(request, |request, value| request.header("content-type", value));
        send(&app, request.body(Body::from(r#"{"prompt": "a cat"}"#)).unwrap())
    };
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
        assert_eq!(post(Some(good)).await.status, 200, "{good}");
    }
    let refused = async |given| line(&post(given).await);
    let message = "415 unsupported_content_type - | Content-Type must be application/json. Given:";
    assert_eq!(refused(Some("text/plain")).await, format!("{message} text/plain"));
    assert_eq!(
        refused(Some("multipart/form-data; boundary=x")).await,
        format!("{message} multipart/form-data; boundary=x")
    );
    assert_eq!(refused(Some("")).await, format!("{message} "));
    assert_eq!(refused(None).await, format!("{message} none"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let state = state(&FakePipeline::default()).await;
    let limit = state.config.uploads.body_limit;
    let app = app(state);
    let body = |bytes: usize| {
        let head = r#"{"prompt": "a cat", "padding": ""#;
        format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
    };
    assert_eq!(generate(&app, body(limit)).await.status, 200);
    let expected =
        format!("413 body_too_large - | The body must have at most {limit} bytes (the server's --body-limit)");
    assert_eq!(line(&generate(&app, body(limit + 1)).await), expected);
    let announced = Request::post("/v1/images/generations").header("content-type", "application/json");
    let announced = announced.header("content-length", limit + 1).body(Body::empty()).unwrap();
    assert_eq!(line(&send(&app, announced).await), expected);
}

#[tokio::test]
async fn a_fault_of_the_pipeline_is_told_apart_from_a_bad_request() {
    let app = fake_app().await;
    let internal = "500 internal_error - | The server failed to make the picture; \
        its log has the reason under this request's x-request-id";
    let cases = [
        ("fail in step", internal),
        ("fail in decode", internal),
        ("oom in step", "500 out_of_memory - | out of device memory"),
        ("invalid in prepare", "400 invalid_value prompt | `prompt` must have at most 512 tokens. Given: 513 tokens"),
        // Last, because the model is loading again after it.
        (
            "panic in step",
            "500 crashes_model - | This request crashed the model twice and is not retried; \
             the server's log has the reason under this request's x-request-id",
        ),
    ];
    for (prompt, expected) in cases {
        // Several pictures: all or an error.
        let answer = generate(&app, json!({"prompt": prompt, "n": 3})).await;
        assert_eq!(line(&answer), expected);
        if answer.status.is_server_error() {
            assert_eq!(answer.header("x-should-retry"), "false", "it would fail again");
        }
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let others = tokio::spawn({
        let app = app.clone();
        async move { generate(&app, json!({"prompt": "a cat", "n": 4})).await }
    });
    load_becomes(&state, |load| load.waiting == 2).await;
    let refused = generate(&app, json!({"prompt": "a dog"})).await;
    assert_eq!(
        line(&refused),
        "429 queue_full - | the queue is full: 2 jobs are waiting (the server's --max-waiting and --max-backlog-seconds)"
    );
    assert_eq!(refused.header("retry-after"), "1");
    pipeline.gate.open();
    assert_eq!(others.await.unwrap().status, 200);
}

#[tokio::test]
async fn before_the_model_is_there_bad_requests_are_still_told_first() {
    let (_never, gate) = std::sync::mpsc::channel::<FakePipeline>();
    let scheduler = Scheduler::spawn(SchedulerConfig::default(), vec![move || gate.recv()]);
    let app = app(AppState::new(scheduler, config(), Metrics::default()));
    let loading = "503 model_loading - | the model is loading";
    let answer = generate(&app, json!({"prompt": "a cat"})).await;
    assert_eq!(line(&answer), loading);
    assert_eq!((answer.header("retry-after"), answer.header("x-should-retry")), ("5", "true"));
    assert!(line(&generate(&app, json!({"prompt": 1})).await).starts_with("400 invalid_type"));
    for probe in ["/health", "/readyz"] {
        assert_eq!(line(&get(&app, probe).await), loading);
    }
    assert_eq!(get(&app, "/livez").await.status, 200);
    let models = get(&app, "/v1/models").await;
    assert_eq!((models.status.as_u16(), &models.json["data"][0]["default_size"]), (200, &Value::Null));
}

#[tokio::test]
async fn after_a_failed_load_the_reason_is_given() {
    let scheduler = Scheduler::spawn(SchedulerConfig::default(), vec![|| Err::<FakePipeline, _>("no such folder")]);
    let mut readiness = scheduler.readiness();
    readiness.changed().await.unwrap();
    let app = app(AppState::new(scheduler, config(), Metrics::default()));
    let expected = "503 model_failed - | no worker is left: no such folder";
    assert_eq!(line(&get(&app, "/health").await), expected);
    assert_eq!(line(&generate(&app, json!({"prompt": "a cat"})).await), expected);
}

#[tokio::test]
async fn while_draining_nothing_is_taken() {
    let state = state(&FakePipeline::default()).await;
    let app = app(state.clone());
    state.queue.drain(Duration::from_secs(10)).await;
    let expected = "503 shutting_down - | the server is shutting down";
    let answer = generate(&app, json!({"prompt": "a cat"})).await;
    assert_eq!(line(&answer), expected);
    assert_eq!(answer.header("x-should-retry"), "true");
    assert_eq!(line(&get(&app, "/readyz").await), expected);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_the_same_shape() {
    let app = fake_app().await;
    let cases = [
        (
            "/v1/image/generations",
            "404 unknown_url - | Unknown URL: GET /v1/image/generations. Did you mean POST /v1/images/generations?",
        ),
        ("/healthz", "404 unknown_url - | Unknown URL: GET /healthz. Did you mean GET /health?"),
        ("/nothing/here", "404 unknown_url - | Unknown URL: GET /nothing/here"),
        ("/v1/chat/completions", "404 unknown_url - | Unknown URL: GET /v1/chat/completions"),
        (
            "/v1/models/other",
            "404 model_not_found model | The model `other` does not exist. Available: Fake/Fake-Image, gpt-image-1",
        ),
        (
            "/v1/models/%FF",
            "404 model_not_found model | The model `` does not exist. Available: Fake/Fake-Image, gpt-image-1",
        ),
    ];
    for (path, expected) in cases {
        assert_eq!(line(&get(&app, path).await), expected);
    }
    let wrong = get(&app, "/v1/images/generations").await;
    assert_eq!(line(&wrong), "405 method_not_allowed - | /v1/images/generations does not take GET");
    assert_eq!(wrong.header("allow"), "POST");
    let delete = Request::delete("/v1/models").body(Body::empty()).unwrap();
    let wrong = send(&app, delete).await;
    assert_eq!(line(&wrong), "405 method_not_allowed - | /v1/models does not take DELETE");
    assert_eq!(wrong.header("allow"), "GET,HEAD");
}
