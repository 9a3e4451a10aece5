//! Malformed requests, byte by byte, against the binary. Each gets an error of the common shape, and the next request
//! finds the server unaffected.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::edit::KLEIN;
use crate::serve::Server;

const BOUNDARY: &str = "----latentd";
/// Timeout of an answer. It is long, because the machine may be busy with builds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a server.
struct Wire(TcpStream);

impl Wire {
    async fn open(server: &Server) -> Self {
        Wire(TcpStream::connect(server.address()).await.unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the server takes what is sent");
    }

    /// Reads everything up to the end of the connection.
    async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await;
        read.expect("an answer in time").expect("an answer, not a broken connection");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads the status and the JSON of the only answer.
    async fn answer(self) -> (u16, Value) {
        let text = self.rest().await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|err| panic!("{err}: {body}")))
    }
}

fn head(path: &str, content_type: &str, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\nconnection: close\r\n{more}\r\n\r\n"
    )
}

fn form_head(length: usize) -> String {
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    head("/v1/images/edits", &content_type, &format!("content-length: {length}"))
}

fn part(name: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"");
    let file = if name == "image" { "; filename=\"a.png\"" } else { "" };
    [head.as_bytes(), file.as_bytes(), b"\r\n\r\n", body, b"\r\n"].concat()
}

fn end() -> Vec<u8> {
    format!("--{BOUNDARY}--\r\n").into_bytes()
}

