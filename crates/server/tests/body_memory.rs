//! Memory that the server holds while it reads a body: every byte of the process is counted.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::Request;
use diffusion::InputImageBounds;
use futures_util::stream;
use peak_alloc::PeakAlloc;
use scheduler::fake::FakePipeline;
use scheduler::{Readiness, Scheduler, SchedulerConfig, SpawnOptions};
use server::{AppState, Metrics, ServerConfig, app};
use tower::ServiceExt;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes of a body.
const SIZE: usize = 6 << 20;
/// Most memory for a body, as a multiple of its size.
const MOST: usize = 3;
/// For everything else in a request: its headers, the current piece, the answer.
const SLACK: usize = 1 << 20;

async fn served(max_images: usize) -> Router {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = InputImageBounds { min_images: 0, max_images, min_side: 1, max_ratio: 200.0 };
    let metrics = Metrics::default();
    let config = SchedulerConfig { calibration: Duration::ZERO, ..SchedulerConfig::default() };
    let options = SpawnOptions { config, observer: Some(metrics.observer()) };
    let scheduler = Scheduler::spawn(options, vec![pipeline.factory()]);
    scheduler.readiness().wait_for(|readiness| matches!(readiness, Readiness::Ready(_))).await.unwrap();
    let mut config = ServerConfig::new("Fake/Fake-Image");
    config.uploads.body_limit = 2 * SIZE;
    config.api.allow_request_cache_config = true;
    app(AppState::new(scheduler, config, metrics))
}

/// `head`, as many copies of `unit` as fit, and `tail`, in pieces as a socket delivers them.
fn pieces(head: &str, unit: &str, tail: &str) -> Body {
    let (head, unit, tail) = (head.to_owned(), unit.to_owned(), tail.to_owned());
    let units_in_piece = (64 << 10) / unit.len();
    let count = SIZE / (units_in_piece * unit.len());
    let pieces = (0..count + 2).map(move |i| match i {
        0 => Bytes::from(head.clone()),
        i if i == count + 1 => Bytes::from(tail.clone()),
        _ => Bytes::from(unit.repeat(units_in_piece)),
    });
    Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)))
}

/// The status of the answer, and the peak of held bytes until it arrived, relative to before.
async fn held(app: &Router, path: &str, body: Body) -> (u16, usize) {
    let request = Request::post(path).header("content-type", "application/json").body(body).unwrap();
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let answer = app.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, ALLOCATOR.peak_usage().saturating_sub(before))
}

/// One test, because the bytes of concurrent tests would be counted too.
#[tokio::test]
async fn no_body_takes_more_than_three_times_its_bytes() {
    let nested = "[".repeat(SIZE / 2);
    let closed = "]".repeat(SIZE / 2) + "}";
    let bodies = [
        ("small objects in a list", r#"{"prompt":"x","images":["#, r#"{"":0},"#, "0]}"),
        ("small lists in a list", r#"{"prompt":"x","images":["#, "[[]],", "0]}"),
        ("URLs", r#"{"prompt":"x","images":["#, r#""data:,","#, "0]}"),
        ("nothing but a list", "[", "0,", "0]"),
        ("keys that nobody knows", r#"{"prompt":"x","#, r#""k":0,"#, r#""n":1}"#),
        ("a field again and again", r#"{"prompt":"x","#, r#""user":"u","#, r#""n":1}"#),
        ("a long prompt", r#"{"n":1,"prompt":""#, "word ", r#""}"#),
        ("a long prompt in escapes", r#"{"n":1,"prompt":""#, r"w\no", r#""}"#),
        ("a long key in escapes", r#"{"prompt":"x",""#, r"k\/", r#"":0}"#),
        ("a long URL", r#"{"prompt":"x","images":["data:image/png;base64,"#, "AAAA", r#""]}"#),
        (
            "a long URL in escapes",
            r#"{"prompt":"x","images":[{"image_url":"data:image/png;base64,"#,
            r"AA\/A",
            r#""}]}"#,
        ),
        ("a long number", r#"{"prompt":"x","n":1"#, "0", "}"),
        ("settings", r#"{"prompt":"x","cache":{"a":["#, "0,", "0]}}"),
        ("fields in extra_body", r#"{"prompt":"x","extra_body":{"images":["#, r#"{"":0},"#, "0]}}"),
        ("a wrong type", r#"{"prompt":"x","n":{"#, r#""k":[{}],"#, r#""l":0}}"#),
        ("deep nesting", r#"{"prompt":"x","a":"#, "", ""),
        ("deep nesting where a number should be", r#"{"prompt":"x","n":"#, "", ""),
    ];
    for (max_images, paths) in [(2, &["/v1/images/edits"][..]), (0, &["/v1/images/edits", "/v1/images/generations"])] {
        let app = served(max_images).await;
        // The first request also allocates what the process allocates once.
        held(&app, "/v1/images/generations", pieces("{", "\"a\":0,", "\"prompt\":\"x\"}")).await;
        for (name, head, unit, tail) in bodies {
            for path in paths {
                let body = match unit {
                    "" => {
                        let parts = [head.to_owned(), nested.clone(), closed.clone()].into_iter().map(Bytes::from);
                        Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>)))
                    }
                    unit => pieces(head, unit, tail),
                };
                let (status, held) = held(&app, path, body).await;
                println!("{name}: {status}, {:.2} times its bytes ({path})", held as f64 / SIZE as f64);
                assert!([200, 400].contains(&status), "{name}: {status}");
                assert!(held <= MOST * SIZE + SLACK, "{name}: {held} bytes for {SIZE} ({path})");
            }
        }
    }
}
