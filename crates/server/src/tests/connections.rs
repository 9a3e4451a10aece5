//! Connections that stall, idle or use HTTP/2, and many connections.

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use scheduler::SchedulerConfig;
use scheduler::fake::FakePipeline;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::sockets::{Served, answer, assert_status, gated, get, head, running_becomes, served, start_generation};
use super::{config, configured_state, state};
use crate::{AppState, ServerConfig, connections};

const SHORT: Duration = Duration::from_millis(200);

async fn served_with(edit: impl FnOnce(&mut ServerConfig)) -> Served {
    let mut config = config();
    edit(&mut config);
    served(&configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await).await
}

async fn connect(server: &Served, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client
}

#[tokio::test]
async fn a_connection_that_brings_no_request_is_closed() {
    let server = served_with(|config| config.header_timeout = SHORT).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [&b""[..], b"P", b"GET /livez HTTP/1.1\r\nhost: x\r\n", preface] {
        let begun = Instant::now();
        let mut client = connect(&server, bytes).await;
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(5), client.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the connection stays open after {bytes:?}");
        assert!(begun.elapsed() >= SHORT, "{bytes:?} was given {:?}", begun.elapsed());
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{rest:?}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_is_no_progress() {
    let server = served_with(|config| config.header_timeout = SHORT).await;
    let mut client = connect(&server, b"GET /livez HTTP/1.1\r\n").await;
    let trickling = async {
        while client.write_all(b"x: y\r\n").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), trickling).await.expect("the connection is closed");
}

/// The paused clock advances only while every task waits.
#[tokio::test(start_paused = true)]
async fn a_later_head_that_trickles_in_is_no_progress_either() {
    let server = served(&state(&FakePipeline::default()).await).await;
    let mut client = connect(&server, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\n").await;
    let begun = tokio::time::Instant::now();
    let (mut read, mut write) = client.split();
    let trickling = async {
        while write.write_all(b"x: y\r\n").await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    };
    let mut text = Vec::new();
    let closed = async {
        tokio::select! {
            closed = read.read_to_end(&mut text) => drop(closed),
            () = trickling => {}
        }
    };
    timeout(Duration::from_secs(600), closed).await.expect("the connection is closed");
    // The head's limit is the idle time of a connection, however often a line of it arrives.
    assert!((75..90).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_status(std::str::from_utf8(&text).unwrap(), 200);
}

#[tokio::test]
async fn a_connection_may_rest_and_a_picture_may_take_longer_than_a_head() {
    let pipeline = gated();
    let mut config = config();
    config.header_timeout = SHORT;
    let state = configured_state(&pipeline, SchedulerConfig::default(), config).await;
    let server = served(&state).await;
    let slow = start_generation(server.address, r#"{"prompt": "a cat"}"#).await;
    let mut resting = connect(&server, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    running_becomes(&state, 1).await;
    sleep(SHORT * 3).await;
    pipeline.gate.open();
    assert_status(&answer(slow).await, 200);

    resting.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let both = answer(resting).await;
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
}

#[tokio::test]
async fn an_upload_that_stalls_is_answered_and_one_that_crawls_is_not() {
    let server = served_with(|config| config.pace.idle = SHORT).await;
    let body = r#"{"prompt": "a cat"}"#;
    let stalled = connect(&server, (head(body.len(), "") + &body[..5]).as_bytes()).await;
    let stalled = answer(stalled).await;
    assert_status(&stalled, 408);
    assert!(stalled.contains(r#""code":"upload_stalled""#) && !stalled.contains("x-should-retry"), "{stalled}");

    let mut crawling = connect(&server, head(body.len(), "").as_bytes()).await;
    for part in body.as_bytes().chunks(2) {
        sleep(SHORT / 5).await;
        crawling.write_all(part).await.unwrap();
    }
    assert_status(&answer(crawling).await, 200);
}

#[tokio::test]
async fn connections_beyond_the_most_wait_for_a_place() {
    let server = served_with(|config| config.max_connections = 1).await;
    let first = connect(&server, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(Duration::from_millis(50)).await;
    let mut second = tokio::spawn(get(server.address, "/livez"));
    assert!(timeout(Duration::from_millis(200), &mut second).await.is_err(), "there is one place");
    drop(first);
    assert_status(&timeout(Duration::from_secs(5), second).await.expect("the place is free").unwrap(), 200);
}

#[tokio::test]
async fn head_has_the_length_of_the_body_and_not_the_body() {
    let server = served(&state(&FakePipeline::default()).await).await;
    for path in ["/livez", "/info", "/v1/models"] {
        let head = format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let head = answer(connect(&server, head.as_bytes()).await).await;
        let got = get(server.address, path).await;
        assert_eq!(head.lines().next(), got.lines().next(), "{path}");
        let body = got.split_once("\r\n\r\n").unwrap().1;
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// A client that starts with HTTP/2, as gRPC clients and `curl --http2-prior-knowledge` do.
async fn h2c(state: &AppState) -> Sender {
    h2c_with(state, &mut http2::Builder::new(TokioExecutor::new())).await.0
}

/// The same with these settings; also returns the task of its connection.
async fn h2c_with(state: &AppState, builder: &mut http2::Builder<TokioExecutor>) -> (Sender, JoinHandle<()>) {
    let stream = TcpStream::connect(served(state).await.address).await.unwrap();
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(async { drop(connection.await) }))
}

async fn generate(mut sender: Sender) -> hyper::Result<Response<Incoming>> {
    let request = Request::post("http://x/v1/images/generations").header("content-type", "application/json");
    sender.send_request(request.body(Full::from(r#"{"prompt": "a cat"}"#)).unwrap()).await
}

#[tokio::test]
async fn one_http2_connection_carries_requests_at_the_same_time() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let sender = h2c(&state).await;
    let pictures = [tokio::spawn(generate(sender.clone())), tokio::spawn(generate(sender))];
    running_becomes(&state, 2).await;
    pipeline.gate.open();
    for picture in pictures {
        let response = picture.await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(body["data"][0]["b64_json"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn an_http2_client_that_resets_its_request_frees_the_worker_and_keeps_the_connection() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let sender = h2c(&state).await;
    let leaving = tokio::spawn(generate(sender.clone()));
    running_becomes(&state, 1).await;
    leaving.abort();
    running_becomes(&state, 0).await;
    pipeline.gate.open();
    assert_eq!(generate(sender).await.unwrap().status(), 200);
}

/// Seconds until this client's connection is closed.
async fn closed_after(connection: JoinHandle<()>) -> u64 {
    let begun = tokio::time::Instant::now();
    timeout(Duration::from_secs(600), connection).await.expect("the connection is closed").unwrap();
    begun.elapsed().as_secs()
}

/// The client answers pings all the time. The clock advances once the worker, a separate thread, is done.
#[tokio::test]
async fn an_http2_connection_that_rests_is_closed() {
    let state = state(&FakePipeline::default()).await;
    let (sender, connection) = h2c_with(&state, &mut http2::Builder::new(TokioExecutor::new())).await;
    let response = generate(sender.clone()).await.unwrap();
    response.into_body().collect().await.unwrap();
    tokio::time::pause();
    let seconds = closed_after(connection).await;
    assert!((75..80).contains(&seconds), "{seconds} s");
    drop(sender);
}

#[tokio::test]
async fn an_http2_connection_whose_answer_is_not_taken_is_closed() {
    let state = state(&FakePipeline::default()).await;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = h2c_with(&state, builder.initial_stream_window_size(1)).await;
    let response = generate(sender.clone()).await.unwrap();
    tokio::time::pause();
    let seconds = closed_after(connection).await;
    assert!((75..90).contains(&seconds), "{seconds} s");
    assert!(response.into_body().collect().await.is_err(), "its end did not come");
    drop(sender);
}

#[tokio::test]
async fn an_http2_connection_stays_while_the_server_works() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let (sender, mut connection) = h2c_with(&state, &mut http2::Builder::new(TokioExecutor::new())).await;
    let picture = tokio::spawn(generate(sender.clone()));
    running_becomes(&state, 1).await;
    tokio::time::pause();
    assert!(timeout(Duration::from_secs(1000), &mut connection).await.is_err());
    tokio::time::resume();
    pipeline.gate.open();
    assert_eq!(picture.await.unwrap().unwrap().status(), 200);
}

/// Sends this much of a body at once, and then a byte every 29 seconds. Returns the answer, and the seconds until it
/// came.
async fn trickled(server: &Served, head: &str, begin: &[u8]) -> (String, u64) {
    let mut client = connect(server, head.as_bytes()).await;
    client.write_all(begin).await.unwrap();
    let begun = tokio::time::Instant::now();
    let (mut read, mut write) = client.split();
    let trickling = async {
        loop {
            sleep(Duration::from_secs(29)).await;
            if write.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut text = Vec::new();
    let answered = async {
        tokio::select! {
            read = read.read_to_end(&mut text) => drop(read),
            () = trickling => {}
        }
    };
    timeout(Duration::from_secs(7200), answered).await.expect("an answer");
    (String::from_utf8(text).unwrap(), begun.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_trickles_is_given_up_whatever_its_type() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    let edit = |length| {
        format!(
            "POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\
             content-type: multipart/form-data; boundary=b\r\n\r\n"
        )
    };
    let part = b"--b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n".to_vec();
    let large = [part.clone(), vec![b'x'; 1 << 20]].concat();
    for (head, begin, expected) in [
        (head(1000, ""), &b"{"[..], 30..60),
        (edit(2 << 20), &part, 30..60),
        // However much arrived before.
        (edit(2 << 20), &large, 30..60),
    ] {
        let (answer, seconds) = trickled(&server, &head, begin).await;
        assert_status(&answer, 408);
        assert!(answer.contains(r#""code":"upload_stalled""#) && answer.contains("--min-transfer-rate"), "{answer}");
        assert!(expected.contains(&seconds), "{seconds} s, not {expected:?}");
        assert_eq!(state.uploads.left(), 1 << 30, "nothing is held any more");
    }
}

/// From now on the paused clock advances only in [`second`], and not when every task waits: the system that carries the
/// bytes has its own clock.
fn wind() {
    tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
}

/// Advances the clock by a second, after the bytes sent so far have arrived.
async fn second() {
    std::thread::sleep(Duration::from_millis(1));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
}

/// The body arrives at 5 KiB a second for two minutes.
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_slow_and_steady_is_taken() {
    wind();
    let server = served(&state(&FakePipeline::default()).await).await;
    let body = format!(r#"{{"prompt": "a cat", "unknown": "{}"}}"#, "x".repeat(600 << 10));
    let mut client = connect(&server, head(body.len(), "").as_bytes()).await;
    let begun = tokio::time::Instant::now();
    for part in body.as_bytes().chunks(5 << 10) {
        client.write_all(part).await.unwrap();
        second().await;
    }
    assert_status(&answer(client).await, 200);
    assert!(begun.elapsed().as_secs() >= 120);
}

#[tokio::test(start_paused = true)]
async fn an_upload_may_not_take_for_ever_however_steady_it_is() {
    let server = served_with(|config| config.pace.min_rate = 0).await;
    let (answer, seconds) = trickled(&server, &head(1000, ""), b"{").await;
    assert_status(&answer, 408);
    assert!(answer.contains("--upload-timeout"), "{answer}");
    assert!((600..630).contains(&seconds), "{seconds} s");
}

/// Bytes of a 64 MB answer that a client receives at this rate.
async fn read_slowly(bytes_per_second: usize) -> usize {
    let mut config = config();
    config.pace.min_rate = 1 << 20;
    let app = Router::new().route("/", axum::routing::get(async || Bytes::from_static(&[7; 64 << 20])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { connections::serve(listener, app, &config, std::future::pending()).await });
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut read, mut buffer) = (0, vec![0; bytes_per_second]);
    loop {
        let mut of_second = 0;
        while of_second < bytes_per_second {
            match client.read(&mut buffer[of_second..]).await {
                Ok(0) | Err(_) => return read + of_second,
                Ok(bytes) => of_second += bytes,
            }
        }
        read += of_second;
        second().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_answer_too_slowly_is_given_up() {
    wind();
    // The contents of both systems' buffers, some megabytes, arrive anyway.
    let read = read_slowly(10_000).await;
    assert!(read < 32 << 20, "{read} bytes");
    let read = read_slowly(4 << 20).await;
    assert!(read > 64 << 20, "{read} bytes");
}

#[tokio::test]
async fn a_line_is_written_when_the_last_byte_is_handed_over() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    assert_status(&answer(start_generation(server.address, r#"{"prompt": "a cat"}"#).await).await, 200);
    // The line is written although hyper stops polling once it has all announced bytes.
    let counted = r#"outcome="ok""#;
    let metrics = get(server.address, "/metrics").await;
    let line = metrics.lines().find(|line| line.contains("images/generations") && line.contains("requests_total"));
    assert!(line.is_some_and(|line| line.contains(counted) && line.ends_with(" 1")), "{line:?}");
}
