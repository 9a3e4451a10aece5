//! Uploads that are too long, broken or malicious.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::IntoResponse;
use futures_util::{StreamExt, stream};
use scheduler::SchedulerConfig;
use scheduler::fake::FakePipeline;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt;

use super::forms::{BOUNDARY, Form, in_pieces, png, post, post_json};
use super::sockets::{answer, assert_status, served};
use super::{config, configured_state, send, state};
use crate::api::bounds::Purpose;
use crate::api::request::Endpoint;
use crate::uploads::{self, MemoryLedger};

/// Status, code and message of a refusal, or `taken`.
pub(super) async fn outcome(request: Request<Body>) -> String {
    outcome_of(Endpoint::Edit, request).await
}

pub(super) async fn outcome_of(endpoint: Endpoint, request: Request<Body>) -> String {
    match uploads::read(
        endpoint,
        request,
        &config().api,
        &config().uploads,
        &MemoryLedger::of(Purpose::Uploads, usize::MAX),
        None,
    )
    .await
    {
        Ok(_) => "taken".into(),
        Err(err) => {
            let message = err.to_string();
            format!("{} {message}", err.into_response().status().as_u16())
        }
    }
}

pub(super) fn form() -> Form {
    Form::default().text("prompt", "a cat").file("image", "a", &png(2, 2))
}

/// The head of a form of `length` bytes and further header lines.
fn head(path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{more}\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
}

#[tokio::test]
async fn everything_that_is_kept_has_a_bound() {
    let long = |bytes| vec![b'x'; bytes];
    let many = (0..127).fold(form(), |form, i| form.text(&format!("field{i}"), "x"));
    for (form, expected) in [
        (form(), "taken"),
        (form().text("note", &"x".repeat(256 << 10)), "taken"),
        (
            form().text("note", &"x".repeat((256 << 10) + 1)),
            "400 The form cannot be read: \"note\" must have at most 262",
        ),
        (form().file("attachment", "a", &long(300 << 10)), "taken"),
        (form().file("image", "b", &long((20 << 20) + 1)), "400 `image` must be a file of at most 20971520 bytes"),
        (form().text("note", "a").text("note", "b").text("note", "c"), "taken"),
        (form().text("prompt", "again"), "400 The form cannot be read: \"prompt\" must be there once"),
        (form().part("Content-Disposition: form-data", b"x"), "400 The form cannot be read: part 3 has no name"),
        (
            form().part("Content-Disposition: form-data; name=\"note\"", b"\xff"),
            "400 The form cannot be read: \"note\" m",
        ),
        (many, "400 The form cannot be read: it must have at most 128 parts"),
        (
            form().file("attachment", "a", &long(64 << 20)),
            "413 The body must have at most 67108864 bytes (the server's --upload-limit)",
        ),
    ] {
        let outcome = outcome(form.request()).await;
        assert!(outcome.starts_with(expected), "{outcome}");
    }
    let url = format!("data:image/png;base64,{}", "A".repeat(21 << 20));
    let outcome = outcome(post_json(json!({"prompt": "x", "images": [url]}))).await;
    assert!(outcome.starts_with("400 `images` must have URLs of at most 20971520 characters"), "{outcome}");
}

#[tokio::test]
async fn an_unknown_field_that_comes_again_is_listed_and_refuses_nothing() {
    let app = super::edits::editing_app().await;
    let form = || form().text("note", "a").text("note", "b");
    let answer = send(&app, form().request()).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ignored-params")), (200, "note"), "{}", answer.text);
    let answer = send(&app, form().text("n", "1").text("n", "1").request()).await;
    assert_eq!((answer.status.as_u16(), &answer.json["error"]["code"]), (400, &json!("invalid_multipart")));
    assert_eq!(answer.json["error"]["param"], "n");
}

#[tokio::test]
async fn a_form_that_breaks_off_is_refused_wherever_it_does() {
    let body = form().text("n", "1").end();
    // The final line break may be missing.
    let whole = body.len() - 2;
    for end in 0..whole {
        let outcome = outcome(post(body[..end].to_vec())).await;
        assert!(outcome.starts_with("400 The form cannot be read: it breaks off"), "{end}: {outcome}");
    }
    assert_eq!(outcome(post(body[..whole].to_vec())).await, "taken");
    assert_eq!(outcome(post([body, vec![b'\n'; 100_000]].concat())).await, "taken", "an epilogue is read over");
}

#[tokio::test]
async fn only_forms_and_json_are_taken() {
    for content_type in ["multipart/form-data", "multipart/mixed; boundary=x", "image/png", "text/plain", ""] {
        let request = Request::post("/v1/images/edits").header("content-type", content_type);
        let outcome = outcome(request.body(Body::from(form().end())).unwrap()).await;
        let expected = "415 Content-Type must be multipart/form-data with a boundary, or application/json. Given:";
        assert_eq!(outcome, format!("{expected} {content_type}"));
    }
    let quoted = Request::post("/").header("content-type", format!("Multipart/Form-Data; boundary=\"{BOUNDARY}\""));
    assert_eq!(outcome(quoted.body(Body::from(form().end())).unwrap()).await, "taken");
}

