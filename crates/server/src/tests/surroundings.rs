//! Models, probes, unknown paths, request ids.

use axum::body::Body;
use axum::http::Request;
use axum::routing::get as get_route;
use diffusion::{GuidanceKind, InputImageBounds};
use scheduler::fake::FakePipeline;
use serde_json::json;

use super::{edits, fake_app, generate, get, send, state};

#[tokio::test]
async fn every_name_of_the_model_is_listed_and_found() {
    let app = fake_app().await;
    let list = get(&app, "/v1/models").await.json;
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["Fake/Fake-Image", "gpt-image-1"]);
    for path in [
        "/v1/models/Fake%2FFake-Image",
        "/v1/models/Fake/Fake-Image",
        "/models/Fake%2fFake-Image",
        "/v1/models/Fake/Fake-Image/",
    ] {
        assert_eq!(get(&app, path).await.json, list["data"][0], "{path}");
    }
    let mut alias = get(&app, "/v1/models/gpt-image-1").await.json;
    assert!(alias["created"].take().as_u64().unwrap() > 1_700_000_000);
    let expected = json!({
        "id": "gpt-image-1", "object": "model", "created": null, "owned_by": "latentd", "root": "Fake/Fake-Image",
        "parent": null, "task_types": ["t2i"], "min_input_images": 0,
        "max_input_images": 0, "default_size": "64x64",
    });
    assert_eq!(alias, expected);
}

#[tokio::test]
async fn a_model_that_takes_pictures_says_so() {
    let edits_only = edits::app_with(InputImageBounds { min_images: 1, ..edits::takes(2) }).await;
    for (app, tasks) in [
        (fake_app().await, json!(["t2i"])),
        (edits::editing_app().await, json!(["t2i", "i2i"])),
        (edits_only, json!(["i2i"])),
    ] {
        assert_eq!(get(&app, "/v1/models").await.json["data"][0]["task_types"], tasks);
        assert_eq!(get(&app, "/info").await.json["model"]["task_types"], tasks);
    }
}

#[tokio::test]
async fn the_models_guidance_is_told_with_its_weight() {
    for (kind, expected) in [
        (GuidanceKind::TrueCfg, json!(["true_cfg", null, 4.0])),
        (GuidanceKind::Cfg, json!(["cfg", 4.0, null])),
        (GuidanceKind::Embedded, json!(["embedded", 4.0, null])),
        (GuidanceKind::None, json!(["none", null, null])),
    ] {
        let mut pipeline = FakePipeline::default();
        pipeline.card.guidance = kind;
        let model = get(&crate::app(state(&pipeline).await), "/info").await.json["model"].take();
        let told = ["guidance", "default_guidance_scale", "default_true_cfg_scale"].map(|key| model[key].clone());
        assert_eq!(json!(told), expected);
    }
}

#[tokio::test]
async fn paths_are_found_with_and_without_the_version_and_a_trailing_slash() {
    let app = fake_app().await;
    for path in ["/images/generations", "/v1/images/generations/", "/images/generations/"] {
        let request = Request::post(path).header("content-type", "application/json");
        let answer = send(&app, request.body(Body::from(r#"{"prompt": "a cat"}"#)).unwrap()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    for path in ["/models", "/v1/models/"] {
        assert_eq!(get(&app, path).await.json["object"], "list", "{path}");
    }
}

#[tokio::test]
async fn probes_answer_a_ready_server() {
    let app = fake_app().await;
    assert_eq!(get(&app, "/health").await.json, json!({"status": "ready", "model": "Fake/Fake-Image"}));
    for path in ["/health", "/readyz", "/livez"] {
        let head = send(&app, Request::head(path).body(Body::empty()).unwrap()).await;
        assert_eq!(head.status, 200, "{path}");
    }
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let app = fake_app().await;
    for path in ["/health", "/nowhere", "/v1/images/generations", "/v1/models/x"] {
        let answer = get(&app, path).await;
        assert!(answer.header("x-request-id").starts_with("req_"), "{path}");
        assert!(answer.header("openai-processing-ms").parse::<u64>().is_ok(), "{path}");
    }
    let named = Request::get("/nowhere").header("x-request-id", "trace-7").body(Body::empty()).unwrap();
    assert_eq!(send(&app, named).await.header("x-request-id"), "trace-7");
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_in_the_same_shape() {
    // The layers of `app` around a route that panics.
    let router = axum::Router::new().route("/", get_route(|| async { panic!("a bug") as () }));
    let app = crate::routes::layered(router, &state(&FakePipeline::default()).await);
    let answer = get(&app, "/").await;
    assert_eq!((answer.status.as_u16(), &answer.json["error"]["code"]), (500, &json!("internal_error")));
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(!answer.json.to_string().contains("a bug"), "the reason is for the log");
    assert!(answer.header("x-request-id").starts_with("req_"));
}

#[tokio::test]
async fn an_answer_costs_little_beyond_its_pipeline() {
    let app = fake_app().await;
    let body = json!({"prompt": "a cat", "size": "128x128"});
    let mut best = std::time::Duration::MAX;
    for _ in 0..20 {
        let begun = std::time::Instant::now();
        assert_eq!(generate(&app, &body).await.status, 200);
        best = best.min(begun.elapsed());
    }
    println!("request to answer, at best: {best:?}");
    assert!(best.as_millis() < 5, "{best:?}");
}
