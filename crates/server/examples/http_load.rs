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

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use diffusion::{
    Estimator, ImageRequest, ImageSize, Interrupt, ModelCard, Pipeline, PipelineError, PreviewMethod, RgbImage,
    StepReport,
};
use scheduler::fake::FakePipeline;
use scheduler::{Scheduler, SchedulerConfig, SpawnOptions};
use server::{AppState, Metrics, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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

/// A connection that requests one picture after another.
struct Client {
    stream: BufReader<TcpStream>,
    /// The last answer. The buffer is reused, so that the load takes little of the cores it shares with the server.
    body: Vec<u8>,
    /// Header lines of each request.
    more: &'static str,
}

impl Client {
    async fn open(server: &Server, more: &'static str) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::of(stream, more)
    }

    fn of(stream: TcpStream, more: &'static str) -> Self {
        Client { stream: BufReader::with_capacity(64 << 10, stream), body: Vec::new(), more }
    }

    /// The answer's length in bytes.
    async fn generate(&mut self) -> usize {
        self.send(r#"{"prompt":"a fox on a green background","num_inference_steps":1,"seed":7}"#).await;
        self.answer().await;
        self.body.len()
    }

    async fn send(&mut self, body: &str) {
        let request = format!(
            "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n{body}",
            body.len(),
            self.more,
        );
        self.stream.get_mut().write_all(request.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line
    }

    async fn status(&mut self) -> u16 {
        self.line().await.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn answer(&mut self) {
        assert_eq!(self.status().await, 200);
        let mut length = 0;
        loop {
            let line = self.line().await;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).await.unwrap();
    }
}

/// The server's process.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    async fn start(step_ms: u64, side: usize) -> Self {
        Server::of(std::env::current_exe().unwrap().to_str().unwrap(), step_ms, side).await
    }

    /// Starts another build of this program as the server.
    async fn of(program: &str, step_ms: u64, side: usize) -> Self {
        let mut command = Command::new(program);
        let mut child =
            command.args(["serve", &step_ms.to_string(), &side.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut address).unwrap();
        Server { child, address: address.trim().to_owned() }
    }

    /// Resident memory in kB.
    fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// CPU time so far, of all threads: user and system.
    fn cpu_seconds(&self) -> [f64; 2] {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, in hundredths of a second.
        [11, 12].map(|i| fields[i].parse::<f64>().unwrap() / 100.0)
    }

    /// Time of encoding the pictures, from the server's metrics.
    async fn stages(&self) -> String {
        let mut client = Client::open(self, "").await;
        client.stream.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        client.answer().await;
        let metrics = String::from_utf8(client.body).unwrap();
        let of = |end: &str| {
            let name = format!("latentd_stage_duration_seconds_{end}{{stage=\"image\"");
            let line = metrics.lines().find(|line| line.starts_with(&name));
            line.map_or(f64::NAN, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        };
        format!("of which encoding: {:.1} ms each", of("sum") / of("count") * 1e3)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve(step_ms: u64, side: usize) {
    let mut fake = FakePipeline { step_delay: Duration::from_millis(step_ms), ..FakePipeline::default() };
    fake.card.default_size = ImageSize { width: side, height: side };
    fake.card.max_pixels = side * side;
    // Otherwise the pictures of uploads would be skipped.
    fake.card.input_images.max_images = 1;
    let painted = Painted { picture: picture(side), fake };
    let metrics = Metrics::default();
    let config = SchedulerConfig {
        max_batch: 64,
        max_waiting: 2 * STREAMS,
        max_backlog: None,
        calibration: Duration::ZERO,
        ..SchedulerConfig::default()
    };
    let options = SpawnOptions { config, observer: Some(metrics.observer()) };
    let scheduler = Scheduler::spawn(options, vec![move || Ok::<_, PipelineError>(painted.clone())]);
    let ready = |readiness: &scheduler::Readiness| matches!(readiness, scheduler::Readiness::Ready(_));
    scheduler.readiness().wait_for(ready).await.unwrap();
    let state = AppState::new(scheduler, ServerConfig::new("Fake/Fake-Image"), metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let (_stop, stopped) = mpsc::channel(1);
    server::serve(listener, state, stopped).await.unwrap();
}

/// A picture of `side` by `side` pixels. With 928 its PNG has 1.01 MB: noise of few bits.
fn picture(side: usize) -> RgbImage {
    let mut random = 1_u32;
    let mut noise = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 30) as u8
    };
    RgbImage { size: ImageSize { width: side, height: side }, pixels: (0..side * side * 3).map(|_| noise()).collect() }
}

/// The fake pipeline with another picture.
#[derive(Clone)]
struct Painted {
    picture: RgbImage,
    fake: FakePipeline,
}

impl Pipeline for Painted {
    type State = <FakePipeline as Pipeline>::State;

    fn card(&self) -> &ModelCard {
        self.fake.card()
    }

    fn estimator(&self) -> Estimator {
        self.fake.estimator()
    }

    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<Self::State, PipelineError> {
        self.fake.prepare(request, interrupt)
    }

    fn prompt_tokens(&self, state: &Self::State) -> usize {
        self.fake.prompt_tokens(state)
    }

    fn step(
        &mut self,
        batch: &mut [&mut Self::State],
        interrupt: &Interrupt,
    ) -> Result<Vec<StepReport>, PipelineError> {
        self.fake.step(batch, interrupt)
    }

    fn preview(
        &mut self,
        state: &Self::State,
        method: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError> {
        self.fake.preview(state, method, interrupt)
    }

    fn latents(&self, state: &Self::State) -> Result<Vec<f32>, PipelineError> {
        self.fake.latents(state)
    }

    fn release(&mut self, _state: &mut Self::State) {}

    fn decode(&mut self, _state: Self::State, _: &Interrupt) -> Result<RgbImage, PipelineError> {
        Ok(self.picture.clone())
    }
}
