//! Memory that the server holds while it decodes an edit's pictures: every byte of the process is counted.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytesize::ByteSize;
use diffusion::InputImageBounds;
use image::{DynamicImage, ImageFormat};
use peak_alloc::PeakAlloc;
use scheduler::fake::FakePipeline;
use scheduler::{Readiness, Scheduler, SchedulerConfig, SpawnOptions};
use server::{AppState, Metrics, ServerConfig, app};
use tower::ServiceExt;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Pixels of a side of each picture here.
const SIDE: u32 = 1024;
/// For everything else in a request: the form, its answer.
const SLACK: usize = 1 << 20;
const BOUNDARY: &str = "----boundary";

/// A server that makes 8x8 pictures, with this bound on the memory of input pictures.
async fn served(picture_memory: usize) -> Router {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = InputImageBounds { min_images: 0, max_images: 4, min_side: 1, max_ratio: 200.0 };
    let metrics = Metrics::default();
    let config = SchedulerConfig { calibration: Duration::ZERO, ..SchedulerConfig::default() };
    let options = SpawnOptions { config, observer: Some(metrics.observer()) };
    let scheduler = Scheduler::spawn(options, vec![pipeline.factory()]);
    scheduler.readiness().wait_for(|readiness| matches!(readiness, Readiness::Ready(_))).await.unwrap();
    let mut config = ServerConfig::new("Fake/Fake-Image");
    config.uploads.client_picture_memory = picture_memory;
    app(AppState::new(scheduler, config, metrics))
}

/// An edit of pictures; the last is the mask if `is_masked`.
fn edit(files: &[&[u8]], is_masked: bool) -> Request<Body> {
    let mut body = Vec::new();
    let mut part = |name: &str, data: &[u8]| {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"");
        let file = if ["image", "mask"].contains(&name) { "; filename=\"a\"" } else { "" };
        body.extend(format!("{head}{file}\r\n\r\n").as_bytes());
        body.extend(data);
        body.extend(b"\r\n");
    };
    part("prompt", b"x");
    part("size", b"64x64");
    for (idx, file) in files.iter().enumerate() {
        part(if is_masked && idx + 1 == files.len() { "mask" } else { "image" }, file);
    }
    body.extend(format!("--{BOUNDARY}--\r\n").as_bytes());
    let request = Request::post("/v1/images/edits");
    request.header("content-type", format!("multipart/form-data; boundary={BOUNDARY}")).body(body.into()).unwrap()
}

/// The answer, and the peak of held bytes until it arrived, relative to before.
async fn held(app: &Router, request: Request<Body>) -> (u16, String, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let answer = app.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let text = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8_lossy(&text).into(), ALLOCATOR.peak_usage().saturating_sub(before))
}

fn written(picture: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// One test, because the bytes of concurrent tests would be counted too.
#[tokio::test]
async fn pictures_take_no_more_than_what_is_counted_for_them() {
    let png = |picture| written(picture, ImageFormat::Png);
    let clear = png(DynamicImage::new_rgba8(SIDE, SIDE));
    let pictures: Vec<(&str, Vec<u8>)> = vec![
        ("rgb8.png", png(DynamicImage::new_rgb8(SIDE, SIDE))),
        ("rgba8.png", clear.clone()),
        ("grey8.png", png(DynamicImage::new_luma8(SIDE, SIDE))),
        ("grey_alpha16.png", png(DynamicImage::new_luma_a16(SIDE, SIDE))),
        ("rgb16.png", png(DynamicImage::new_rgb16(SIDE, SIDE))),
        ("rgba16.png", png(DynamicImage::new_rgba16(SIDE, SIDE))),
        ("baseline.jpg", written(DynamicImage::new_rgb8(SIDE, SIDE), ImageFormat::Jpeg)),
        ("lossless.webp", written(DynamicImage::new_rgba8(SIDE, SIDE), ImageFormat::WebP)),
        ("scans.jpg", include_bytes!("../../pictures/testdata/scans.jpg").into()),
        ("scans_cmyk.jpg", include_bytes!("../../pictures/testdata/scans_cmyk.jpg").into()),
        ("lossy.webp", include_bytes!("../../pictures/testdata/lossy.webp").into()),
        ("clear.webp", include_bytes!("../../pictures/testdata/clear.webp").into()),
        ("moving.webp", include_bytes!("../../pictures/testdata/moving.webp").into()),
        ("moving_lossless.webp", include_bytes!("../../pictures/testdata/moving_lossless.webp").into()),
        ("moving.gif", include_bytes!("../../pictures/testdata/moving.gif").into()),
    ];
    let (none, all) = (served(1).await, served(1 << 30).await);
    // The first request also allocates what the process allocates once.
    held(&all, edit(&[&pictures[0].1], false)).await;
    for (name, file) in &pictures {
        let others: &[(&[&[u8]], bool)] = &[(&[file], false), (&[file, file, file], false), (&[file, &clear], true)];
        for &(files, is_masked) in others {
            let (status, refusal, _) = held(&none, edit(files, is_masked)).await;
            let bound = "`image` must be decoded in at most 1 B (the server's --max-client-picture-memory). Given: ";
            let (_, given) = refusal.split_once(bound).unwrap_or_else(|| panic!("{name}: {refusal}"));
            assert!(status == 400 && refusal.contains("image_too_large"), "{name}: {refusal}");
            let counted = given.split('"').next().unwrap().parse::<ByteSize>().unwrap().as_u64() as usize;
            let (status, answer, held) = held(&all, edit(files, is_masked)).await;
            assert_eq!(status, 200, "{name}: {answer}");
            let pixels = (SIDE * SIDE) as f64;
            let (of, by) = (files.len(), if is_masked { ", masked" } else { "" });
            println!("{name} x{of}{by}: {:.1} of {:.1} bytes a pixel", held as f64 / pixels, counted as f64 / pixels);
            assert!(held <= counted + counted / 20 + SLACK, "{name}: {held} bytes, {counted} are counted");
        }
    }
}
