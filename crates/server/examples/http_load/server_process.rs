//! The server under load: this program again, in a process of its own, with a pipeline that takes no time.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diffusion::{
    Estimator, ImageRequest, ImageSize, Interrupt, ModelCard, Pipeline, PipelineError, PreviewMethod, RgbImage,
    StepReport,
};
use scheduler::fake::FakePipeline;
use scheduler::{Scheduler, SchedulerConfig, SpawnOptions};
use server::{AppState, Metrics, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::client::Client;

/// The server's process.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) async fn start(step_ms: u64, side: usize) -> Self {
        Server::of(std::env::current_exe().unwrap().to_str().unwrap(), step_ms, side).await
    }

    /// Starts another build of this program as the server.
    pub(crate) async fn of(program: &str, step_ms: u64, side: usize) -> Self {
        let mut command = Command::new(program);
        let mut child =
            command.args(["serve", &step_ms.to_string(), &side.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut address).unwrap();
        Server { child, address: address.trim().to_owned() }
    }

    /// Resident memory in kB.
    pub(crate) fn rss(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// CPU time so far, of all threads: user and system.
    pub(crate) fn cpu_seconds(&self) -> [f64; 2] {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, in hundredths of a second.
        [11, 12].map(|i| fields[i].parse::<f64>().unwrap() / 100.0)
    }

    /// Time of encoding the pictures, from the server's metrics.
    pub(crate) async fn stages(&self) -> String {
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

pub(crate) async fn serve(step_ms: u64, side: usize) {
    let mut fake = FakePipeline { step_delay: Duration::from_millis(step_ms), ..FakePipeline::default() };
    fake.card.default_size = ImageSize { width: side, height: side };
    fake.card.max_pixels = side * side;
    // Otherwise the pictures of uploads would be skipped.
    fake.card.input_images.max_images = 1;
    let painted = Painted { picture: picture(side), fake };
    let metrics = Metrics::default();
    let config = SchedulerConfig {
        max_batch: 64,
        max_waiting: 2 * crate::STREAMS,
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
pub(crate) fn picture(side: usize) -> RgbImage {
    let mut random = 1_u32;
    let mut noise = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 30) as u8
    };
    RgbImage { size: ImageSize { width: side, height: side }, pixels: (0..side * side * 3).map(|_| noise()).collect() }
}

/// The fake pipeline with another picture.
#[derive(Clone)]
pub(crate) struct Painted {
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
