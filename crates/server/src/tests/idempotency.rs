//! Repeated requests with the same `Idempotency-Key`.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures_util::FutureExt;
use scheduler::fake::FakePipeline;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::edits;
use super::sockets::gated;
use super::{Answer, decoded, events, fake_app, generation, load_becomes, send, state};
use crate::api::error::ApiError;
use crate::app;
use crate::files::Files;
use crate::idempotency::{Begun, Key, Replays};
use crate::jobs::Bounds;
use crate::live::Watcher;

async fn post(app: &Router, key: &str, body: Value) -> Answer {
    send(app, generation(body, &[("idempotency-key", key)])).await
}

fn cat() -> Value {
    json!({"prompt": "a cat"})
}

#[tokio::test]
async fn requests_with_one_key_are_one_request() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let release = async {
        load_becomes(&state, |load| load.running == 1).await;
        // Lets the others reach the point where they wait for the first.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(state.queue.load().borrow().waiting, 0);
        pipeline.gate.open();
    };
    let spelt = json!({"stream": false, "prompt": "a cat", "size": null});
    let (first, second, third, ()) =
        tokio::join!(post(&app, "k", cat()), post(&app, "k", spelt), post(&app, "k", cat()), release);
    assert_eq!(pipeline.probe.batch_sizes(), [1; 4], "one job of four steps");
    assert_eq!(first.status, 200);
    assert!(first.text == second.text && second.text == third.text);
    let mut replayed = [&first, &second, &third].map(|answer| answer.header("idempotent-replayed"));
    replayed.sort_unstable();
    assert_eq!(replayed, ["", "true", "true"]);

    let replay = post(&app, "k", cat()).await;
    assert!(replay.text == first.text, "the same bytes, the random seed's picture included");
    assert_eq!((replay.status.as_u16(), replay.header("idempotent-replayed")), (200, "true"));
    assert_ne!(replay.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(pipeline.probe.batch_sizes().len(), 4);
    let other = post(&app, "other", cat()).await;
    assert_ne!(other.json["data"][0]["seed"], first.json["data"][0]["seed"]);
}

#[tokio::test]
async fn a_key_stands_for_one_meaning() {
    let app = fake_app().await;
    assert_eq!(post(&app, "k", cat()).await.status, 200);
    for other in [
        json!({"prompt": "a dog"}),
        json!({"prompt": "a cat", "n": 2}),
        json!({"prompt": "a cat", "response_format": "url"}),
        json!({"prompt": "a cat", "stream": true}),
        json!({"prompt": "a cat", "output_format": "jpeg"}),
    ] {
        let answer = post(&app, "k", other.clone()).await;
        let error = &answer.json["error"];
        assert_eq!((answer.status.as_u16(), &error["code"]), (400, &json!("idempotency_key_reused")), "{other}");
    }
    let long = "x".repeat(256);
    for bad in ["", "two words", &long] {
        let answer = post(&app, bad, cat()).await;
        assert_eq!((answer.status.as_u16(), &answer.json["error"]["param"]), (400, &json!("idempotency-key")), "{bad}");
    }
}

#[tokio::test]
async fn keys_of_different_callers_are_different_keys() {
    let app = fake_app().await;
    let seed = async |bearer: &str| {
        let headers = [("idempotency-key", "k"), ("authorization", bearer)];
        send(&app, generation(cat(), &headers)).await.json["data"][0]["seed"].clone()
    };
    let first = seed("Bearer a").await;
    assert_eq!(seed("Bearer a").await, first);
    assert_ne!(seed("Bearer b").await, first);
}

#[tokio::test]
async fn a_form_is_the_same_whatever_parts_it() {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = edits::takes(1);
    let app = app(state(&pipeline).await);
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(32, 32).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let edit = async |boundary: &str, prompt: &str| {
        let mut body = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\n{prompt}\r\n--{boundary}\r\n\
             content-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(png.get_ref());
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = Request::post("/v1/images/edits").header("idempotency-key", "k");
        let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}"));
        send(&app, request.body(Body::from(body)).unwrap()).await
    };
    let first = edit("one", "a cat").await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert!(edit("two", "a cat").await.text == first.text);
    assert_eq!(edit("two", "a dog").await.json["error"]["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn the_job_goes_on_until_the_last_waiter_leaves() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let long = json!({"prompt": "a cat", "num_inference_steps": 500, "stream": true});
    // The head of a stream arrives once its request has started or joined.
    let waiter = async || app.clone().oneshot(generation(&long, &[("idempotency-key", "k")])).await.unwrap();
    let (first, second) = (waiter().await, waiter().await);
    assert_eq!(second.headers()["idempotent-replayed"], "true");
    load_becomes(&state, |load| load.running == 1).await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(state.queue.load().borrow().running, 1, "someone waits still");
    drop(second);
    load_becomes(&state, |load| load.running == 0).await;
    pipeline.gate.open();
    let again = post(&app, "k", long.clone()).await;
    assert_eq!(
        (again.status.as_u16(), again.header("idempotent-replayed")),
        (200, ""),
        "what was given up begins anew"
    );
}

#[tokio::test]
async fn what_failed_is_tried_again() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let full = tokio::spawn({
        let app = app.clone();
        async move { post(&app, "full", json!({"prompt": "a cat", "n": 4})).await }
    });
    load_becomes(&state, |load| load.waiting == 2).await;
    assert_eq!(post(&app, "k", cat()).await.status, 429);
    pipeline.gate.open();
    assert_eq!(full.await.unwrap().status, 200);
    let answer = post(&app, "k", cat()).await;
    assert_eq!((answer.status.as_u16(), answer.header("idempotent-replayed")), (200, ""));

    let fault = json!({"prompt": "fail in step"});
    for _ in 0..2 {
        let answer = post(&app, "fault", fault.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.header("idempotent-replayed")), (500, ""));
    }
    assert_eq!(pipeline.probe.prompted("fail in step"), 4, "the scheduler itself tries each twice");
}

