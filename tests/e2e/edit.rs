//! Editing on the command line and over HTTP, with tiny models of random weights, whose pictures are meaningless.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageBuffer, Rgb, Rgba};
use serde_json::{Value, json};

use crate::binary::{folder, latentd, run, stderr};
use crate::serve::Server;

/// A model that only edits, with up to four input pictures.
const EDIT_PLUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens/models/qwen-image-edit-plus");
/// A model that generates and edits, with up to four input pictures.
pub const KLEIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens/models/flux2-klein");

const RED: [u8; 3] = [200, 30, 30];

/// Writes a picture of 96x64 in one colour.
fn picture(folder: &Path, name: &str, colour: [u8; 3]) -> PathBuf {
    let path = folder.join(name);
    ImageBuffer::from_pixel(96, 64, Rgb(colour)).save(&path).unwrap();
    path
}

/// Writes a mask of this size, whose left half is transparent.
fn mask(folder: &Path, name: &str, width: u32, height: u32) -> PathBuf {
    let path = folder.join(name);
    let alpha = |x| if x < width / 2 { 0 } else { 255 };
    let pixels = ImageBuffer::from_fn(width, height, |x, _| Rgba([0, 0, 0, alpha(x)]));
    DynamicImage::ImageRgba8(pixels).save(&path).unwrap();
    path
}

/// Runs `latentd` with these arguments. Returns the picture's pixels and stderr.
fn made(folder: &Path, arguments: &[&str]) -> (Vec<u8>, String) {
    let path = folder.join("out.png");
    let output = run(latentd().args(arguments).args(["--num-inference-steps", "2", "--seed", "3", "-o"]).arg(&path));
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    (image::open(path).unwrap().into_rgb8().into_raw(), stderr(&output))
}

/// The arguments of an edit.
fn edit<'a>(model: &'a str, images: &[&'a Path], more: &[&'a str]) -> Vec<&'a str> {
    let images = images.iter().flat_map(|path| ["--image", path.to_str().unwrap()]);
    ["edit", "--model", model, "make it night", "--size", "96x64"]
        .into_iter()
        .chain(images)
        .chain(more.to_vec())
        .collect()
}

/// Whether the right quarter of a 96x64 picture, far from the mask's editable area, has this colour.
fn right_is(pixels: &[u8], colour: [u8; 3]) -> bool {
    let near = |pixel: &[u8]| pixel.iter().zip(colour).all(|(ours, given)| ours.abs_diff(given) <= 2);
    pixels.chunks_exact(96 * 3).all(|row| row[72 * 3..].chunks_exact(3).all(near))
}

#[test]
fn pictures_make_a_picture_and_a_seed_makes_it_again() {
    let folder = folder();
    let folder = folder.path();
    let (red, blue) = (picture(folder, "red.png", RED), picture(folder, "blue.png", [30, 30, 200]));
    for model in [EDIT_PLUS, KLEIN] {
        let (first, _) = made(folder, &edit(model, &[&red], &[]));
        assert_eq!(first.len(), 96 * 64 * 3, "{model}");
        assert_eq!(first, made(folder, &edit(model, &[&red], &[])).0, "{model}");
        assert_ne!(first, made(folder, &edit(model, &[&blue], &[])).0, "{model}: the picture is seen");
        assert_ne!(first, made(folder, &edit(model, &[&red, &blue], &[])).0, "{model}: the second one is seen");
    }
    // The guide's script uses another command name, underscores and a step cache.
    let red = red.to_str().unwrap();
    let guide = ["image-edit", "--model", EDIT_PLUS, "--prompt", "make it night", "--image", red, "--size", "96x64"];
    let cached = ["--cache_backend", "cache_dit", "--cache-dit-residual-diff-threshold", "0.24", "--cfg-scale", "4"];
    let more = ["--negative-prompt", " ", "--enable-cache-dit-summary"];
    let (_, said) = made(folder, &[&guide[..], &cached, &more].concat());
    assert!(said.contains("seed 3: "), "the summary: {said}");
}

#[test]
fn what_a_mask_leaves_stays_and_it_is_said_so() {
    let folder = folder();
    let folder = folder.path();
    let (red, mask) = (picture(folder, "red.png", RED), mask(folder, "mask.png", 96, 64));
    for model in [EDIT_PLUS, KLEIN] {
        let (pixels, said) = made(folder, &edit(model, &[&red], &["--mask", mask.to_str().unwrap()]));
        assert!(right_is(&pixels, RED), "{model}");
        assert!(said.lines().any(|line| line.starts_with("note: ") && line.contains("mask")), "{model}: {said}");
        assert!(!right_is(&made(folder, &edit(model, &[&red], &[])).0, RED), "{model}: without a mask all changes");
    }
}

