//! Tests that need real sockets: clients that leave, uploads, shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use scheduler::Readiness;
use scheduler::fake::{FakePipeline, Gate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{load_becomes, state};
use crate::{AppState, serve};

/// A server on its own port.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) stop: mpsc::Sender<()>,
    pub(super) ended: JoinHandle<std::io::Result<()>>,
}

pub(super) async fn served(state: &AppState) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = mpsc::channel(2);
    Served { address, stop, ended: tokio::spawn(serve(listener, state.clone(), stopped)) }
}

pub(super) fn gated() -> FakePipeline {
    FakePipeline { gate: Gate::closed(), ..FakePipeline::default() }
}

/// The head of a generation with a body of `length` bytes and further header lines.
pub(super) fn head(length: usize, more: &str) -> String {
    format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n{more}\r\n"
    )
}

pub(super) async fn start_generation(address: SocketAddr, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all((head(body.len(), "") + body).as_bytes()).await.unwrap();
    client
}

/// Reads to the end of the connection.
pub(super) async fn answer(mut client: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(10), client.read_to_end(&mut bytes));
    read.await.expect("an answer within ten seconds").expect("an answer, not a broken connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) async fn get(address: SocketAddr, path: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    answer(client).await
}

pub(super) async fn running_becomes(state: &AppState, running: usize) {
    load_becomes(state, |load| load.running == running).await;
}

#[track_caller]
pub(super) fn assert_status(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}", &answer[..answer.len().min(2000)]);
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_job_within_a_step() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let client = start_generation(server.address, r#"{"prompt": "a cat", "num_inference_steps": 1000}"#).await;
    pipeline.gate.allow(3);
    while pipeline.probe.batch_sizes().len() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Three steps are done; the fourth has started and waits at the gate.
    drop(client);
    running_becomes(&state, 0).await;
    pipeline.gate.open();
    pipeline.probe.emptied().await;
    assert_eq!(pipeline.probe.batch_sizes().len(), 4, "no step was begun after the client left");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_touch_another() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let staying = start_generation(server.address, r#"{"prompt": "a cat", "num_inference_steps": 1000}"#).await;
    let leaving = start_generation(server.address, r#"{"prompt": "a dog", "num_inference_steps": 1000}"#).await;
    load_becomes(&state, |load| load.running + load.waiting == 2).await;
    // Either may be in a step already, and the scheduler chooses when the other joins.
    while state.queue.load().borrow().running < 2 {
        pipeline.gate.allow(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(leaving);
    running_becomes(&state, 1).await;
    pipeline.gate.open();
    assert_status(&answer(staying).await, 200);
}

#[tokio::test]
async fn an_upload_that_is_refused_is_read_on_so_that_the_answer_arrives() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    // Far more than the buffers of the two sockets hold.
    let body = vec![b'x'; 32 << 20];
    for chunked in [false, true] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        let mut head = head(body.len(), "");
        if chunked {
            let size = format!("content-length: {}\r\n", body.len());
            head = head.replace(&size, "transfer-encoding: chunked\r\n") + &format!("{:x}\r\n", body.len());
        }
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.expect("the whole upload is taken");
        if chunked {
            client.write_all(b"\r\n0\r\n\r\n").await.unwrap();
        }
        let answer = answer(client).await;
        assert_status(&answer, 413);
        assert!(answer.contains(r#""code":"body_too_large""#), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(head(1 << 30, "expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let refused = timeout(Duration::from_secs(3), answer(client)).await.expect("no upload is waited for");
    assert_status(&refused, 413);

    let mut client = TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"prompt": "a cat"}"#;
    client.write_all(head(body.len(), "expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(body.as_bytes()).await.unwrap();
    assert_status(&answer(client).await, 200);
}

#[tokio::test]
async fn the_first_stop_finishes_what_was_taken_and_refuses_the_rest() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let running = start_generation(server.address, r#"{"prompt": "a cat"}"#).await;
    running_becomes(&state, 1).await;

    server.stop.send(()).await.unwrap();
    let mut readiness = state.queue.readiness();
    let draining = readiness.wait_for(|readiness| *readiness == Readiness::Draining);
    timeout(Duration::from_secs(10), draining).await.expect("the server drains").unwrap();
    assert_status(&get(server.address, "/readyz").await, 503);
    assert_status(&get(server.address, "/livez").await, 200);
    let late = answer(start_generation(server.address, r#"{"prompt": "a cat"}"#).await).await;
    assert_status(&late, 503);
    assert!(late.contains(r#""code":"shutting_down""#) && late.contains("retry-after: 5"), "{late}");

    pipeline.gate.open();
    assert_status(&answer(running).await, 200);
    let ended = timeout(Duration::from_secs(10), server.ended).await.expect("nothing keeps the server");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_not_done_in_time_is_answered_and_the_server_ends() {
    let pipeline = gated();
    let mut state = state(&pipeline).await;
    std::sync::Arc::get_mut(&mut state.config).unwrap().drain_timeout = Duration::from_millis(50);
    let server = served(&state).await;
    let running = start_generation(server.address, r#"{"prompt": "a cat"}"#).await;
    running_becomes(&state, 1).await;
    server.stop.send(()).await.unwrap();
    assert_status(&answer(running).await, 503);
    timeout(Duration::from_secs(10), server.ended).await.expect("nothing keeps the server").unwrap().unwrap();
    pipeline.gate.open();
}

#[tokio::test]
async fn the_second_stop_ends_at_once() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let _running = start_generation(server.address, r#"{"prompt": "a cat"}"#).await;
    running_becomes(&state, 1).await;
    server.stop.send(()).await.unwrap();
    server.stop.send(()).await.unwrap();
    timeout(Duration::from_secs(2), server.ended).await.expect("at once").unwrap().unwrap();
    pipeline.gate.open();
}

#[tokio::test]
async fn an_idle_connection_does_not_keep_the_server() {
    let state = state(&FakePipeline::default()).await;
    let server = served(&state).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    server.stop.send(()).await.unwrap();
    timeout(Duration::from_secs(3), server.ended).await.expect("idle connections are closed").unwrap().unwrap();
}
