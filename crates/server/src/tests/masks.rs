//! Edits with a mask.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::edits::{editing_app, error};
use super::forms::{Form, data_url, edit, mask, png, post, post_json};
use super::{config, events, fake_app, fetch, jobs, send};
use crate::api::bounds::Purpose;
use crate::api::request::Endpoint;
use crate::uploads::{self, MemoryLedger};

/// The fake pipeline's warning for a mask whose left half is transparent.
const USED: &str = "12 of 24 pixels of 1 of 1 pictures may change";

fn body(more: Value) -> Request<Body> {
    let mut body =
        json!({"prompt": "x", "images": [data_url(&png(6, 4))], "mask": {"image_url": data_url(&mask(6, 4))}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    post_json(body)
}

fn form() -> Form {
    Form::default().text("prompt", "x").file("image", "a.png", &png(6, 4))
}

#[tokio::test]
async fn every_answer_says_what_was_done_with_a_mask() {
    let app = editing_app().await;
    let whole = send(&app, body(json!({"n": 2}))).await;
    assert_eq!((whole.status.as_u16(), &whole.json["warnings"]), (200, &json!([USED])), "each sentence once");
    assert_eq!(edit(&app, form().file("mask", "m.png", &mask(6, 4))).await.json["warnings"], json!([USED]));
    assert_eq!(edit(&app, form()).await.json.get("warnings"), None);

    let (file, _) = fetch(&app, body(json!({"response_format": "file"}))).await;
    assert_eq!((file.status.as_u16(), file.headers["x-warnings"].to_str().unwrap()), (200, USED));
    let (file, _) = fetch(
        &app,
        post_json(json!({"prompt": "x", "images": [data_url(&png(6, 4))],
        "response_format": "file"})),
    )
    .await;
    assert!(!file.headers.contains_key("x-warnings"));

    let stream = send(&app, body(json!({"stream": true, "partial_images": 1}))).await;
    let events = events(&stream.text);
    assert_eq!((events[0].0.as_str(), events[1].0.as_str()), ("image_edit.partial_image", "image_edit.completed"));
    assert_eq!(events[1].1["warnings"], json!([USED]));

    let taken = send(&app, body(json!({"async": true}))).await;
    let job = jobs::ended(&app, taken.json["id"].as_str().unwrap()).await;
    assert_eq!(job["result"]["warnings"], json!([USED]));
}

#[tokio::test]
async fn a_mask_belongs_to_the_first_picture() {
    let app = editing_app().await;
    let second = form().file("image", "b.png", &png(3, 3));
    let answer = edit(&app, second.clone().file("mask", "m.png", &mask(6, 4))).await;
    assert_eq!(answer.json["warnings"], json!(["12 of 24 pixels of 1 of 2 pictures may change"]));
    let message = "400 invalid_image_file mask | `mask` must be as large as the (first) picture, 6x4. Given: 3x3";
    assert_eq!(error(&edit(&app, second.file("mask", "m.png", &mask(3, 3))).await), message);
}

#[tokio::test]
async fn what_is_wrong_with_a_mask_is_told() {
    let app = editing_app().await;
    let masked = |file: &[u8]| form().file("mask", "m.png", file);
    let alone = Form::default().text("prompt", "x").file("mask", "m.png", &mask(6, 4));
    for (form, expected) in [
        (masked(&png(6, 4)), "400 invalid_image_file mask | `mask` must have an alpha channel"),
        (masked(b"a mask"), "400 invalid_image_file mask | `mask` must be a PNG, JPEG, WebP or GIF file"),
        (masked(b""), "400 invalid_image_file mask | `mask` must be a PNG, JPEG, WebP or GIF file. Given: an empty"),
        (masked(&mask(6, 4)).file("mask", "n", &mask(6, 4)), "400 invalid_value mask | `mask` must be given once"),
        (masked(&vec![b'x'; (20 << 20) + 1]), "400 image_too_large mask | `mask` must be a file of at most 20971520"),
        (alone, "400 invalid_value mask | `mask` must come with the picture that it belongs to. Given: a mask alone"),
        (form().text("mask", "https://example.com/m.png"), "400 unsupported_value mask | `mask` must be sent whole"),
    ] {
        let answer = error(&edit(&app, form).await);
        assert!(answer.starts_with(expected), "{answer}");
    }
    let alone = post_json(json!({"prompt": "x", "mask": {"image_url": data_url(&mask(6, 4))}}));
    assert!(error(&send(&app, alone).await).starts_with("400 invalid_value mask"));
    let of_text_alone = error(&send(&fake_app().await, body(json!({}))).await);
    assert!(of_text_alone.starts_with("400 unsupported_value mask | `mask` must be absent"), "{of_text_alone}");
}

#[tokio::test]
async fn none_is_a_mask_too() {
    let app = editing_app().await;
    for form in [form().file("mask", "", b""), form().text("mask", "")] {
        let answer = edit(&app, form).await;
        assert_eq!((answer.status.as_u16(), answer.json.get("warnings")), (200, None), "{}", answer.text);
    }
    for mask in [Value::Null, json!("")] {
        let answer = send(&app, body(json!({"mask": mask}))).await;
        assert_eq!((answer.status.as_u16(), answer.json.get("warnings")), (200, None), "{}", answer.text);
    }
}

#[tokio::test]
async fn another_mask_is_another_request() {
    let app = editing_app().await;
    let post = async |mask: &[u8]| {
        let mut request = post(form().file("mask", "m.png", mask).end());
        request.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        send(&app, request).await
    };
    let first = post(&mask(6, 4)).await;
    let again = post(&mask(6, 4)).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json["data"]), ("true", &first.json["data"]));
    // Of the same size, and transparent in other places.
    let other = image::load_from_memory(&mask(6, 4)).unwrap().fliph();
    let mut file = std::io::Cursor::new(Vec::new());
    other.write_to(&mut file, image::ImageFormat::Png).unwrap();
    assert_eq!(post(file.get_ref()).await.json["error"]["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn a_mask_counts_into_the_memory_of_uploads() {
    let body = form().file("mask", "m.png", &mask(6, 4)).end();
    let read = async |bytes: usize| {
        let memory = MemoryLedger::of(Purpose::Uploads, bytes);
        let read =
            uploads::read(Endpoint::Edit, post(body.clone()), &config().api, &config().uploads, &memory, None).await;
        assert_eq!(memory.left(), bytes, "it is given back");
        read.map(|asked| asked.draft.mask.is_some()).map_err(|err| err.to_string())
    };
    assert_eq!(read(body.len()).await, Ok(true));
    assert!(read(body.len() - 1).await.unwrap_err().starts_with("The uploads of all clients"));
}
