//! Benchmark of the HTTP layer alone: a pipeline that takes no time, real sockets, a separate server process.
//!
//! ```sh
//! cargo run --release -p server --example http_load            # all of it, about a minute
//! http_load compare /path/to/another/http_load                 # requests a second of both builds, alternating
//! http_load uploads                                            # memory under slow uploads
//! ```
//!
//! | measure | what it covers |
//! |---|---|
//! | `requests` | JSON in, validation, the scheduler and its worker (no work), a 64x64 PNG, base64, JSON out, log line, metrics |
//! | `replayed megabyte` | a repeated answer (idempotency key) with a PNG of about 1 MB: JSON in, base64, JSON out, 1.4 MB over the socket |
//! | `megabyte` | the same with a new picture: includes the PNG encoder's time, which is printed |
//! | `idle streams` | memory of the server with 1000 clients whose streams wait for a picture |
//! | `slow uploads` | memory with 200 forms that have each sent half a megabyte |
//!
//! This process generates the load on the same cores, so the server gets only the rest of them. Targets: 2000 requests
//! a second on two cores, and a 99th percentile of 20 ms at half that load.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod client;
mod server_process;

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use client::Client;
use server_process::{Server, serve};

const CONNECTIONS: usize = 32;
const SECONDS: u64 = 8;
const STREAMS: usize = 1000;
const UPLOADS: usize = 200;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", step_ms, side] => serve(step_ms.parse().unwrap(), side.parse().unwrap()).await,
        ["compare", other] => compare(other).await,
        ["uploads"] => trickling_uploads().await,
        _ => measure().await,
    }
}

async fn measure() {
    let server = Server::start(0, 64).await;
    let most = throughput("requests", &server, "").await;
    latency("requests at half that load", &server, "", most / 2.0).await;
    latency("requests at 1000 a second", &server, "", 1000.0).await;
    drop(server);

    let server = Server::start(0, 928).await;
    let replay = "idempotency-key: the-same\r\n";
    let most = throughput("replayed megabyte", &server, replay).await;
    latency("replayed megabyte at half that load", &server, replay, most / 2.0).await;
    drop(server);

    let server = Server::start(0, 928).await;
    let most = throughput("megabyte", &server, "").await;
    latency("megabyte at half that load", &server, "", most / 2.0).await;
    println!("  {}", server.stages().await);
    drop(server);

    let server = Server::start(3_600_000, 64).await;
    idle_streams(&server).await;
    slow_uploads(&server).await;
}

/// Sends requests one after another on each of the connections.
async fn throughput(name: &str, server: &Server, more: &'static str) -> f64 {
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    let before = server.cpu_seconds();
    for _ in 0..CONNECTIONS {
        let mut client = Client::open(server, more).await;
        clients.spawn(async move {
            let (mut answers, mut bytes) = (0, 0);
            while Instant::now() < end {
                bytes += client.generate().await;
                answers += 1;
            }
            (answers, bytes)
        });
    }
    let counted = clients.join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let (answers, bytes): (usize, usize) = counted.into_iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    let rate = answers as f64 / seconds;
    let after = server.cpu_seconds();
    let [user, system] = [0, 1].map(|i| (after[i] - before[i]) / answers as f64 * 1e6);
    println!(
        "{name}: {rate:.0}/s over {CONNECTIONS} connections, {:.0} kB each; {user:.0} us of the server's processor \
         each, and {system:.0} us of the kernel's",
        bytes as f64 / answers as f64 / 1e3
    );
    rate
}

/// Alternates between this build and another every second, so that other load on the machine affects both equally.
async fn compare(other: &str) {
    const ROUNDS: usize = 40;
    for (name, side, more) in [("requests", 64, ""), ("replayed megabyte", 928, "idempotency-key: the-same\r\n")] {
        let own = std::env::current_exe().unwrap();
        let servers = [Server::of(own.to_str().unwrap(), 0, side).await, Server::of(other, 0, side).await];
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            // Each goes first in every other round.
            for i in [round % 2, 1 - round % 2] {
                rates[i].push(answered(&servers[i], more, Duration::from_secs(1)).await);
            }
        }
        let mut ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(own, other)| own / other).collect();
        let [own, other] = rates.map(|mut rates| median(&mut rates));
        println!(
            "{name}: {own:.0}/s and {other:.0}/s of the other, medians of {ROUNDS}; ratio {:.3}",
            median(&mut ratios)
        );
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Answers a second.
async fn answered(server: &Server, more: &'static str, time: Duration) -> f64 {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut client = Client::open(server, more).await;
        clients.spawn(async move {
            let mut answers = 0;
            while begun.elapsed() < time {
                client.generate().await;
                answers += 1;
            }
            answers
        });
    }
    let answers: usize = clients.join_all().await.into_iter().sum();
    answers as f64 / begun.elapsed().as_secs_f64()
}

