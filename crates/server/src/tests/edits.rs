//! Edits, in every form that clients send.

use axum::body::Body;
use axum::http::Request;
use diffusion::{InputImageBounds, Mask};
use scheduler::SchedulerConfig;
use scheduler::fake::FakePipeline;
use serde_json::{Value, json};

use super::forms::{BOUNDARY, Form, data_url, edit, in_pieces, mask, png, post, post_json};
use super::{Answer, bounded_state, config, fake_app, jobs, send};
use crate::api::bounds::Purpose;
use crate::api::request::{Delivery, Endpoint, ImageField, ImagesRequest};
use crate::app;
use crate::uploads::{self, MemoryLedger};

async fn read(request: Request<Body>) -> Result<ImagesRequest, String> {
    uploads::read(
        Endpoint::Edit,
        request,
        &config().api,
        &config().uploads,
        &MemoryLedger::of(Purpose::Uploads, usize::MAX),
        None,
    )
    .await
    .map_err(|err| err.to_string())
}

/// Bounds for at most so many pictures, of any size.
pub(super) fn takes(max_images: usize) -> InputImageBounds {
    InputImageBounds { min_images: 0, max_images, min_side: 1, max_ratio: 200.0 }
}

/// A server whose model accepts two pictures.
pub(super) async fn editing_app() -> axum::Router {
    app_with(takes(2)).await
}

/// A server whose model accepts pictures within these bounds.
pub(super) async fn app_with(bounds: InputImageBounds) -> axum::Router {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = bounds;
    app(bounded_state(&pipeline, SchedulerConfig::default()).await)
}

pub(super) fn error(answer: &Answer) -> String {
    let error = &answer.json["error"];
    let text = |key: &str| error[key].as_str().unwrap_or("-");
    format!("{} {} {} | {}", answer.status.as_u16(), text("code"), text("param"), text("message"))
}

