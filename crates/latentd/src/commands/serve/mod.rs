//! `latentd serve`: the OpenAI Images API over HTTP.

mod config_file;
mod held;
mod http;
mod mistakes;
mod setting;
#[cfg(test)]
mod tests;
mod typed;
mod workers;

pub(super) use typed::{Typed, address};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use cache::CacheConfig;
use clap::builder::BoolishValueParser;
use diffusion::{ImageRequest, ImageSize, InputImage, Interrupt, Limits, ModelCard, Pipeline, RequestDraft, RgbImage};
use latentd::{Error, LoadingBars, QuantizationName, builtin_banner};
use models::{AnyPipeline, Part};
use omni::{DeviceName, ModelSource, Omni};
use scheduler::{Readiness, Scheduler, SchedulerConfig, SpawnOptions};
use server::{AppState, Metrics, ModelPart, ServerConfig, WorkerDevice, WorkerGpu};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::host::Host;
use super::scheduling::SchedulingFlags;
use crate::{build, terminal};
use held::HeldFlags;
use http::HttpFlags;
use latentd::logging::{self, LogFlags};
use latentd::{Devices, ModelFlags};
use mistakes::Mistakes;
use setting::Setting;
use workers::Workers;

/// Serve a model over the OpenAI Images API
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd serve\n  latentd serve Qwen/Qwen-Image --port 8091\n  curl localhost:8091/v1/images/generations -H 'content-type: application/json' -d '{\"prompt\":\"a cup of coffee\"}'"
)]
pub(super) struct Serve {
    /// A Hub id, a folder in the diffusers layout, or `builtin`
    #[arg(env = "LATENTD_MODEL")]
    model: Option<String>,
    /// A TOML file of settings, one key per flag; flags and variables override it
    #[arg(long, value_name = "FILE", env = "LATENTD_CONFIG")]
    config: Option<PathBuf>,
    /// Accepted, so that vllm-omni's command line works
    #[arg(long, hide = true)]
    omni: bool,
    /// Port to listen on
    #[arg(long, default_value_t = 8091, env = "LATENTD_PORT")]
    port: u16,
    /// Address or host name to listen on
    #[arg(long, default_value = "0.0.0.0", env = "LATENTD_HOST")]
    host: Host,
    /// Names of the model in requests: its id, then aliases
    #[arg(long, value_delimiter = ',', value_name = "NAME", env = "LATENTD_SERVED_MODEL_NAME")]
    served_model_name: Vec<String>,
    /// Maximum pixels of a picture; by default the model's limit, four times the pixels that it was made for
    #[arg(long, value_name = "PIXELS", env = "LATENTD_MAX_GENERATED_IMAGE_SIZE")]
    max_generated_image_size: Option<usize>,
    /// Seconds that a stopping server waits for the pictures it has admitted
    #[arg(long, default_value_t = 60, value_name = "SECONDS", env = "LATENTD_DRAIN_TIMEOUT")]
    drain_timeout: u64,
    /// Let requests set their own cache settings, in a `cache` field
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LATENTD_ALLOW_REQUEST_CACHE_CONFIG")]
    allow_request_cache_config: bool,
    /// Share of the pictures made with a step cache, 0 to 1, that are made again without it while the server is idle,
    /// to compare the two: `/metrics` and `/info` report the results
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, allow_negative_numbers = true, env = "LATENTD_CACHE_AUDIT")]
    cache_audit: f64,
    /// Log a line per picture: what its cache computed and reused
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LATENTD_ENABLE_CACHE_DIT_SUMMARY")]
    enable_cache_dit_summary: bool,
    #[command(flatten)]
    http: HttpFlags,
    #[command(flatten)]
    held: HeldFlags,
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    scheduling: SchedulingFlags,
    #[command(flatten)]
    loading: ModelFlags<Devices>,
}

impl Serve {
    /// Checks everything that can be checked before a model is loaded. A missing folder should stop the program at its
    /// start, not fail the first request.
    fn settle(self, mistakes: &mut Mistakes) -> Option<Settled> {
        let source = ModelSource::parse(self.model.as_deref(), self.loading.revision.clone());
        if let ModelSource::Dir(_) = source {
            mistakes.take(source.open(&LoadingBars::default()).map_err(Error::from));
        }
        let workers = Workers::open(&self.loading, mistakes);
        let scheduling = self.scheduling.config(workers.devices.len(), workers.on_cpu == workers.devices.len());
        let scheduling = scheduling.map_err(|errors| errors.iter().for_each(|err| mistakes.note(err))).ok();
        let mut config = self.front_end(&source, mistakes);
        self.http.settle(&mut config, mistakes);
        self.held.settle(&mut config);
        mistakes.take(self.log.check());
        config.devices = workers.devices;
        Some(Settled { serve: self, source, scheduling: scheduling?, workers_on_cpu: workers.on_cpu, config })
    }