/// The head of a PNG, up to the beginning of its pixels.
fn png_head(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", b"\x78\x01")].concat()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let crc = body.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    });
    [&(data.len() as u32).to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
}

#[track_caller]
fn assert_refused((status, answer): &(u16, Value), expected: u16, code: &str) {
    assert_eq!((*status, answer["error"]["code"].as_str()), (expected, Some(code)), "{answer}");
    let keys: Vec<_> = answer["error"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
}

async fn assert_well(server: &Server) {
    let (status, _) = server.post(&json!({"prompt": "a cat", "num_inference_steps": 1})).await;
    assert_eq!(status, 200, "the server goes on");
}

async fn edit(server: &Server, body: Vec<u8>) -> (u16, Value) {
    let mut wire = Wire::open(server).await;
    wire.send(form_head(body.len())).await;
    wire.send(body).await;
    wire.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_large_is_read_on_and_answered() {
    let server = Server::start(&[]).await;
    let piece = vec![b'x'; 1 << 20];
    for chunked in [false, true] {
        let mut wire = Wire::open(&server).await;
        let framing =
            if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {}", 68 << 20) };
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        wire.send(head("/v1/images/edits", &content_type, &framing)).await;
        for _ in 0..68 {
            if chunked {
                wire.send(format!("{:x}\r\n", piece.len())).await;
            }
            wire.send(&piece).await;
            if chunked {
                wire.send("\r\n").await;
            }
        }
        if chunked {
            wire.send("0\r\n\r\n").await;
        }
        let answer = wire.answer().await;
        assert!([400, 413].contains(&answer.0), "{answer:?}");
        if !chunked {
            assert_refused(&answer, 413, "body_too_large");
        }
    }
    assert_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_read_in_chunks_of_any_size() {
    let server = Server::start(&[]).await;
    let body = [part("prompt", b"a cat"), part("image", b"no picture"), end()].concat();
    let mut wire = Wire::open(&server).await;
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    wire.send(head("/v1/images/edits", &content_type, "transfer-encoding: chunked")).await;
    for byte in &body {
        wire.send([b"1\r\n", &[*byte][..], b"\r\n"].concat()).await;
    }
    wire.send("0\r\n\r\n").await;
    let in_chunks = wire.answer().await;
    assert_eq!(in_chunks.0, 400, "{in_chunks:?}");
    assert_eq!(in_chunks, edit(&server, body).await, "as in one piece");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_form_is_a_400() {
    let server = Server::start(&[]).await;
    let unfinished = [part("prompt", b"a cat"), part("image", &png_head(8, 8))].concat();
    let many: Vec<u8> = (0..1000).flat_map(|_| part("prompt", b"a cat")).chain(end()).collect();
    let nameless = format!("--{BOUNDARY}\r\ncontent-type: text/plain\r\n\r\nx\r\n--{BOUNDARY}--\r\n").into_bytes();
    for body in [unfinished, many, nameless, b"no form at all".to_vec(), Vec::new(), end()] {
        let shown = String::from_utf8_lossy(&body).chars().take(60).collect::<String>();
        let (status, answer) = edit(&server, body).await;
        assert_eq!(status, 400, "{shown:?}: {answer}");
        assert!(answer["error"]["code"].is_string(), "{shown:?}: {answer}");
    }
    assert_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_a_gigabyte_is_refused_by_its_header() {
    let server = Server::start(&[KLEIN]).await;
    let body = [part("prompt", b"a cat"), part("image", &png_head(20_000, 20_000)), end()].concat();
    let begun = Instant::now();
    let answer = edit(&server, body).await;
    assert_refused(&answer, 400, "image_too_large");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stalls_is_answered() {
    let server = Server::start(&["--body-timeout", "1"]).await;
    let mut wire = Wire::open(&server).await;
    wire.send(form_head(1000)).await;
    wire.send(part("prompt", b"a cat")).await;
    assert_refused(&wire.answer().await, 408, "upload_stalled");
    assert_well(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_first_hears_before_it_sends() {
    let server = Server::start(&[]).await;
    let mut wire = Wire::open(&server).await;
    wire.send(head("/v1/images/edits", "text/plain", "content-length: 1000000000\r\nexpect: 100-continue")).await;
    let (status, _) = timeout(PATIENCE, wire.answer()).await.expect("no upload is waited for");
    assert!([413, 415].contains(&status), "{status}");
    let body = json!({"prompt": "a cat", "num_inference_steps": 1}).to_string();
    let mut wire = Wire::open(&server).await;
    let more = format!("content-length: {}\r\nexpect: 100-continue", body.len());
    wire.send(head("/v1/images/generations", "application/json", &more)).await;
    let mut go_on = [0; 25];
    timeout(PATIENCE, wire.0.read_exact(&mut go_on)).await.expect("a word in time").unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    wire.send(body).await;
    assert_eq!(wire.answer().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_write_are_answered_in_order() {
    let server = Server::start(&[]).await;
    let mut wire = Wire::open(&server).await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{more}\r\n");
    let close = "connection: close\r\n";
    wire.send(get("/livez", "") + &get("/nowhere", "") + &get("/version", close)).await;
    let text = wire.rest().await;
    let statuses: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{text}");
    assert!(text.find("unknown_url").unwrap() < text.find("\"version\"").unwrap(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_to_clients_that_begin_with_it() {
    let server = Server::start(&[]).await;
    let mut wire = Wire::open(&server).await;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // GET and http from the static table (RFC 7541), then a literal path and a literal authority.
    let headers = [&[0x82, 0x86, 0x04, 6][..], b"/livez", &[0x01, 9], b"localhost"].concat();
    wire.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..], &frame(1, 5, 1, &headers)].concat())
        .await;
    loop {
        let mut head = [0; 9];
        timeout(PATIENCE, wire.0.read_exact(&mut head)).await.expect("a frame in time").unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        wire.0.read_exact(&mut payload).await.unwrap();
        if (head[3], head[8]) == (1, 1) {
            // `:status: 200`, possibly after an update of the table's size.
            assert!(payload.iter().take(4).any(|byte| *byte == 0x88), "{payload:x?}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_counted_and_its_work_is_given_up() {
    let server = Server::start(&[]).await;
    let body = json!({"prompt": "a cat", "num_inference_steps": 1000, "n": 10}).to_string();
    let mut wire = Wire::open(&server).await;
    let more = format!("content-length: {}", body.len());
    wire.send(head("/v1/images/generations", "application/json", &more) + &body).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(wire);
    let begun = Instant::now();
    assert_well(&server).await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let metrics = tests::http().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let cancelled = metrics.lines().filter(|line| line.starts_with("latentd_cancelled_total"));
    let cancelled: f64 = cancelled.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!(cancelled, 10.0, "{metrics}");
}
