//! Edits that name pictures by URL, on a server that fetches them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request};
use axum::routing::get;
use diffusion::RgbImage;
use scheduler::fake::{FakePipeline, Gate};
use scheduler::{Scheduler, SchedulerConfig, SpawnOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::edits::{error, takes};
use super::forms::{Form, mask, png, post_json};
use super::{config, configured_state, generate, load_becomes, send};
use crate::api::bounds::Purpose;
use crate::api::request::{Endpoint, ImagesRequest};
use crate::uploads::{self, ImageFetcher, MemoryLedger};
use crate::{AppState, Metrics, ServerConfig, app};

/// A server of pictures.
struct Pictures {
    host: String,
    /// Requests that it has received.
    asked: Arc<AtomicUsize>,
    upload_limit: usize,
    upload_memory: usize,
}

impl Pictures {
    async fn serve() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let picture = get(move || async move {
            counter.fetch_add(1, Ordering::Relaxed);
            ([("content-type", "image/png")], png(6, 4))
        });
        let mask = get(async || ([("content-type", "image/png")], mask(6, 4)));
        let text = get(async || ([("content-type", "image/png")], "no picture"));
        let app = Router::new().route("/cat.png", picture).route("/mask.png", mask).route("/text.png", text);
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Pictures { host, asked, upload_limit: 64 << 20, upload_memory: 64 << 20 }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    async fn read(&self, request: Request<Body>) -> Result<ImagesRequest, String> {
        let mut config = config();
        config.uploads.image_urls = Some(ImageFetcher::of_this_machine(&self.host));
        config.uploads.upload_limit = self.upload_limit;
        let memory = MemoryLedger::of(Purpose::Uploads, self.upload_memory);
        uploads::read(Endpoint::Edit, request, &config.api, &config.uploads, &memory, None)
            .await
            .map_err(|err| err.to_string())
    }

    async fn read_json(&self, paths: &[&str], more: Value) -> Result<ImagesRequest, String> {
        let images: Vec<_> = paths.iter().map(|path| json!({"image_url": self.url(path)})).collect();
        let mut body = json!({"prompt": "make it night", "images": images});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.read(post_json(body)).await
    }
}

fn pixels(read: Result<ImagesRequest, String>) -> Vec<(String, [u8; 3])> {
    let pictures = read.unwrap().draft.input_images;
    let told = |image: &RgbImage| (image.size.to_string(), image.pixels[..3].try_into().unwrap());
    pictures.iter().map(|input| told(&input.image)).collect()
}

#[tokio::test]
async fn a_picture_is_the_same_wherever_it_is() {
    let pictures = Pictures::serve().await;
    let cat = ("6x4".to_owned(), [10, 200, 30]);
    let read = pictures.read_json(&["cat.png", "cat.png"], json!({})).await;
    assert_eq!(pixels(read), [cat.clone(), cat.clone()]);
    let url = pictures.url("cat.png");
    let form = Form::default().text("prompt", "make it night").file("image", "a.png", &png(6, 4)).text("image", &url);
    assert_eq!(pixels(pictures.read(form.request()).await), [cat.clone(), cat]);
}

#[tokio::test]
async fn a_mask_may_be_elsewhere_too() {
    let pictures = Pictures::serve().await;
    let read = pictures.read_json(&["cat.png"], json!({"mask": {"image_url": pictures.url("mask.png")}})).await;
    let mask = read.unwrap().draft.mask.unwrap();
    assert_eq!((mask.size.to_string(), mask.editable[..6].to_vec()), ("6x4".into(), vec![255, 255, 255, 0, 0, 0]));
    for (path, expected) in [
        ("gone.png", "`mask` must name pictures that can be fetched, but one answered 404. Given: http://127.0.0.1"),
        ("cat.png", "`mask` must have an alpha channel"),
    ] {
        let message = pictures.read_json(&["cat.png"], json!({"mask": pictures.url(path)})).await.unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn what_is_no_picture_is_told_without_its_content() {
    let pictures = Pictures::serve().await;
    for (path, expected) in [
        ("gone.png", "`images` must name pictures that can be fetched, but one answered 404. Given: http://127.0.0.1"),
        ("text.png", "`images` must be a PNG, JPEG, WebP or GIF file"),
    ] {
        let message = pictures.read_json(&[path], json!({})).await.unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
    let elsewhere = post_json(json!({"prompt": "p", "images": ["http://127.0.0.1:1/cat.png"]}));
    let message = pictures.read(elsewhere).await.unwrap_err();
    assert!(message.starts_with("`images` must be of a host that the server's operator allows"), "{message}");
}

impl Pictures {
    /// Settings of an image server that fetches from here.
    fn config(&self) -> ServerConfig {
        let mut config = config();
        config.uploads.image_urls = Some(ImageFetcher::of_this_machine(&self.host));
        config
    }

    /// An image server that fetches from here; its model accepts two pictures.
    async fn app(&self, edit: impl FnOnce(&mut ServerConfig)) -> Router {
        let mut config = self.config();
        edit(&mut config);
        let mut pipeline = FakePipeline::default();
        pipeline.card.input_images = takes(2);
        app(configured_state(&pipeline, SchedulerConfig::default(), config).await)
    }

    /// An edit of a picture of this server, with further fields.
    fn edit(&self, more: Value, headers: &[(&str, &str)]) -> Request<Body> {
        let mut body = json!({"prompt": "make it night", "images": [self.url("cat.png")]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut request = post_json(body);
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        request
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn nothing_is_fetched_for_a_request_that_is_refused() {
    let pictures = Pictures::serve().await;
    let url = pictures.url("cat.png");
    let app = pictures.app(|config| config.api.allow_request_cache_config = true).await;
    for (more, expected) in [
        (json!({"output_format": "gif"}), "400 invalid_value output_format"),
        (json!({"prompt": " "}), "400 invalid_value prompt"),
        (json!({"prompt": "x".repeat(32_001)}), "400 invalid_value prompt"),
        (json!({"n": 11}), "400 invalid_value n"),
        (json!({"size": "512x512"}), "400 invalid_value size"),
        (json!({"num_inference_steps": 1001}), "400 invalid_value num_inference_steps"),
        (json!({"seed": -2}), "400 invalid_value seed"),
        (json!({"true_cfg_scale": 21}), "400 invalid_value true_cfg_scale"),
        (json!({"cache": {"Fn_compute_blocks": 1000}}), "400 invalid_value Fn_compute_blocks"),
        (json!({"images": [url, url, url]}), "400 invalid_value image"),
    ] {
        let answer = send(&app, pictures.edit(more, &[])).await;
        assert!(error(&answer).starts_with(expected), "{expected}: {}", answer.text);
    }
    let answer = send(&app, pictures.edit(json!({}), &[("x-request-timeout", "soon")])).await;
    assert_eq!(answer.status, 400);
    assert_eq!(pictures.asked(), 0);
    assert_eq!(send(&app, pictures.edit(json!({}), &[])).await.status, 200);
    assert_eq!(pictures.asked(), 1);
}

#[tokio::test]
async fn what_came_along_is_judged_before_anything_is_fetched() {
    let pictures = Pictures::serve().await;
    let (url, app) = (pictures.url("cat.png"), pictures.app(|_| {}).await);
    let file = |file: &[u8]| {
        use base64::Engine;
        format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(file))
    };
    let (cat, torn) = (file(&png(6, 4)), file(&png(6, 4)[..40]));
    for (more, expected) in [
        (json!({"mask": "data:,"}), "400 invalid_image_file mask"),
        (json!({"mask": "data:image/png;base64,"}), "400 invalid_image_file mask"),
        (json!({"mask": cat}), "400 invalid_image_file mask"),
        (json!({"images": [url, "data:,"]}), "400 invalid_image_file images"),
        (json!({"images": [url, torn]}), "400 invalid_image_file images"),
        (json!({"images": [url, file(&png(1, 1000))]}), "400 invalid_value image"),
        (json!({"images": [cat, url], "mask": file(&mask(4, 6))}), "400 invalid_image_file mask"),
        (json!({"images": [cat, torn], "mask": pictures.url("mask.png")}), "400 invalid_image_file images"),
    ] {
        let answer = send(&app, pictures.edit(more, &[])).await;
        assert!(error(&answer).starts_with(expected), "{expected}: {}", answer.text);
    }
    assert_eq!(pictures.asked(), 0);
    let both = json!({"images": [url, cat], "mask": file(&mask(6, 4))});
    assert_eq!(send(&app, pictures.edit(both, &[])).await.status, 200);
    assert_eq!(pictures.asked(), 1);
}

#[tokio::test]
async fn nothing_is_fetched_for_a_deadline_that_cannot_be_kept_or_a_full_line() {
    let pictures = Pictures::serve().await;
    let mut pipeline = FakePipeline { gate: Gate::closed(), ..FakePipeline::default() };
    pipeline.card.input_images = takes(2);
    let bounds = SchedulerConfig { max_batch: 1, max_waiting: 1, ..SchedulerConfig::default() };
    let state = configured_state(&pipeline, bounds, pictures.config()).await;
    let app = app(state.clone());

    let generating = || {
        tokio::spawn({
            let app = app.clone();
            async move { generate(&app, json!({"prompt": "a cat"})).await }
        })
    };
    let running = generating();
    load_becomes(&state, |load| load.running == 1).await;
    let waiting = generating();
    load_becomes(&state, |load| load.waiting == 1).await;
    let answer = send(&app, pictures.edit(json!({}), &[])).await;
    assert!(error(&answer).starts_with("429 queue_full"), "{}", answer.text);
    assert_eq!(pictures.asked(), 0);
    pipeline.gate.open();
    assert_eq!((running.await.unwrap().status.as_u16(), waiting.await.unwrap().status.as_u16()), (200, 200));
    let answer = send(&app, pictures.edit(json!({}), &[("x-request-timeout", "60")])).await;
    assert_eq!((answer.status.as_u16(), pictures.asked()), (200, 1), "{}", answer.text);
    // By now the time of a step is known.
    let hurried = [("x-request-timeout", "0.000001")];
    let answer = send(&app, pictures.edit(json!({"num_inference_steps": 1000}), &hurried)).await;
    assert!(error(&answer).starts_with("429 deadline_too_short"), "{}", answer.text);
    assert_eq!(pictures.asked(), 1);
}

#[tokio::test]
async fn nothing_is_fetched_for_a_model_that_edits_nothing_or_is_not_there() {
    let pictures = Pictures::serve().await;
    let state = configured_state(&FakePipeline::default(), SchedulerConfig::default(), pictures.config()).await;
    let answer = send(&app(state), pictures.edit(json!({}), &[])).await;
    assert!(error(&answer).starts_with("400 unsupported_value image"), "{}", answer.text);

    let (load, loaded) = std::sync::mpsc::channel::<()>();
    let factory = move || {
        let _ = loaded.recv();
        FakePipeline::default().factory()()
    };
    let scheduler = Scheduler::spawn(SpawnOptions::default(), vec![factory]);
    let app = app(AppState::new(scheduler, pictures.config(), Metrics::default()));
    let answer = send(&app, pictures.edit(json!({}), &[])).await;
    assert!(error(&answer).starts_with("503 model_loading"), "{}", answer.text);
    assert_eq!(pictures.asked(), 0);
    drop(load);
}

#[tokio::test]
async fn nothing_is_fetched_beyond_the_rate_limit() {
    let pictures = Pictures::serve().await;
    let app = pictures.app(|config| {
        config.api_keys.add("sk-a").unwrap();
        config.rate_limit = Some("1:4".parse().unwrap());
    });
    let (app, key) = (app.await, ("api-key", "sk-a"));
    let edit = async |more| {
        let answer = send(&app, pictures.edit(more, &[key])).await;
        format!("{} {}", answer.status.as_u16(), answer.header("x-ratelimit-remaining-requests"))
    };
    assert_eq!(edit(json!({"n": 5})).await, "400 4");
    assert_eq!((edit(json!({"n": 3})).await, pictures.asked()), ("200 1".into(), 1));
    assert_eq!((edit(json!({"n": 2})).await, pictures.asked()), ("429 1".into(), 1));
    // A failed fetch starts nothing, but the request itself counts.
    assert_eq!(edit(json!({"images": [pictures.url("gone.png")]})).await, "400 0");
}

#[tokio::test]
async fn a_repeated_request_fetches_nothing() {
    let pictures = Pictures::serve().await;
    let app = pictures.app(|_| {}).await;
    let edit = async |more| send(&app, pictures.edit(more, &[("idempotency-key", "k")])).await;
    let first = edit(json!({})).await;
    assert_eq!((first.status.as_u16(), pictures.asked()), (200, 1), "{}", first.text);
    let again = edit(json!({})).await;
    assert!(again.text == first.text && again.header("idempotent-replayed") == "true");
    let other = edit(json!({"images": [pictures.url("mask.png")]})).await;
    assert!(error(&other).starts_with("400 idempotency_key_reused"), "{}", other.text);
    let bad = send(&app, pictures.edit(json!({}), &[("idempotency-key", "a b")])).await;
    assert!(error(&bad).starts_with("400 invalid_value idempotency-key"), "{}", bad.text);
    assert_eq!(pictures.asked(), 1);
}

#[tokio::test]
async fn what_is_fetched_counts_as_if_it_were_sent() {
    // The request has some hundred bytes, and so does each picture.
    let mut pictures = Pictures::serve().await;
    let size = png(6, 4).len();
    pictures.upload_limit = 300 + 2 * size;
    assert_eq!(pixels(pictures.read_json(&["cat.png"], json!({})).await).len(), 1);
    let message = pictures.read_json(&["cat.png"; 8], json!({})).await.unwrap_err();
    assert!(message.starts_with("`images` must have at most"), "{message}");
    (pictures.upload_limit, pictures.upload_memory) = (64 << 20, 300 + 2 * size);
    assert_eq!(pixels(pictures.read_json(&["cat.png"], json!({})).await).len(), 1);
    let message = pictures.read_json(&["cat.png"; 8], json!({})).await.unwrap_err();
    assert!(message.starts_with("The uploads of all clients"), "{message}");
}
