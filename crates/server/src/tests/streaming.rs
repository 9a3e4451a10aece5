//! Answers as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use scheduler::SchedulerConfig;
use scheduler::fake::{FakePipeline, colour};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tower::ServiceExt;

use super::edits;
use super::sockets::{answer, assert_status, gated, head, served, start_generation};
use super::{
    bounded_state, decoded, events, fake_app, fetch, first_pixel, generate, generation, get, load_becomes, send, state,
};
use crate::app;

const PARTIAL: &str = "image_generation.partial_image";
const PROGRESS: &str = "image_generation.progress";
const COMPLETED: &str = "image_generation.completed";

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

/// The pieces of a stream's body as they arrive.
struct Pieces(BodyDataStream);

impl Pieces {
    async fn of(app: &Router, body: Value) -> Self {
        let response = app.clone().oneshot(generation(body, &[])).await.unwrap();
        assert_eq!(response.status(), 200);
        Pieces(response.into_body().into_data_stream())
    }

    async fn next(&mut self) -> String {
        let piece = timeout(Duration::from_secs(60), self.0.next()).await.expect("something comes within a minute");
        String::from_utf8(piece.expect("the stream goes on").unwrap().into()).unwrap()
    }

    async fn rest(mut self) -> String {
        let mut text = String::new();
        while let Some(piece) = self.0.next().await {
            text += std::str::from_utf8(&piece.unwrap()).unwrap();
        }
        text
    }
}