    /// One pipeline factory per device, called on its worker's thread. `stopped` interrupts its warm-up.
    fn factories(
        &self,
        memory_budget: Option<u64>,
        config: &ServerConfig,
        stopped: &Interrupt,
    ) -> Vec<impl Fn() -> Result<AnyPipeline, Error> + Send + use<>> {
        let turn = Arc::new(Mutex::new(()));
        let factory = |(&device, worker): (&DeviceName, &WorkerDevice)| {
            let (loading, model, turn) = (self.loading.clone(), self.model.clone(), turn.clone());
            let worker = worker.clone();
            let (plans, stopped) = (config.plans.clone(), stopped.clone());
            move || {
                // Workers load one after the other, so that the second finds the files that the first downloaded.
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                let builder =
                    loading.builder_on(device, model.as_deref())?.memory_budget(memory_budget).plans(plans.clone());
                let pipeline = warm(loading.load(builder)?, &worker, &stopped)?;
                tell_of_too_small(memory_budget, &pipeline);
                Ok(pipeline)
            }
        };
        self.loading.on.device.iter().zip(&config.devices).map(factory).collect()
    }

    /// The front end's configuration, as far as it concerns the model and its requests.
    fn front_end(&self, source: &ModelSource, mistakes: &mut Mistakes) -> ServerConfig {
        let mut config = ServerConfig::new(source.id());
        if !self.served_model_name.is_empty() {
            config.api.served_model_names = self.served_model_name.clone();
        }
        config.api.limits = Limits { max_pixels: self.max_generated_image_size };
        // After a mistyped backend, every other cache setting would be reported as well.
        if !mistakes.concern("cache_backend") {
            let cache = mistakes.take(self.loading.cache.resolve());
            mistakes.take(cache.as_ref().map_or(Ok(()), |cache| self.check_audit(cache.as_ref())));
            config.api.cache = cache.flatten();
        }
        config.api.allow_request_cache_config = self.allow_request_cache_config;
        config.cache_audit = self.cache_audit;
        config.api.cache_summary = self.enable_cache_dit_summary;
        config.api.priorities = self.scheduling.priorities();
        config.drain_timeout = Duration::from_secs(self.drain_timeout);
        config.api.build = build::info();
        config.instruction_set = kernels::instruction_set().ok();
        config.quantization = self.loading.quantization.map(QuantizationName::name);
        config
    }

    /// Checks that an audit has pictures made with a cache.
    fn check_audit(&self, cache: Option<&CacheConfig>) -> Result<(), Error> {
        let saves_nothing = cache.is_none_or(CacheConfig::never_reuses) && !self.allow_request_cache_config;
        if self.cache_audit == 0.0 || !saves_nothing {
            return Ok(());
        }
        Err(Error::Flag(format!(
            "`--cache-audit` must be 0 where no picture is made with a cache, by a `--cache-backend` that saves steps or by \
             `--allow-request-cache-config`. Given: {}",
            self.cache_audit
        )))
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::File { action, path: format!("{}:{}", self.host, self.port), source }
    }
}

/// Parses a share from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a share from 0 to 1".into())
}

/// A configuration that is valid, as far as can be checked without loading the model.
struct Settled {
    serve: Serve,
    source: ModelSource,
    scheduling: SchedulerConfig,
    workers_on_cpu: usize,
    config: ServerConfig,
}

impl Settled {
    fn run(self, service_links: &[Setting]) -> Result<(), Error> {
        // Held until the end, because spans are sent in batches.
        let _tracing = logging::init(&self.serve.log)?;
        if let Some(file) = &self.serve.config {
            tracing::info!(file = %file.display(), "settings were read");
        }
        for link in service_links {
            tracing::warn!("{link} tells of a Kubernetes service and is no port of ours: it is not used");
        }
        if self.workers_on_cpu > 1 {
            // Each step uses the whole thread pool, so a second worker waits for the same cores.
            tracing::warn!(
                "`--device`: {} workers on the CPU share one pool of threads and hold the weights once each; \
                 one worker is as fast",
                self.workers_on_cpu
            );
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|source| self.serve.io("start", source))?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), Error> {
        let Settled { serve, source, scheduling, mut config, .. } = self;
        let addresses = serve.host.addresses(serve.port).await.map_err(|source| serve.io("listen on", source))?;
        let listener = TcpListener::bind(&*addresses).await.map_err(|source| serve.io("listen on", source))?;
        let address = listener.local_addr().map_err(|source| serve.io("listen on", source))?;
        if source == ModelSource::Builtin {
            terminal::notice(&builtin_banner("serve"));
        }
        config.allowed_hosts = serve.http.allowed_hosts(&serve.host, address.ip(), !config.api_keys.is_empty());

        let metrics = Metrics::default();
        let options = SpawnOptions { config: scheduling, observer: Some(metrics.observer()) };
        let stopped = Interrupt::default();
        let scheduler = Scheduler::spawn(options, serve.factories(scheduling.memory_budget, &config, &stopped));
        let memory_budget = scheduling.memory_budget.map(|bytes| ByteSize::b(bytes).to_string());
        for WorkerDevice { device, gpu, .. } in &config.devices {
            let Some(WorkerGpu { name, compute_capability, memory_bytes, attention }) = gpu else { continue };
            let memory = ByteSize::b(*memory_bytes).to_string();
            tracing::info!(device, name, compute_capability, memory, attention, "a worker has a GPU");
        }
        let ServerConfig { instruction_set, quantization, .. } = config;
        let model = source.id();
        tracing::info!(%address, model, memory_budget, instruction_set, quantization, "listening; loading the model");

        let signals = server::stop_on_signals().map_err(|source| serve.io("listen on", source))?;
        let (stop, stopping) = mpsc::channel(2);
        let lost = lost(scheduler.readiness(), address);
        let serving = server::serve(listener, AppState::new(scheduler, config, metrics), stopping);
        let ended = ended(serving, lost, signals, stop).await;
        stopped.set();
        ended?.map_err(|source| serve.io("serve on", source))
    }
}