#[tokio::test]
async fn streams_and_jobs_are_replayed_too() {
    let pipeline = FakePipeline::default();
    let app = app(state(&pipeline).await);
    let stream = json!({"prompt": "a cat", "stream": true, "partial_images": 2});
    let (first, second) = (post(&app, "s", stream.clone()).await, post(&app, "s", stream).await);
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(events(&first.text), events(&second.text));
    assert_eq!(events(&first.text).len(), 3);
    let job = json!({"prompt": "a cat", "async": true});
    let (first, second) = (post(&app, "j", job.clone()).await, post(&app, "j", job).await);
    assert_eq!((second.status.as_u16(), &first.json["id"]), (202, &second.json["id"]));
    assert_eq!(second.header("location"), first.header("location"));
    super::jobs::ended(&app, first.json["id"].as_str().unwrap()).await;
    assert_eq!(pipeline.probe.batch_sizes().len(), 8, "two jobs of four steps");
}

#[tokio::test]
async fn a_request_does_not_wait_for_one_of_another_key_that_is_about_to_begin() {
    let replays = Replays::new(Bounds::of(1 << 20));
    let key = |key: &str| Key { owner: 0, key: key.into() };
    let never = || std::future::pending::<Result<(Begun, Watcher), ApiError>>();
    let refused = || async { Err(ApiError::Missing("prompt")) };
    let mut first = Box::pin(replays.once(key("a"), [0; 32], 0, |_| true, never()));
    assert!((&mut first).now_or_never().is_none());
    let other = replays.once(key("b"), [0; 32], 0, |_| true, refused()).now_or_never();
    assert!(matches!(other, Some(Err(ApiError::Missing(_)))), "it begins, and fails, at once");
    let reused = replays.once(key("a"), [1; 32], 0, |_| true, refused()).now_or_never();
    assert!(matches!(reused, Some(Err(ApiError::KeyReused))));
    let mut second = Box::pin(replays.once(key("a"), [0; 32], 0, |_| true, refused()));
    assert!((&mut second).now_or_never().is_none(), "the first is about to begin");
    // Its client leaves, so the second becomes the first.
    drop(first);
    assert!(matches!(second.await, Err(ApiError::Missing(_))));
}

#[tokio::test]
async fn an_answer_whose_urls_lead_nowhere_is_not_told_again() {
    let mut state = state(&FakePipeline::default()).await;
    let body = json!({"prompt": "a cat", "response_format": "url"});
    let urls = app(state.clone());
    let replayed = async |app: &Router| post(app, "k", body.clone()).await.header("idempotent-replayed").to_owned();
    assert_eq!([replayed(&urls).await, replayed(&urls).await], ["", "true"]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    assert_eq!([replayed(&urls).await, replayed(&urls).await], ["", "true"], "the URLs have expired");
    // The picture itself, unlike its URL, can be read for a day.
    post(&urls, "b64", cat()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    assert_eq!(post(&urls, "b64", cat()).await.header("idempotent-replayed"), "true");

    state.files = Files::new(1).into();
    let app = app(state);
    assert_eq!(replayed(&app).await, "");
    post(&app, "other", body.clone()).await;
    assert_eq!(replayed(&app).await, "", "its file was dropped");
}

#[tokio::test]
async fn a_job_that_is_not_kept_any_more_is_not_told_again() {
    let app = fake_app().await;
    let job = json!({"prompt": "a cat", "async": true});
    let first = post(&app, "j", job.clone()).await;
    super::jobs::ended(&app, first.json["id"].as_str().unwrap()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3601)).await;
    tokio::time::resume();
    let again = post(&app, "j", job).await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (202, ""));
    assert_ne!(again.json["id"], first.json["id"]);
}

#[tokio::test]
async fn answers_are_kept_for_a_day_and_within_bounds() {
    let app = fake_app().await;
    post(&app, "k", cat()).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24 * 3600 - 10)).await;
    assert_eq!(post(&app, "k", cat()).await.header("idempotent-replayed"), "true");
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert_eq!(post(&app, "k", cat()).await.header("idempotent-replayed"), "");

    let mut state = state(&FakePipeline::default()).await;
    // All with one seed, so that their files have the same size.
    let cat = || json!({"prompt": "a cat", "seed": 7});
    let file = decoded(&post(&app, "size", cat()).await.json["data"][0]["b64_json"]);
    let pixels = image::load_from_memory(&file).unwrap().into_rgb8().into_raw();
    // A running request counts with its pixels, a finished one with its file.
    let bytes = pixels.len() + file.len() * 3 / 2;
    for bounds in [Bounds { count: 2, bytes: usize::MAX }, Bounds { count: 9, bytes }] {
        state.replays = Replays::new(bounds).into();
        let app = crate::app(state.clone());
        for key in ["a", "b", "c", "d"] {
            post(&app, key, cat()).await;
        }
        let kept = async |key| post(&app, key, cat()).await.header("idempotent-replayed").to_owned();
        assert_eq!([kept("d").await, kept("c").await, kept("a").await], ["true", "true", ""], "{bounds:?}");
    }
}