/// Forms that send a megabyte at once and then almost nothing: from one address, and from several.
async fn trickling_uploads() {
    const MEGABYTE: usize = 1 << 20;
    for (addresses, promised) in [(1, 256), (6, 1024)] {
        let server = Server::start(3_600_000, 64).await;
        let before = server.rss();
        let mut uploads = Vec::new();
        for i in 0..addresses * 320 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 2 + (i % addresses) as u8], 0).into()).unwrap();
            let mut client = Client::of(socket.connect(server.address.parse().unwrap()).await.unwrap(), "");
            // The server may meanwhile close a refused connection.
            let _ = client.stream.get_mut().write_all(UPLOAD.as_bytes()).await;
            let _ = client.stream.get_mut().write_all(&vec![0; MEGABYTE]).await;
            uploads.push(client);
        }
        let (mut most, begun) = (0, Instant::now());
        while begun.elapsed() < Duration::from_secs(20) {
            most = most.max(server.rss());
            for client in &mut uploads {
                let _ = client.stream.get_mut().try_write(b"x");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let held = most.saturating_sub(before) as f64 / 1024.0;
        println!(
            "trickling uploads of 1 MiB, {} from {addresses} addresses: {held:.0} MiB held at most, {:.2} of the {promised} \
             MiB that the flags promise",
            uploads.len(),
            held / f64::from(promised)
        );
    }
}

/// Sends requests at a fixed rate, whether or not earlier ones are answered. A request's time counts from when it was
/// due.
async fn latency(name: &str, server: &Server, more: &'static str, rate: f64) {
    let (clients, mut idle) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS * 4 {
        clients.send(Client::open(server, more).await).ok().unwrap();
    }
    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for i in 0..(rate * SECONDS as f64) as u32 {
        let due = begun + Duration::from_secs_f64(f64::from(i) / rate);
        tokio::time::sleep_until(due.into()).await;
        let (mut client, clients) = (idle.recv().await.unwrap(), clients.clone());
        asked.spawn(async move {
            client.generate().await;
            let took = due.elapsed();
            clients.send(client).ok().unwrap();
            took
        });
    }
    let mut times = asked.join_all().await;
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{name} ({rate:.0}/s): p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(0.5), at(0.99), at(1.0));
}

async fn idle_streams(server: &Server) {
    let before = server.rss();
    let body = r#"{"prompt":"a fox","stream":true,"partial_images":3}"#;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut client = Client::open(server, "").await;
        client.send(body).await;
        let status = client.status().await;
        assert_eq!(status, 200, "a stream begins at once");
        streams.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    report("idle streams", STREAMS, before, server.rss());
}

async fn slow_uploads(server: &Server) {
    let before = server.rss();
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        let mut client = Client::open(server, "").await;
        client.stream.get_mut().write_all(UPLOAD.as_bytes()).await.unwrap();
        client.stream.get_mut().write_all(&vec![0; 500_000]).await.unwrap();
        uploads.push(client);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    report("slow uploads of 500 kB so far", UPLOADS, before, server.rss());
}

/// The beginning of a form.
const UPLOAD: &str = "POST /v1/images/edits HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\
    content-type: multipart/form-data; boundary=b\r\n\r\n\
    --b\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";

fn report(name: &str, count: usize, before: usize, after: usize) {
    let each = after.saturating_sub(before) as f64 / count as f64;
    println!(
        "{name}: {count}, memory {:.1} MB before, {:.1} MB with them, {:.1} kB each",
        before as f64 / 1e3,
        after as f64 / 1e3,
        each
    );
}