#[tokio::test]
async fn a_form_means_what_json_means() {
    let picture = png(6, 4);
    let form = Form::default()
        .text("prompt", "make it night")
        .file("image[]", "a.png", &picture)
        .text("n", "2")
        .text("size", "64x32")
        .text("quality", "high")
        .text("seed", "7")
        .text("steps", "3")
        .text("guidance_scale", "1.5")
        .text("sampler", "unipc")
        .text("cfg", "2")
        .text("stream", "true")
        .text("partial_images", "2")
        .text("stream_progress", "False")
        .text("return_timings", "1")
        .text("output_format", "jpeg")
        .text("output_compression", "80")
        .text("safety_identifier", "u1")
        .text("user", "12")
        .text("input_fidelity", "high")
        .text("priority", "-2")
        .file("mask", "m.png", &mask(6, 4))
        .file("image[]", "b.png", &picture);
    let json = json!({
        "prompt": "make it night", "images": [{"image_url": data_url(&picture)}, {"image_url": data_url(&picture)}],
        "n": 2, "width": 64, "height": 32, "quality": "hd", "seed": 7, "num_inference_steps": 3,
        "sampler": "unipc", "guidance_scale": 1.5, "true_cfg_scale": 2.0, "stream": true, "partial_images": 2,
        "return_timings": true, "output_format": "jpg", "output_compression": 80, "safety_identifier": "u1", "user": "12",
        "mask": {"image_url": data_url(&mask(6, 4))},
        "input_fidelity": "high", "extra_body": {"priority": -2, "seed": 8},
    });
    let (form, json) = (read(form.request()).await.unwrap(), read(post_json(json)).await.unwrap());
    assert_eq!(format!("{form:#?}"), format!("{json:#?}"));
    let pictures = &form.draft.input_images;
    assert_eq!((pictures.len(), pictures[0].image.size.to_string()), (2, "6x4".into()));
    assert_eq!(pictures[1].image.pixels[..3], [10, 200, 30]);
    let left = |mask: &Mask| (mask.size.to_string(), mask.editable[0], mask.editable[5]);
    assert_eq!(form.draft.mask.as_ref().map(left), Some(("6x4".into(), 255, 0)));
    assert_eq!(form.draft.mask, json.draft.mask);
    assert_eq!((form.draft.n, form.draft.seed, form.draft.num_inference_steps), (Some(2), Some(7), Some(3)));
    assert_eq!((form.quality, form.priority, form.ignored.join(" ")), ("high", -2, "input_fidelity".into()));
    assert!(matches!(form.delivery, Delivery::Stream(options) if !options.progress) && form.draft.previews.is_some());
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table of cases")]
async fn every_client_is_understood() {
    let (one, two) = (png(6, 4), png(3, 3));
    let png_file = |name: &str, file: &str| {
        format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\nContent-Type: image/png")
    };
    let aiohttp = |name: &str| {
        format!("Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"{name}\"")
    };
    let form = Form::default;
    let clients = [
        // openai-python: one file is `image`, bytes are named `upload`, and extra_body becomes parts.
        ("python, one file", form().text("prompt", "x").part(&png_file("image", "cat.png"), &one), 1, ""),
        ("python, bytes", form().text("prompt", "x").file("image", "upload", &one), 1, ""),
        (
            "python, a list",
            form()
                .text("prompt", "x")
                .text("num_inference_steps", "2")
                .text("stream", "false")
                .text("loras[][path]", "a")
                .text("loras[][path]", "b")
                .text("meta[k]", "v")
                .file("image[]", "upload", &one)
                .file("image[]", "upload", &two),
            2,
            "loras[][path] meta[k]",
        ),
        // openai-node: the files may come first.
        (
            "node",
            form().part(&png_file("image[]", "cat.png"), &one).text("model", "gpt-image-1").text("prompt", "x"),
            1,
            "",
        ),
        // LiteLLM sends paths as file names.
        (
            "LiteLLM",
            form().text("model", "gpt-image-1").text("prompt", "x").file("image[]", "/home/u/ca\"t;.png", &one),
            1,
            "",
        ),
        // Open WebUI, through aiohttp: Content-Type comes first, for text too.
        (
            "Open WebUI",
            form()
                .part(&aiohttp("model"), b"gpt-image-1")
                .part(&aiohttp("prompt"), "ein Bär".as_bytes())
                .part(&aiohttp("n"), b"1")
                .part(&aiohttp("size"), b"64x64")
                .part(&aiohttp("background"), b"auto")
                .part(&aiohttp("response_format"), b"b64_json")
                .part(
                    "Content-Type: image/png\r\nContent-Disposition: form-data; name=\"image[]\"; \
                     filename=\"image.png\"",
                    &one,
                ),
            1,
            "",
        ),
        (
            "LibreChat",
            form().text("model", "gpt-image-1").text("prompt", "x").text("quality", "auto").text("size", "auto").file(
                "image[]",
                "image_0.png",
                &one,
            ),
            1,
            "",
        ),
        (
            "LobeChat",
            form().text("prompt", "x").text("input_fidelity", "high").text("n", "1").file("image", "blob", &one),
            1,
            "input_fidelity",
        ),
        ("Vercel AI SDK", form().text("prompt", "x").text("n", "1").file("image[]", "blob", &two), 1, ""),
        // A web page's form also contains the file input without a file.
        (
            "a browser",
            form().file("mask", "", b"").file("image", "", b"").text("prompt", "x").file("image", "c", &one),
            1,
            "",
        ),
        ("curl -F image=data:", form().text("prompt", "x").text("image", &data_url(&one)), 1, ""),
        ("vllm-omni", form().text("prompt", "x").text("url[]", &data_url(&one)).text("url[]", &data_url(&two)), 2, ""),
    ];
    for (client, form, num_images, ignored) in clients {
        let body = form.end();
        // Whole, and chunked with cuts anywhere.
        for body in [Body::from(body.clone()), in_pieces(&body, 7), in_pieces(&body, 1)] {
            let asked = read(post(body)).await.unwrap_or_else(|err| panic!("{client}: {err}"));
            assert_eq!(
                (asked.draft.input_images.len(), asked.ignored.join(" ").as_str()),
                (num_images, ignored),
                "{client}"
            );
            assert_eq!(asked.delivery, Delivery::Json(ImageField::B64Json), "{client}");
            assert!(!asked.draft.prompt.is_empty(), "{client}");
        }
    }
}

#[tokio::test]
async fn without_a_size_the_model_sizes_the_picture_by_those_that_it_was_given() {
    let app = editing_app().await;
    let form = |width, height| Form::default().text("prompt", "x").file("image", "a", &png(width, height));
    for (form, expected) in [
        (form(300, 100), "96x32"),
        (form(100, 300).file("image", "b", &png(64, 64)), "64x64"),
        (form(100, 300).file("image", "b", &png(64, 64)).file("mask", "m", &mask(100, 300)), "32x96"),
        (form(4, 4).text("size", "auto"), "64x64"),
        (form(300, 100).text("size", "40x50"), "40x50"),
    ] {
        let answer = edit(&app, form).await;
        assert_eq!((answer.status.as_u16(), answer.json["size"].as_str()), (200, Some(expected)), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_model_takes_as_many_pictures_as_it_says() {
    let pictures = |count: usize| {
        let form = Form::default().text("prompt", "x");
        (0..count).fold(form, |form, _| form.file("image[]", "a", &png(2, 2)))
    };
    let app = editing_app().await;
    assert_eq!(edit(&app, pictures(2)).await.status, 200);
    let message = "400 invalid_value image | `image` must be at most 2 pictures for this model. Given: 3 pictures";
    assert_eq!(error(&edit(&app, pictures(3)).await), message);
    let message = "400 invalid_value image | `image` must be at most 16 pictures. Given: 17 pictures";
    assert_eq!(error(&edit(&app, pictures(17)).await), message);
}

#[tokio::test]
async fn a_model_that_only_edits_tells_a_generation_where_to_go() {
    let app = app_with(InputImageBounds { min_images: 1, ..takes(2) }).await;
    let message = "400 invalid_value image | `image` must be given: the model makes pictures from pictures, by POST \
        /v1/images/edits or `latentd edit`. Given: 0 pictures";
    assert_eq!(error(&super::generate(&app, json!({"prompt": "x"})).await), message);
    assert_eq!(edit(&app, Form::default().text("prompt", "x").file("image", "a", &png(2, 2))).await.status, 200);
}

#[tokio::test]
async fn an_edit_can_be_a_job_with_previews_and_an_urgency() {
    let app = editing_app().await;
    let body = json!({
        "prompt": "x", "images": [data_url(&png(64, 64))], "async": true, "partial_images": 1,
        "priority": 3, "response_format": "url",
    });
    let taken = send(&app, post_json(body)).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let id = taken.json["id"].as_str().unwrap();
    let followed = super::get(&app, &format!("/v1/images/jobs/{id}/events")).await;
    let names: Vec<_> = super::events(&followed.text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.last().map(String::as_str), Some("image_edit.completed"), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("image_edit.")), "{names:?}");
    let job = jobs::ended(&app, id).await;
    assert_eq!((&job["status"], &job["result"]["size"]), (&json!("completed"), &json!("64x64")));
}

#[tokio::test]
async fn a_model_of_text_alone_says_so_once_a_request_can_be_read() {
    let app = fake_app().await;
    let form = || Form::default().text("prompt", "x").file("image", "a", &png(2, 2));
    let message = "400 unsupported_value image | `image` must be absent: the model makes pictures from text only, \
        by POST /v1/images/generations. Given: 1 picture";
    assert_eq!(error(&edit(&app, form()).await), message);
    let json = json!({"prompt": "x", "images": [data_url(&png(2, 2))]});
    assert_eq!(error(&send(&app, post_json(json)).await), message);
    for (form, expected) in [
        (form().text("n", "x"), "400 invalid_type n"),
        // Nothing is decoded for a model that takes no pictures.
        (form().file("image", "b", b"GIF89a"), "400 unsupported_value image | `image` must be absent: the model makes"),
        (
            form().file("mask", "m.png", &mask(2, 2)),
            "400 unsupported_value mask | `mask` must be absent: the model makes",
        ),
        (form().file("markup", "m.png", &png(2, 2)), "400 unsupported_value markup"),
        (form().text("background", "transparent"), "400 unsupported_value background"),
        (form().text("model", "gpt-9"), "404 model_not_found model"),
        (
            Form::default().text("prompt", "x"),
            "400 unsupported_value image | `image` must be absent: the model makes pictures from text only, by POST \
             /v1/images/generations. Given: no picture",
        ),
        (Form::default().file("image", "a", &png(2, 2)), "400 missing_required_parameter prompt"),
    ] {
        let answer = error(&edit(&app, form).await);
        assert!(answer.starts_with(expected), "{answer}");
    }
    for (json, expected) in [
        (json!({"images": vec![json!({"": 0}); 20]}), "image | `image` must be absent: the model makes"),
        (json!({"image": "https://example.com/a.png", "extra_body": {"url": ["x"]}}), "image | `image` must be absent"),
        (json!({"images": ["x"], "mask": {"image_url": "x"}}), "mask | `mask` must be absent"),
    ] {
        let mut json = json;
        json["prompt"] = "x".into();
        let answer = error(&send(&app, post_json(json)).await);
        assert!(answer.starts_with(&format!("400 unsupported_value {expected}")), "{answer}");
    }
}

#[tokio::test]
async fn an_edit_whose_pictures_are_missing_is_told_which_field_lacks() {
    let app = editing_app().await;
    let answer = error(&edit(&app, Form::default().text("prompt", "x")).await);
    assert!(answer.starts_with("400 missing_required_parameter image |"), "{answer}");
    let broken = Form::default().text("prompt", "x").file("image", "b", b"GIF89a");
    let answer = error(&edit(&app, broken).await);
    assert!(answer.starts_with("400 invalid_image_file image"), "{answer}");
}

#[tokio::test]
async fn pictures_in_json_are_checked_alike() {
    let app = editing_app().await;
    let url = data_url(&png(2, 2));
    for (images, expected) in [
        (json!([]), "400 missing_required_parameter images"),
        (json!([{"file_id": "file-1"}]), "400 unsupported_value images"),
        (json!([{"image_url": "https://example.com/a.png"}]), "400 unsupported_value images"),
        (json!([{"image_url": "data:image/png;base64,AAAA"}]), "400 invalid_image_file images"),
        (json!([url, 3]), "400 invalid_type images"),
        (json!([url, "ftp://x"]), "400 invalid_value images"),
    ] {
        let answer = send(&app, post_json(json!({"prompt": "x", "images": images}))).await;
        assert!(error(&answer).starts_with(expected), "{}", error(&answer));
        // The error names the field that was given.
        if images != json!([]) {
            let answer = send(&app, post_json(json!({"prompt": "x", "image": images}))).await;
            assert!(error(&answer).starts_with(expected.trim_end_matches('s')), "{}", error(&answer));
        }
    }
}

#[tokio::test]
async fn a_generation_brings_no_pictures() {
    let app = fake_app().await;
    for (field, value, status) in [
        ("image", json!(data_url(&png(2, 2))), 400),
        ("images", json!([{"image_url": "x"}]), 400),
        ("images", json!([]), 200),
        ("mask", json!({"image_url": "x"}), 400),
        ("image", json!(""), 200),
        ("image", Value::Null, 200),
    ] {
        let answer = super::generate(&app, json!({"prompt": "x", field: value})).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(status == 200 || error(&answer).starts_with(&format!("400 unsupported_value {field}")));
    }
}

#[tokio::test]
async fn variations_are_told_where_to_go() {
    let app = fake_app().await;
    for path in ["/v1/images/variations", "/images/variations/"] {
        let request = Request::post(path).header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
        let body = Form::default().file("image", "a", &png(2, 2)).end();
        let answer = send(&app, request.body(Body::from(body)).unwrap()).await;
        let message = "400 unsupported_endpoint - | Variations are not supported (OpenAI has retired them). \
            Use POST /v1/images/edits with a prompt";
        assert_eq!(error(&answer), message);
    }
}