#[tokio::test]
async fn uploads_share_one_memory() {
    let memory = MemoryLedger::of(Purpose::Uploads, 100_000);
    let outcome = async |endpoint, request| match uploads::read(
        endpoint,
        request,
        &config().api,
        &config().uploads,
        &memory,
        None,
    )
    .await
    {
        Ok(_) => "taken".into(),
        Err(err) => err.code().to_owned(),
    };
    let prompt = |length| json!({"prompt": "x".repeat(length)});
    for _ in 0..3 {
        // Refused and skipped uploads also free their memory.
        assert_eq!(outcome(Endpoint::Generation, post_json(prompt(20_000))).await, "taken");
        assert_eq!(outcome(Endpoint::Edit, form().file("attachment", "a", &[0; 70_000]).request()).await, "taken");
        assert_eq!(outcome(Endpoint::Generation, post_json(prompt(100_000))).await, "uploads_full");
        assert_eq!(outcome(Endpoint::Edit, form().file("image", "a", &[0; 100_000]).request()).await, "uploads_full");
    }
    let begun = stream::iter([Ok::<_, Infallible>(vec![b' '; 90_000])]);
    let slow = outcome(Endpoint::Edit, post(Body::from_stream(begun.chain(stream::pending()))));
    let mut slow = Box::pin(slow);
    while memory.left() != 10_000 {
        let waited = timeout(Duration::from_millis(1), &mut slow).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    assert_eq!(outcome(Endpoint::Generation, post_json(prompt(20_000))).await, "uploads_full");
    assert_eq!(outcome(Endpoint::Generation, post_json(prompt(5_000))).await, "taken");
    drop(slow);
    assert_eq!(outcome(Endpoint::Generation, post_json(prompt(20_000))).await, "taken");
}

#[tokio::test]
async fn who_finds_no_room_is_told_when_to_come_back() {
    let mut config = config();
    config.uploads.upload_memory = 1 << 20;
    let state = configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await;
    let server = served(&state).await;
    let body = form().file("attachment", "a", &vec![b'x'; 40 << 20]).end();
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(head("/v1/images/edits", body.len(), "").as_bytes()).await.unwrap();
    client.write_all(&body).await.expect("the whole upload is taken");
    let answer = answer(client).await;
    assert_status(&answer, 429);
    assert!(answer.contains("\"code\":\"uploads_full\"") && answer.contains("retry-after: 5"), "{answer}");
}

/// A client of one address cannot lock out the others.
#[tokio::test]
async fn one_client_does_not_take_the_memory_of_all() {
    let mut config = config();
    (config.uploads.upload_memory, config.uploads.client_upload_memory) = (100_000, 40_000);
    let state = configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await;
    let app = crate::app(state.clone());
    let from = |address: &str, body: Body| {
        let mut request = super::generation("", &[]);
        *request.body_mut() = body;
        let address: std::net::IpAddr = address.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::new(address, 1)));
        request
    };
    let begun = stream::iter([Ok::<_, Infallible>(vec![b' '; 30_000])]);
    let slow = from("10.0.0.1", Body::from_stream(begun.chain(stream::pending())));
    let mut slow = Box::pin(app.clone().oneshot(slow));
    while state.uploads.left() != 70_000 {
        let waited = timeout(Duration::from_millis(1), &mut slow).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    let body = || Body::from(json!({"prompt": "x".repeat(20_000)}).to_string());
    let refused = send(&app, from("10.0.0.1", body())).await;
    assert_eq!((refused.status.as_u16(), &refused.json["error"]["code"]), (429, &json!("uploads_full")));
    assert!(refused.text.contains("--max-client-upload-memory"), "{}", refused.text);
    assert_eq!(send(&app, from("10.0.0.2", body())).await.status, 200);
    drop(slow);
    assert_eq!(send(&app, from("10.0.0.1", body())).await.status, 200);
}

#[tokio::test]
async fn an_upload_that_is_not_let_in_is_read_on_so_that_the_answer_arrives() {
    let mut config = config();
    config.api_keys.add("sk-a").unwrap();
    config.rate_limit = Some("1:1".parse().unwrap());
    let state = configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await;
    let server = served(&state).await;
    let body = vec![b'x'; 32 << 20];
    let key = "api-key: sk-a\r\n";
    let unprintable = "api-key: sk-a\r\nidempotency-key: a b\r\n";
    for (path, more, status) in [
        ("/v1/images/edits", "", 401),
        ("/v1/images/edits", unprintable, 400),
        ("/v1/images/edits", key, 429),
        ("/v1/images/edit", key, 404),
        ("/v1/models", key, 405),
    ] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(head(path, body.len(), more).as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap_or_else(|err| panic!("the upload of {status} is taken: {err}"));
        assert_status(&answer(client).await, status);
    }
}

/// The parser searches all its bytes again with every piece: a head of 48 MB in pieces of 1 KB took 20 s.
#[tokio::test]
async fn a_search_for_the_next_part_ends() {
    let endless = vec![b'x'; 48 << 20];
    let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"").into_bytes();
    let begun = Instant::now();
    for body in [endless.clone(), [head, endless].concat()] {
        let outcome = outcome(post(in_pieces(&body, 1 << 10))).await;
        assert_eq!(outcome, "400 The form cannot be read: a part must begin within 16384 bytes");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refused_form_is_read_on_so_that_the_answer_arrives() {
    let mut pipeline = FakePipeline::default();
    pipeline.card.input_images = super::edits::takes(2);
    let state = state(&pipeline).await;
    let server = served(&state).await;
    // By its length, by one of its files, and by its first part: each has far more to send than the sockets hold.
    let long = form().file("attachment", "a", &vec![b'x'; 70 << 20]).end();
    let image = form().file("image", "a", &vec![b'x'; 40 << 20]).end();
    let nameless =
        Form::default().part("Content-Disposition: x", b"").file("attachment", "a", &vec![b'x'; 40 << 20]).end();
    for (body, status, code) in
        [(long, 413, "body_too_large"), (image, 400, "image_too_large"), (nameless, 400, "invalid_multipart")]
    {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(head("/v1/images/edits", body.len(), "").as_bytes()).await.unwrap();
        client.write_all(&body).await.expect("the whole upload is taken");
        let answer = answer(client).await;
        assert_status(&answer, status);
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
    }
}