/// Waits until the server has stopped: by a signal, or because it can make no more pictures. Either way the answers of
/// accepted jobs reach their clients.
///
/// # Errors
/// The reason why no more pictures can be made.
async fn ended<T>(
    serving: impl Future<Output = T>,
    lost: impl Future<Output = Error>,
    mut signals: mpsc::Receiver<()>,
    stop: mpsc::Sender<()>,
) -> Result<T, Error> {
    let (mut serving, mut lost) = (pin!(serving), pin!(lost));
    let mut failure = None;
    loop {
        tokio::select! {
            served = &mut serving => return failure.map_or(Ok(served), Err),
            err = &mut lost, if failure.is_none() => failure = Some(err),
            Some(()) = signals.recv() => {}
        }
        // The server listens until it has stopped.
        let _ = stop.try_send(());
    }
}

/// Logs when the server is ready. Returns when it can no longer make pictures although it was not asked to stop.
async fn lost(mut readiness: watch::Receiver<Readiness>, address: SocketAddr) -> Error {
    loop {
        let now = readiness.borrow_and_update().clone();
        match &now {
            Readiness::Failed(reason) => return Error::Flag(reason.clone()),
            Readiness::Ready(card) => {
                tracing::info!(%address, dtype = card.dtype, "ready: POST /v1/images/generations")
            }
            Readiness::Loading | Readiness::Draining => {}
        }
        match readiness.changed().await {
            Ok(()) => {}
            Err(_) if now == Readiness::Draining => std::future::pending().await,
            Err(_) => return Error::SchedulerEnded,
        }
    }
}

/// Warns if a picture of the default size does not fit into the memory budget.
fn tell_of_too_small(memory_budget: Option<u64>, pipeline: &AnyPipeline) {
    let (what, memory_budget) = match memory_budget {
        Some(_) => ("`--memory-budget`", memory_budget),
        None => ("what the model leaves of the GPU's memory,", pipeline.free_bytes()),
    };
    let input_images = warm_up_pictures(pipeline.card());
    let draft = RequestDraft { prompt: "of any kind".into(), input_images, ..RequestDraft::default() };
    let Ok(requests) = draft.build(pipeline.card(), &Limits::NONE, || 0) else { return };
    let Some(needed) = requests.first().map(|request| pipeline.estimator()(request).memory.alone()) else { return };
    if let Some(budget) = memory_budget.filter(|budget| needed > *budget) {
        let (budget, needed) = (ByteSize::b(budget), ByteSize::b(needed));
        tracing::warn!("{what} {budget} holds no picture of the default size, which needs {needed}");
    }
}

/// Grey input pictures for a warm-up, as many as the model needs.
fn warm_up_pictures(card: &ModelCard) -> Arc<[InputImage]> {
    let size = card.default_size;
    let grey = InputImage::new(RgbImage { size, pixels: vec![127; size.pixels() * 3] });
    std::iter::repeat_n(grey, card.input_images.min_images).collect()
}

/// Reports where the model's parts are, and makes one small picture. So the first client does not wait for cold caches,
/// and a GPU has loaded its kernels and chosen its GEMM algorithms.
fn warm(omni: Omni, worker: &WorkerDevice, stopped: &Interrupt) -> Result<AnyPipeline, Error> {
    let placement = omni.placement();
    tracing::info!(device = worker.device, offload = placement.offload.name(), "the model is loaded: {placement}");
    let part = |&Part { name, device, host }: &Part| ModelPart { name, device_bytes: device, host_bytes: host };
    worker.holds(placement.parts.iter().map(part).collect());
    let mut pipeline = omni.into_pipeline();
    let draft = RequestDraft { prompt: "warm-up".into(), num_inference_steps: Some(2), ..RequestDraft::default() };
    let side = pipeline.card().default_size.width.min(256);
    let size = ImageSize { width: side, height: side };
    let draft = RequestDraft { size: Some(size), input_images: warm_up_pictures(pipeline.card()), ..draft };
    let requests = draft.build(pipeline.card(), &Limits::NONE, || 0)?;
    let request: &ImageRequest = requests.first().expect("one picture. This is a bug.");
    let mut state = pipeline.prepare(request, stopped)?;
    for _ in 0..request.params.num_evaluations() {
        pipeline.step(&mut [&mut state], stopped)?;
    }
    pipeline.decode(state, stopped)?;
    Ok(pipeline)
}
