//! Answers to generations.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use scheduler::fake::{FakePipeline, colour};
use serde_json::{Value, json};

use super::{Answer, decoded, events, fake_app, fetch, generate, generation, get, send, state};
use crate::app;

/// Colour of picture `i`, which has only one; also checks its size.
fn painted(answer: &Answer, i: usize, format: ImageFormat) -> [u8; 3] {
    let file = STANDARD.decode(answer.json["data"][i]["b64_json"].as_str().unwrap()).unwrap();
    let picture = image::load_from_memory_with_format(&file, format).unwrap().to_rgb8();
    assert_eq!(answer.json["size"], format!("{}x{}", picture.width(), picture.height()));
    picture.get_pixel(0, 0).0
}

#[tokio::test]
async fn a_picture_comes_with_everything_that_clients_read() {
    let answer = generate(&fake_app().await, json!({"prompt": "a red fox", "seed": 1027})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(painted(&answer, 0, ImageFormat::Png), colour(1027));

    let mut json = answer.json;
    assert!(json["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(json["data"][0]["b64_json"].is_string());
    json["created"].take();
    json["data"][0]["b64_json"].take();
    let expected = json!({
        "created": null,
        "model": "Fake/Fake-Image",
        "data": [{"b64_json": null, "seed": 1027}],
        "background": "opaque",
        "output_format": "png",
        "quality": "medium",
        "size": "64x64",
        "usage": {
            "total_tokens": 19,
            "input_tokens": 3,
            "output_tokens": 16,
            "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 16},
        },
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn pictures_of_one_request_are_batched_and_equal_lone_ones_with_seeds_counting_up() {
    let pipeline = FakePipeline::default();
    let app = app(state(&pipeline).await);
    let together = generate(&app, json!({"prompt": "a cat", "n": 2, "seed": 300, "size": "32x48"})).await;
    assert_eq!(pipeline.probe.batch_sizes(), [2; 4]);
    assert_eq!(together.json["usage"]["output_tokens"], 2 * 2 * 3);
    for i in 0..2 {
        assert_eq!(together.json["data"][i]["seed"], 300 + i);
        assert_eq!(painted(&together, i, ImageFormat::Png), colour(300 + i as u64));
        let alone = generate(&app, json!({"prompt": "a cat", "seed": 300 + i, "size": "32x48"})).await;
        assert_eq!(together.json["data"][i], alone.json["data"][0]);
    }
}

#[tokio::test]
async fn without_a_seed_every_picture_has_its_own() {
    let app = fake_app().await;
    let mut seeds = Vec::new();
    for seed in [Value::Null, json!(-1)] {
        let answer = generate(&app, json!({"prompt": "a cat", "n": 4, "seed": seed})).await;
        seeds.extend(answer.json["data"].as_array().unwrap().iter().map(|image| image["seed"].as_u64().unwrap()));
    }
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 8, "{seeds:?}");
}

#[tokio::test]
async fn pictures_come_in_the_format_that_was_asked_for() {
    let app = fake_app().await;
    let formats = [
        ("png", "png", ImageFormat::Png),
        ("jpeg", "jpeg", ImageFormat::Jpeg),
        ("jpg", "jpeg", ImageFormat::Jpeg),
        ("webp", "webp", ImageFormat::WebP),
    ];
    for (asked, answered, format) in formats {
        let answer = generate(&app, json!({"prompt": "a cat", "output_format": asked, "seed": 0x8080})).await;
        assert_eq!(answer.json["output_format"], answered);
        let colour = painted(&answer, 0, format);
        let near = colour.iter().all(|channel| channel.abs_diff(0x80) <= 1);
        assert!(near, "{asked} {colour:?}");
    }
}

#[tokio::test]
async fn what_clients_send_is_understood() {
    let app = fake_app().await;
    let bodies = [
        // openai-python and openai-node send every field, set, absent or null.
        json!({"prompt": "a cat", "model": "gpt-image-1", "n": null, "size": null, "user": "u", "stream": false}),
        json!({"prompt": "a cat", "model": null, "response_format": "b64_json", "background": "opaque"}),
        // LibreChat.
        json!({"prompt": "a cat", "model": "gpt-image-1", "n": 1, "background": "auto", "quality": "auto", "size": "auto"}),
        // LiteLLM leaks this field; LobeChat has names of its own.
        json!({"prompt": "a cat", "extra_headers": {"x": "y"}}),
        json!({"prompt": "a cat", "n": 1, "width": 64, "height": 48, "cfg": 4, "steps": 30, "seed": null, "aspectRatio": "1:1"}),
        // Every field that OpenAI has ever had.
        json!({"prompt": "a cat", "moderation": "low", "style": "vivid", "input_fidelity": "high", "complexity": "low",
            "safety_identifier": "u", "frame_count": 2, "frame_duration_ms": 40, "svg": {}, "partial_images": 2,
            "quality": "xhigh", "output_compression": 100, "output_format": "webp"}),
        // The names of the guide, as vllm-omni's clients send them.
        json!({"prompt": "a cat", "negative_prompt": "dogs", "num_inference_steps": 2, "guidance_scale": 1,
            "true_cfg_scale": 4.0, "cfg_scale": 4, "seed": 2.0}),
    ];
    for body in bodies {
        let answer = generate(&app, &body).await;
        assert_eq!(answer.status, 200, "{body} {}", answer.json);
    }
}

#[tokio::test]
async fn fields_without_effect_are_listed() {
    let app = fake_app().await;
    let ignored = async |body: Value| generate(&app, body).await.header("x-ignored-params").to_owned();
    assert_eq!(ignored(json!({"prompt": "a cat", "n": 1, "user": "u", "moderation": null})).await, "");
    assert_eq!(ignored(json!({"prompt": "a cat", "style": "vivid", "aspectRatio": "1:1"})).await, "aspectRatio, style");
    assert_eq!(ignored(json!({"prompt": "a cat", "quality": "high"})).await, "");
    assert_eq!(ignored(json!({"prompt": "a cat", "output_compression": 5})).await, "output_compression");
    let jpeg = json!({"prompt": "a cat", "output_compression": 5, "output_format": "jpeg"});
    assert_eq!(ignored(jpeg).await, "");
    assert_eq!(ignored(json!({"prompt": "a cat", "é\r\nx-evil": 1})).await, "\\u{e9}\\r\\nx-evil");
    let long = ignored(json!({"prompt": "a cat", "a": 1, "z".repeat(5000): 1})).await;
    assert_eq!(long, "a", "a name that does not fit is left out");
}

#[tokio::test]
async fn what_has_no_effect_on_this_model_is_said() {
    let app = fake_app().await;
    let told = async |body: Value| {
        let answer = generate(&app, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        (answer.header("x-ignored-params").to_owned(), answer.json.get("warnings").cloned().unwrap_or_default())
    };
    let warning = "`true_cfg_scale` has no effect: guidance runs only with a `negative_prompt`, be it a space.";
    let alone = told(json!({"prompt": "a cat", "cfg": 8, "style": "vivid"})).await;
    assert_eq!(alone, ("style, true_cfg_scale".into(), json!([warning])));
    for quiet in [json!({"prompt": "a cat", "true_cfg_scale": 8, "negative_prompt": " "}), json!({"prompt": "a cat"})] {
        assert_eq!(told(quiet).await, (String::new(), Value::Null));
    }
    for (more, expected) in [
        (json!({"guidance_scale": 3}), "guidance_scale"),
        (json!({"negative_prompt": "fog", "true_cfg_scale": 1}), "negative_prompt"),
        (json!({"quality": "high", "steps": 2}), "quality"),
        (json!({"output_compression": 5}), "output_compression"),
    ] {
        let mut body = json!({"prompt": "a cat", "n": 2});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (ignored, warnings) = told(body).await;
        assert_eq!(ignored, expected);
        assert!(
            warnings.as_array().unwrap().len() == 1 && warnings[0].as_str().unwrap().contains(expected),
            "{warnings}"
        );
    }
    let stream = json!({"prompt": "a cat", "stream": true, "response_format": "url"});
    let answer = generate(&app, stream).await;
    assert_eq!(answer.header("x-ignored-params"), "response_format");
    let (_, completed) = events(&answer.text).pop().unwrap();
    assert_eq!(completed["warnings"], json!(["`response_format` has no effect: a stream has its pictures in base64."]));
}

#[tokio::test]
async fn the_answer_names_a_quality_that_strict_clients_take() {
    let app = fake_app().await;
    for (asked, answered) in
        [("auto", "medium"), ("low", "low"), ("hd", "high"), ("standard", "medium"), ("max", "high")]
    {
        assert_eq!(generate(&app, json!({"prompt": "a cat", "quality": asked})).await.json["quality"], answered);
    }
}

#[tokio::test]
async fn timings_come_when_asked_for() {
    let step_delay = std::time::Duration::from_millis(2);
    let app = app(state(&FakePipeline { step_delay, ..FakePipeline::default() }).await);
    let answer = generate(&app, json!({"prompt": "a cat", "return_timings": true, "num_inference_steps": 5})).await;
    let timings = answer.json["timings"].as_object().unwrap();
    let mut names: Vec<_> = timings.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["denoise_ms", "queue_ms", "text_encoder_ms", "vae_ms"]);
    assert!(timings["denoise_ms"].as_f64().unwrap() >= 10.0, "{timings:?}");
}

/// The text chunk `parameters` of a PNG, and the chunk's type.
fn parameters(file: &[u8]) -> Option<(&'static str, String)> {
    let reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().map(|chunk| ("tEXt", &chunk.keyword, chunk.text.clone()));
    let wide = info.utf8_text.iter().map(|chunk| ("iTXt", &chunk.keyword, chunk.get_text().unwrap()));
    latin.chain(wide).find(|(_, keyword, _)| *keyword == "parameters").map(|(kind, _, text)| (kind, text))
}

#[tokio::test]
async fn a_png_says_how_it_was_made_if_it_is_asked_to() {
    let app = fake_app().await;
    let body = json!({"prompt": "a caf\u{e9}", "negative_prompt": "rain", "seed": 5, "n": 2, "true_cfg_scale": 2.5});
    let answer = generate(&app, &body).await;
    assert_eq!(parameters(&decoded(&answer.json["data"][0]["b64_json"])), None, "prompts do not leak");
    for (prompt, kind) in [("a caf\u{e9}", "tEXt"), ("a \u{732b}", "iTXt")] {
        let mut body = body.clone();
        (body["prompt"], body["embed_metadata"]) = (prompt.into(), true.into());
        let answer = generate(&app, &body).await;
        assert_eq!(answer.header("x-ignored-params"), "");
        for i in 0..2 {
            let expected = format!(
                "{prompt}\nNegative prompt: rain\nSteps: 4, Sampler: Euler, CFG scale: 2.5, Seed: {}, Size: 64x64, \
                 Model: Fake/Fake-Image, Version: latentd {}",
                5 + i,
                env!("CARGO_PKG_VERSION")
            );
            let file = decoded(&answer.json["data"][i]["b64_json"]);
            assert_eq!(parameters(&file), Some((kind, expected)));
        }
    }
    let with_nul = json!({"prompt": "a\0 cat", "embed_metadata": true});
    let (_, text) = parameters(&decoded(&generate(&app, with_nul).await.json["data"][0]["b64_json"])).unwrap();
    assert!(text.starts_with("a cat\n"), "{text:?}");
    let jpeg = json!({"prompt": "a cat", "embed_metadata": true, "output_format": "jpeg"});
    assert_eq!(generate(&app, jpeg).await.header("x-ignored-params"), "embed_metadata");
    let stream = json!({"prompt": "a cat", "embed_metadata": true, "stream": true, "partial_images": 1});
    for (name, event) in events(&generate(&app, stream).await.text) {
        let has_parameters = parameters(&decoded(&event["b64_json"])).is_some();
        assert_eq!(has_parameters, name == "image_generation.completed", "{name}");
    }
}

/// A server whose model was made for 64x64 and knows two things.
async fn small_app() -> axum::Router {
    let mut pipeline = FakePipeline::default();
    pipeline.card.native_sizes = vec![pipeline.card.default_size];
    pipeline.card.knows = vec!["cat".into(), "dog".into()];
    app(state(&pipeline).await)
}

#[tokio::test]
async fn a_size_that_the_model_was_not_made_for_is_told() {
    let app = small_app().await;
    let made = "the picture was made at 64x64, which the model was trained for, and ";
    for (size, note) in [
        ("256x256", "enlarged to 256x256"),
        ("96x64", "left as it is in the middle of 96x64, its edge carried outwards"),
    ] {
        let answer = generate(&app, json!({"prompt": "a cat", "size": size})).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-generated-size")), (200, "64x64"), "{}", answer.text);
        assert_eq!((&answer.json["size"], &answer.json["warnings"]), (&json!(size), &json!([format!("{made}{note}")])));
        assert_eq!(answer.json["usage"]["output_tokens"], 16, "of what was made");
        let picture = image::load_from_memory(&decoded(&answer.json["data"][0]["b64_json"])).unwrap();
        assert_eq!(format!("{}x{}", picture.width(), picture.height()), size);
    }
    let body = json!({"prompt": "a cat", "size": "256x256", "embed_metadata": true});
    let answer = generate(&app, &body).await;
    let (_, text) = parameters(&decoded(&answer.json["data"][0]["b64_json"])).unwrap();
    assert!(text.contains("Size: 64x64, Hires resize: 256x256, Hires upscaler: Lanczos, "), "{text}");

    let stream =
        generate(&app, json!({"prompt": "a cat", "size": "256x256", "stream": true, "partial_images": 1})).await;
    assert_eq!(stream.header("x-generated-size"), "64x64");
    for (name, event) in events(&stream.text) {
        let picture = image::load_from_memory(&decoded(&event["b64_json"])).unwrap();
        assert_eq!((picture.width(), &event["size"]), (256, &json!("256x256")), "{name}");
    }
    let job = send(&app, generation(json!({"prompt": "a cat", "size": "32x32"}), &[("prefer", "respond-async")])).await;
    assert_eq!((job.status.as_u16(), job.header("x-generated-size")), (202, "64x64"));

    let native = generate(&app, json!({"prompt": "a cat"})).await;
    assert_eq!((native.header("x-generated-size"), &native.json["warnings"]), ("", &Value::Null));
    let model = &get(&app, "/info").await.json["model"];
    assert_eq!((&model["native_sizes"], &model["knows"]), (&json!(["64x64"]), &json!(["cat", "dog"])));
}

#[tokio::test]
async fn a_prompt_that_names_nothing_known_is_drawn_and_told() {
    let app = small_app().await;
    let answer = generate(&app, json!({"prompt": "a castle"})).await;
    let told = "the prompt names nothing that the model was trained to draw, which is: cat and dog";
    assert_eq!((answer.status.as_u16(), &answer.json["warnings"]), (200, &json!([told])));
    let file = json!({"prompt": "a castle", "response_format": "file"});
    assert_eq!(fetch(&app, generation(file, &[])).await.0.headers["x-warnings"], told);
    assert_eq!(generate(&app, json!({"prompt": "a dog"})).await.json["warnings"], Value::Null);
    let other = json!({"prompt": "Cats", "partial_images": 2, "response_format": "file"});
    let expected = "`partial_images` has no effect: the answer is neither a stream nor a job. | `cats` is drawn as `cat`, the \
        name that the model knows";
    assert_eq!(fetch(&app, generation(other, &[])).await.0.headers["x-warnings"], expected);
}
