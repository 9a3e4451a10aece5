//! Pictures that an edit names by URL, on a server that fetches them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use diffusion::RgbImage;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::config;
use super::edits::takes;
use super::forms::{Form, mask, png, post_json};
use crate::request::{self, Endpoint, ImageFetcher, ImagesRequest, UploadMemory};

/// A server of pictures.
struct Pictures {
    host: String,
    /// How often it was asked for one.
    asked: Arc<AtomicUsize>,
    upload_limit: usize,
    upload_memory: usize,
    max_images: usize,
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
        Pictures { host, asked, upload_limit: 64 << 20, upload_memory: 64 << 20, max_images: 16 }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    async fn read(&self, request: Request<Body>) -> Result<ImagesRequest, String> {
        let mut config = config();
        config.image_urls = Some(ImageFetcher::of_this_machine(&self.host));
        config.upload_limit = self.upload_limit;
        let memory = UploadMemory::new(self.upload_memory);
        let bounds = takes(self.max_images);
        request::read(Endpoint::Edit, request, &config, &memory, Some(&bounds)).await.map_err(|err| err.to_string())
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

#[tokio::test]
async fn nothing_is_fetched_for_a_request_that_is_wrong() {
    let pictures = Pictures::serve().await;
    let message = pictures.read_json(&["cat.png"], json!({"output_format": "gif"})).await.unwrap_err();
    assert!(message.starts_with("`output_format` must be"), "{message}");
    assert_eq!(pictures.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn nothing_is_fetched_for_a_model_that_takes_fewer_pictures() {
    let mut pictures = Pictures::serve().await;
    for (most, expected) in [(0, "`image` must be absent"), (1, "`image` must be at most 1 picture")] {
        pictures.max_images = most;
        let message = pictures.read_json(&["cat.png"; 2], json!({})).await.unwrap_err();
        assert!(message.starts_with(expected), "{message}");
    }
    assert_eq!(pictures.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_fetched_counts_as_if_it_were_sent() {
    // The request has some hundred bytes, and each picture too.
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