#[test]
fn what_cannot_be_edited_names_the_flag() {
    let folder = folder();
    let folder = folder.path();
    let red = picture(folder, "red.png", RED);
    let (wide, text) = (mask(folder, "wide.png", 97, 64), folder.join("text.png"));
    fs::write(&text, "a cat").unwrap();
    let complaint = |arguments: Vec<&str>| {
        let output =
            run(latentd().args(&arguments).args(["--num-inference-steps", "2", "-o"]).arg(folder.join("x.png")));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    let masked = |mask: &Path| complaint(edit(EDIT_PLUS, &[&red], &["--mask", mask.to_str().unwrap()]));
    for (said, expected) in [
        (
            complaint(edit("builtin", &[&red], &[])),
            "error: `--image` must be absent: the model makes pictures from text only. One that edits: Qwen/Qwen-Image-Edit-2511",
        ),
        (complaint(edit(EDIT_PLUS, &[&text], &[])), "error: `--image` must be a PNG, JPEG, WebP or GIF file"),
        (
            complaint(edit(KLEIN, &[red.as_path(); 5], &[])),
            "error: `--image` must be at most 4 pictures for this model",
        ),
        (complaint(edit(EDIT_PLUS, &[&folder.join("none.png")], &[])), "none.png`: No such file"),
        (complaint(vec!["edit", "make it night"]), "--image <FILE>"),
        (masked(&wide), "error: `--mask` must be as large as the (first) picture, 96x64. Given: 97x64"),
        (masked(&red), "error: `--mask` must have an alpha channel"),
        (complaint(vec!["generate", "a cat", "--model", EDIT_PLUS]), "error: `--image` must be given: the model makes"),
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!folder.join("x.png").exists());
}

async fn post(server: &Server, path: &str, body: Value) -> (u16, Value) {
    let request = tests::http().post(server.url(path)).header("content-type", "application/json");
    let answer = request.body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn data_url(path: &Path) -> Value {
    json!({"image_url": format!("data:image/png;base64,{}", STANDARD.encode(fs::read(path).unwrap()))})
}

fn pixels(answer: &Value) -> Vec<u8> {
    let file = STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap_or_else(|| panic!("{answer}"))).unwrap();
    image::load_from_memory(&file).unwrap().into_rgb8().into_raw()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_over_http_is_that_of_the_command_line() {
    let folder = folder();
    let folder = folder.path();
    let (red, mask) = (picture(folder, "red.png", RED), mask(folder, "mask.png", 96, 64));
    // The first model enlarges the picture to about a megapixel, the second one uses it as it is. A token is 16x16
    // pixels.
    for (model, tasks, image_tokens) in [(EDIT_PLUS, json!(["i2i"]), 78 * 52), (KLEIN, json!(["t2i", "i2i"]), 6 * 4)] {
        let server = Server::start(&[model]).await;
        assert_eq!(server.get("/v1/models").await.1["data"][0]["task_types"], tasks, "{model}");
        let body = json!({"prompt": "make it night", "images": [data_url(&red)], "size": "96x64", "seed": 3,
            "num_inference_steps": 2});
        let (status, answer) = post(&server, "/v1/images/edits", body.clone()).await;
        assert_eq!((status, &answer["usage"]["input_tokens_details"]["image_tokens"]), (200, &json!(image_tokens)));
        assert_eq!(pixels(&answer), made(folder, &edit(model, &[&red], &[])).0, "{model}");

        let mut masked = body;
        masked["mask"] = data_url(&mask);
        let (status, answer) = post(&server, "/v1/images/edits", masked).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["warnings"][0].as_str().unwrap().contains("mask"), "{answer}");
        assert!(right_is(&pixels(&answer), RED), "{model}");

        let words = json!({"prompt": "a cat", "size": "96x64", "num_inference_steps": 2});
        let (status, answer) = post(&server, "/v1/images/generations", words).await;
        match model {
            EDIT_PLUS => assert_eq!((status, &answer["error"]["param"]), (400, &json!("image")), "{answer}"),
            _ => assert_eq!(status, 200, "{answer}"),
        }
    }
}