#[tokio::test]
async fn a_stream_is_previews_and_then_the_picture() {
    let body = json!({"prompt": "a red fox", "seed": 1027, "stream": true, "partial_images": 3, "steps": 4});
    let answer = generate(&fake_app().await, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_eq!(answer.header("x-queue-position"), "0");
    assert!(answer.header("x-request-id").starts_with("req_"));
    assert!(answer.text.starts_with(":"), "a comment at once: {}", &answer.text[..20]);
    assert!(!answer.text.contains("\nid:") && !answer.text.contains("\r"));

    let mut events = events(&answer.text);
    assert_eq!(names(&events), [PARTIAL, PARTIAL, PARTIAL, COMPLETED]);
    for (i, (name, event)) in events.iter_mut().enumerate() {
        let [red, green, blue] = first_pixel(&decoded(&event["b64_json"]));
        // The blue of a preview is the number of steps done.
        let blue_is = if i < 3 { i as u8 + 1 } else { colour(1027)[2] };
        assert_eq!([red, green, blue], [colour(1027)[0], colour(1027)[1], blue_is], "{name}");
        assert!(event["created_at"].take().as_u64().unwrap() > 1_700_000_000);
        event["b64_json"].take();
        let mut expected = json!({
            "type": name, "b64_json": null, "created_at": null, "size": "64x64", "quality": "medium",
            "background": "opaque", "output_format": "png", "image_index": 0,
        });
        let more = match i {
            0..3 => json!({"partial_image_index": i, "step_index": i}),
            _ => json!({
                "seed": 1027, "model": "Fake/Fake-Image", "warnings": [],
                "usage": {
                    "total_tokens": 19, "input_tokens": 3, "output_tokens": 16,
                    "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
                    "output_tokens_details": {"text_tokens": 0, "image_tokens": 16},
                },
            }),
        };
        expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(*event, expected);
    }
}

#[tokio::test]
async fn previews_have_the_format_of_the_picture() {
    let body = json!({"prompt": "a cat", "stream": true, "partial_images": 1, "output_format": "webp"});
    let answer = generate(&fake_app().await, body).await;
    for (name, event) in events(&answer.text) {
        let file = decoded(&event["b64_json"]);
        assert_eq!(image::guess_format(&file).unwrap(), image::ImageFormat::WebP, "{name}");
        assert_eq!(event["output_format"], "webp");
    }
}

#[tokio::test]
async fn steps_are_told_to_whoever_asks() {
    let app = fake_app().await;
    let body = |progress| json!({"prompt": "a cat", "stream": true, "stream_progress": progress, "steps": 3});
    assert_eq!(names(&events(&generate(&app, body(false)).await.text)), [COMPLETED]);
    let mut told = events(&generate(&app, body(true)).await.text);
    assert_eq!(names(&told), [PROGRESS, PROGRESS, PROGRESS, COMPLETED]);
    for (i, (_, event)) in told[..3].iter_mut().enumerate() {
        assert!(event["created_at"].take().is_u64());
        let run = json!({"branch": "cond", "segment": "transformer_blocks", "reused": false, "reason": "uncached",
            "residual_diff": null});
        let expected = json!({"type": PROGRESS, "image_index": 0, "created_at": null, "step_index": i,
            "num_inference_steps": 3, "computed_share": 1.0, "residual_diff_threshold": null, "runs": [run]});
        assert_eq!(*event, expected);
    }
}

/// A pipeline whose second step panics once: it is call 2, or 3 after a preview.
fn panics_at(call: usize) -> FakePipeline {
    FakePipeline { panics: Arc::new([call].into()), ..FakePipeline::default() }
}

#[tokio::test]
async fn a_picture_that_is_made_again_says_so_and_tells_its_steps_anew() {
    let app = app(state(&panics_at(2)).await);
    let body = json!({"prompt": "a cat", "stream": true, "stream_progress": true, "steps": 3});
    let told = events(&generate(&app, body).await.text);
    const RESTARTED: &str = "image_generation.restarted";
    // A void step that was not read yet is dropped.
    let begun_again = told.iter().position(|(name, _)| name == RESTARTED).expect("it is told");
    assert!(begun_again <= 1, "{:?}", names(&told));
    assert_eq!(names(&told[begun_again..]), [RESTARTED, PROGRESS, PROGRESS, PROGRESS, COMPLETED]);
    let steps: Vec<_> = told[begun_again..].iter().filter_map(|(_, event)| event["step_index"].as_u64()).collect();
    assert_eq!(steps, [0, 1, 2]);
    let (_, restarted) = &told[begun_again];
    assert_eq!((&restarted["type"], &restarted["image_index"]), (&json!(RESTARTED), &json!(0)));
    assert!(restarted["created_at"].is_u64());
}

#[tokio::test]
async fn a_picture_that_is_made_again_is_the_same_and_shows_each_preview_once() {
    let body = json!({"prompt": "a cat", "seed": 7, "stream": true, "partial_images": 2, "steps": 4});
    let app = app(state(&panics_at(4)).await);
    // An encoding, two steps, a preview, and the third step panics. A client that knows only OpenAI's events gets no
    // event for it.
    let told = events(&generate(&app, &body).await.text);
    let indices: Vec<_> = told.iter().filter_map(|(_, event)| event["partial_image_index"].as_u64()).collect();
    assert_eq!(indices, [0, 1]);
    let undisturbed = events(&generate(&fake_app().await, &body).await.text);
    assert_eq!(names(&told), names(&undisturbed));
    assert_eq!(told.last().unwrap().1["b64_json"], undisturbed.last().unwrap().1["b64_json"]);
}

#[tokio::test]
async fn a_picture_is_told_as_soon_as_it_is_done() {
    let pipeline = gated();
    let app = app(bounded_state(&pipeline, SchedulerConfig { max_batch: 1, ..SchedulerConfig::default() }).await);
    let body = json!({"prompt": "a cat", "stream": true, "n": 4, "seed": 700, "num_inference_steps": 1});
    let mut pieces = Pieces::of(&app, body).await;
    assert!(pieces.next().await.starts_with(':'));
    for i in 0..4 {
        pipeline.gate.allow(1);
        let (name, event) = events(&pieces.next().await).remove(0);
        assert_eq!((name.as_str(), &event["image_index"], &event["seed"]), (COMPLETED, &json!(i), &json!(700 + i)));
        assert_eq!(first_pixel(&decoded(&event["b64_json"])), colour(700 + i));
        assert_eq!(event["usage"]["output_tokens"], 16, "of this picture");
    }
    assert_eq!(pieces.rest().await, "");
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let pipeline = gated();
    let app = app(state(&pipeline).await);
    tokio::time::pause();
    let mut pieces = Pieces::of(&app, json!({"prompt": "a cat", "stream": true})).await;
    let begun = tokio::time::Instant::now();
    assert!(pieces.next().await.starts_with(':'));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    for i in 1..=3 {
        assert_eq!(pieces.next().await, ": keep-alive\n\n");
        let expected = Duration::from_secs(10 * i);
        assert!(begun.elapsed() - expected < Duration::from_millis(100), "{:?}", begun.elapsed());
    }
    tokio::time::resume();
    pipeline.gate.open();
    let rest = pieces.rest().await;
    assert_eq!(names(&events(&rest)), [COMPLETED]);
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_is_an_event() {
    let app = fake_app().await;
    for (prompt, code, param) in [
        ("oom in step", "out_of_memory", Value::Null),
        ("fail in decode", "internal_error", Value::Null),
        ("invalid in prepare", "invalid_value", json!("prompt")),
    ] {
        let answer = generate(&app, json!({"prompt": prompt, "stream": true, "partial_images": 1})).await;
        assert_eq!(answer.status, 200);
        let (name, mut event) = events(&answer.text).pop().unwrap();
        assert_eq!(name, "error");
        let message = event["error"]["message"].take();
        assert!(!message.as_str().unwrap().contains("asked for a failure"), "{message}");
        let error = json!({"message": null, "type": event["error"]["type"], "code": code, "param": param});
        assert_eq!(event, json!({"type": "error", "error": error}));
    }
    let partial = generate(&app, json!({"prompt": "fail in decode", "stream": true, "partial_images": 1})).await;
    assert_eq!(names(&events(&partial.text)), [PARTIAL, "error"]);
}

#[tokio::test]
async fn a_picture_that_fails_takes_the_others_along() {
    for stream in [true, false] {
        // The first step of both panics, and then that of the one alone. In between the new pipeline runs its trial: an
        // encoding, a step, a decoding.
        let step_delay = Duration::from_millis(10);
        let pipeline = FakePipeline { panics: Arc::new([2, 7].into()), step_delay, ..FakePipeline::default() };
        let app = app(state(&pipeline).await);
        let body = json!({"prompt": "a cat", "n": 2, "num_inference_steps": 1000, "stream": stream});
        let answer = timeout(Duration::from_secs(5), generate(&app, body)).await.expect("nobody waits for the other");
        assert!(answer.text.contains("crashes_model"), "{}", answer.text);
        pipeline.probe.emptied().await;
        let metrics = get(&app, "/metrics").await.text;
        assert!(metrics.contains("latentd_cancelled_total 1\n"), "{metrics}");
    }
}

#[tokio::test]
async fn what_is_refused_is_no_stream() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let _waiting = Pieces::of(&app, json!({"prompt": "a cat", "stream": true, "n": 4})).await;
    load_becomes(&state, |load| load.waiting == 2).await;
    for (body, status, code) in [
        (json!({"prompt": "a cat", "stream": true, "partial_images": 4}), 400, "invalid_value"),
        (json!({"prompt": "a cat", "stream": true}), 429, "queue_full"),
    ] {
        let answer = generate(&app, body).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (status, "application/json"));
        assert_eq!(answer.json["error"]["code"], code);
    }
    pipeline.gate.open();
}

