//! Memory of decoded pictures: queued edits hold theirs until they are answered.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use scheduler::SchedulerConfig;
use scheduler::fake::FakePipeline;
use serde_json::json;

use super::edits::{error, takes};
use super::forms::{Form, data_url, mask, png, post_json};
use super::jobs::ended;
use super::sockets::gated;
use super::{Answer, config, configured_state, load_becomes, send};
use crate::uploads::ImageFetcher;
use crate::{AppState, app};

/// Bytes of a decoded RGB picture of 100x50.
const PICTURE: usize = 100 * 50 * 3;

/// A server with this much picture memory in total and for each client.
async fn bounded(pipeline: &mut FakePipeline, all: usize, client: usize) -> (AppState, Router) {
    pipeline.card.input_images = takes(2);
    let mut config = config();
    (config.uploads.picture_memory, config.uploads.client_picture_memory) = (all, client);
    let bounds = SchedulerConfig { max_batch: 2, max_waiting: 100, ..SchedulerConfig::default() };
    let state = configured_state(pipeline, bounds, config).await;
    (state.clone(), app(state))
}

fn form() -> Form {
    Form::default().text("prompt", "x")
}

fn waiting_edit(address: &str) -> Request<Body> {
    let mut request = form().file("image", "a.png", &png(100, 50)).text("async", "true").request();
    let address: std::net::IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::new(address, 1)));
    request
}

/// Sends edits until one is refused. Returns the accepted jobs and the refusal.
async fn filled(app: &Router, address: &str) -> (Vec<String>, Answer) {
    let mut taken = Vec::new();
    while taken.len() < 50 {
        let answer = send(app, waiting_edit(address)).await;
        if answer.status != 202 {
            return (taken, answer);
        }
        taken.push(answer.json["id"].as_str().unwrap().to_owned());
    }
    panic!("none is refused")
}

#[tokio::test]
async fn waiting_edits_are_refused_where_there_is_no_room_for_their_pictures() {
    let mut pipeline = gated();
    let (state, app) = bounded(&mut pipeline, 5 * PICTURE, 5 * PICTURE).await;
    let (jobs, refused) = filled(&app, "10.0.0.1").await;
    assert_eq!((jobs.len(), state.pictures.left()), (5, 0));
    let message = "The pictures of this client hold as much as they may (the server's --max-client-picture-memory)";
    assert_eq!(error(&refused), format!("429 pictures_full - | {message}"));
    assert_eq!(refused.header("retry-after"), "5");
    load_becomes(&state, |load| load.running > 0).await;

    // A queued one, and the running one.
    for (job, left) in [(&jobs[4], 1), (&jobs[0], 2)] {
        let cancel = Request::delete(format!("/v1/images/jobs/{job}")).body(Body::empty()).unwrap();
        assert_eq!(send(&app, cancel).await.json["status"], "cancelled");
        free_becomes(&state, left * PICTURE).await;
    }
    pipeline.gate.open();
    for job in &jobs[1..4] {
        assert_eq!(ended(&app, job).await["status"], "completed");
    }
    // Their results are kept, but not their input pictures.
    free_becomes(&state, 5 * PICTURE).await;
    assert_eq!(send(&app, waiting_edit("10.0.0.1")).await.status, 202);
}

/// Waits until so many bytes are free: a worker releases its memory only after it has reported the result.
async fn free_becomes(state: &AppState, bytes: usize) {
    for _ in 0..2000 {
        if state.pictures.left() == bytes {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(state.pictures.left(), bytes);
}

#[tokio::test]
async fn what_decoding_alone_took_is_free_again() {
    let room = 10 * PICTURE;
    let (state, app) = bounded(&mut gated(), room, room).await;
    // With alpha four bytes a pixel are read, and three are kept.
    let edit = form().file("image", "a.png", &mask(100, 50)).text("async", "true").request();
    assert_eq!(send(&app, edit).await.status, 202);
    assert_eq!(state.pictures.left(), room - PICTURE);
}

#[tokio::test]
async fn a_client_leaves_room_for_the_pictures_of_others() {
    let (state, app) = bounded(&mut gated(), 5 * PICTURE, 3 * PICTURE).await;
    let (one, refused) = filled(&app, "10.0.0.1").await;
    assert!(refused.text.contains("--max-client-picture-memory"), "{}", refused.text);
    let (other, refused) = filled(&app, "10.0.0.2").await;
    assert!(refused.text.contains("all clients together") && refused.text.contains("--max-picture-memory"));
    assert_eq!((one.len(), other.len(), state.pictures.left()), (3, 2, 0));
}

#[tokio::test]
async fn pictures_that_never_fit_are_told_so_and_hold_nothing() {
    let (state, app) = bounded(&mut FakePipeline::default(), PICTURE - 1, 2 * PICTURE).await;
    let refused = send(&app, form().file("image", "a.png", &png(100, 50)).request()).await;
    let message = "`image` must be decoded in at most 14.6 KiB (the server's --max-picture-memory). Given: 14.6 KiB";
    assert_eq!(error(&refused), format!("400 image_too_large image | {message}"));
    let small = || form().file("image", "a.png", &png(60, 40));
    assert_eq!(send(&app, small().request()).await.status, 200);
    // A mask counts too, and so do pictures that turn out to be broken.
    let masked = send(&app, small().file("mask", "m.png", &mask(60, 40)).request()).await;
    assert!(error(&masked).starts_with("400 image_too_large image"), "{}", masked.text);
    let broken = &png(60, 40)[..60];
    assert_eq!(send(&app, form().file("image", "a.png", broken).request()).await.status, 400);
    free_becomes(&state, PICTURE - 1).await;
}

#[tokio::test]
async fn what_came_along_is_judged_within_that_memory_too() {
    let host = "127.0.0.1:9";
    let edit = json!({"prompt": "x", "images": [data_url(&png(100, 50)), format!("http://{host}/cat.png")]});
    for (all, expected) in [(PICTURE - 1, "400 image_too_large images"), (PICTURE, "400 invalid_image_file images")] {
        let mut pipeline = FakePipeline::default();
        pipeline.card.input_images = takes(2);
        let mut config = config();
        (config.uploads.picture_memory, config.uploads.image_urls) = (all, Some(ImageFetcher::of_this_machine(host)));
        let state = configured_state(&pipeline, SchedulerConfig::default(), config).await;
        let answer = send(&app(state.clone()), post_json(&edit)).await;
        assert!(error(&answer).starts_with(expected), "{}", answer.text);
        assert_eq!(state.pictures.left(), all, "it is not held while others are fetched");
    }
}