#[tokio::test]
async fn a_reader_that_lags_sees_the_newest_previews() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let body = json!({"prompt": "a cat", "stream": true, "preview_interval": 1, "num_inference_steps": 40});
    let pieces = Pieces::of(&app, body).await;
    pipeline.gate.open();
    // Nothing has been read yet.
    while !get(&app, "/metrics").await.text.contains("latentd_stage_duration_seconds_count{stage=\"image\"} 1\n") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let told = events(&pieces.rest().await);
    let previews: Vec<_> = told.iter().map(|(_, event)| event["partial_image_index"].clone()).collect();
    assert_eq!(previews, [json!(36), json!(37), json!(38), Value::Null]);
}

#[tokio::test]
async fn every_form_of_answer_has_the_same_pictures() {
    let app = fake_app().await;
    let alone = |i: u64, more: Value| {
        let mut body = json!({"prompt": "a cat", "seed": 300 + i, "size": "32x48"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let mut files = Vec::new();
    for i in 0..3 {
        let answer = generate(&app, alone(i, json!({}))).await;
        files.push(decoded(&answer.json["data"][0]["b64_json"]));
        assert_eq!(first_pixel(&files[i as usize]), colour(300 + i));
    }
    for (i, expected) in files.iter().enumerate() {
        let request = generation(alone(i as u64, json!({})), &[("accept", "image/png")]);
        let (parts, file) = fetch(&app, request).await;
        assert_eq!(
            (&parts.headers["content-type"], &parts.headers["x-seed"]),
            (&"image/png".parse().unwrap(), &(300 + i).into())
        );
        assert!(parts.headers.contains_key("x-queue-ms") && parts.headers.contains_key("x-queue-position"));
        assert!(file == *expected, "picture {i} as a file");
    }
    let together = |more| alone(0, more);
    let answer = generate(&app, together(json!({"n": 3}))).await;
    let streamed = events(&generate(&app, together(json!({"n": 3, "stream": true, "partial_images": 2}))).await.text);
    let urls = generate(&app, together(json!({"n": 3, "response_format": "url"}))).await;
    let job = generate(&app, together(json!({"n": 3, "async": true}))).await;
    let job = super::jobs::ended(&app, job.json["id"].as_str().unwrap()).await;
    for (i, expected) in files.iter().enumerate() {
        assert!(decoded(&answer.json["data"][i]["b64_json"]) == *expected, "picture {i} in JSON");
        let event = streamed.iter().find(|(name, event)| name == COMPLETED && event["image_index"] == i).unwrap();
        assert!(decoded(&event.1["b64_json"]) == *expected, "picture {i} of a stream");
        let url = urls.json["data"][i]["url"].as_str().unwrap().strip_prefix("http://localhost").unwrap();
        let (_, file) = fetch(&app, Request::get(url).body(Body::empty()).unwrap()).await;
        assert!(file == *expected, "picture {i} behind a URL");
        assert!(decoded(&job["result"]["data"][i]["b64_json"]) == *expected, "picture {i} of a job");
    }
    assert_eq!(job["result"]["usage"], answer.json["usage"]);
}

#[tokio::test]
async fn a_client_that_cuts_a_stream_stops_its_job_within_a_step_and_no_other() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let body = r#"{"prompt": "a dog", "num_inference_steps": 1000, "stream": true, "stream_progress": true}"#;
    let mut leaving = start_generation(server.address, body).await;
    let staying = start_generation(server.address, r#"{"prompt": "a cat", "num_inference_steps": 12}"#).await;
    load_becomes(&state, |load| load.running + load.waiting == 2).await;
    pipeline.gate.allow(4);
    let mut read = String::new();
    while !read.contains("\"step_index\":1") {
        let mut bytes = [0; 4096];
        let count = leaving.read(&mut bytes).await.unwrap();
        read += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    // Four steps are done; the fifth has started with both and waits at the gate.
    while pipeline.probe.batch_sizes().len() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pipeline.probe.batch_sizes()[4], 2);
    drop(leaving);
    load_becomes(&state, |load| load.running == 1).await;
    pipeline.gate.open();
    assert_status(&answer(staying).await, 200);
    pipeline.probe.emptied().await;
    let sizes = pipeline.probe.batch_sizes();
    assert!(sizes.len() > 5 && sizes[5..].iter().all(|size| *size == 1), "{sizes:?}");
    let metrics = get(&app(state), "/metrics").await.text;
    assert!(metrics.contains("latentd_cancelled_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_stream_is_chunked_and_ends_whole() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    let body = r#"{"prompt": "a cat", "stream": true}"#;
    let text = answer(start_generation(server.address, body).await).await;
    assert_status(&text, 200);
    assert!(text.contains("transfer-encoding: chunked") && text.ends_with("\r\n0\r\n\r\n"), "{text}");
    assert!(!head(1, "").contains("accept"), "nothing asked for a stream but the body");
}

#[tokio::test]
async fn an_error_has_the_standard_words_beside_its_status() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    let text = answer(start_generation(server.address, r#"{"prompt": "a cat", "n": 99}"#).await).await;
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
}

#[tokio::test]
async fn the_first_preview_is_measured() {
    let app = fake_app().await;
    let count = async || {
        let metrics = get(&app, "/metrics").await.text;
        let line =
            metrics.lines().find(|line| line.starts_with("latentd_time_to_first_partial_seconds_count")).unwrap();
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    generate(&app, json!({"prompt": "a cat", "stream": true})).await;
    assert_eq!(count().await, "0", "a stream without previews");
    generate(&app, json!({"prompt": "a cat", "stream": true, "partial_images": 3})).await;
    assert_eq!(count().await, "1", "one a stream");
}

#[tokio::test]
async fn an_edits_stream_names_itself_and_counts_what_it_was_given() {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = edits::takes(1);
    let app = app(state(&pipeline).await);
    let pixels = image::RgbImage::new(64, 32);
    let mut png = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut png, image::ImageFormat::Png).unwrap();
    use base64::Engine;
    let url = format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png.get_ref()));
    let body = json!({"prompt": "a cat", "images": [{"image_url": url}], "stream": true, "partial_images": 1});
    let request = Request::post("/v1/images/edits").header("content-type", "application/json");
    let answer = send(&app, request.body(Body::from(body.to_string())).unwrap()).await;
    let events = events(&answer.text);
    assert_eq!(names(&events), ["image_edit.partial_image", "image_edit.completed"]);
    // The model sees it at 96x32: the area of its 64x64 in multiples of 32.
    assert_eq!(events[1].1["usage"]["input_tokens_details"], json!({"text_tokens": 2, "image_tokens": 12}));
}
