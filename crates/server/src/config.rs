//! What the operator decides about the front end. Nothing is parsed here.

use std::time::Duration;

use cache::{CacheConfig, Plans};
use diffusion::Limits;

use crate::access::{AllowedHosts, AllowedOrigin, ApiKeys, RateLimit};
use crate::connections::Pace;
use crate::devices::WorkerDevice;
use crate::request::ImageFetcher;

/// The settings of the front end.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The instructions that the kernels of a worker on the CPU are made of, e.g. `avx512`.
    pub instruction_set: Option<&'static str>,
    /// The device of each worker.
    pub devices: Vec<WorkerDevice>,
    /// What the products of the transformer's blocks are rounded to, e.g. `int8`.
    pub quantization: Option<&'static str>,
    /// What requests may call the model: first its id, then aliases. Never empty.
    pub served_model_names: Vec<String>,
    /// The bounds of a request.
    pub limits: Limits,
    /// Most bytes of a JSON body.
    pub body_limit: usize,
    /// Most bytes of the body of an edit, which brings pictures.
    pub upload_limit: usize,
    /// Most bytes of all bodies together that are being read, JSON and forms. One that finds no room is
    /// answered 429.
    pub upload_memory: usize,
    /// The most of these of one client: a key's, or an address's on a server without keys.
    pub client_upload_memory: usize,
    /// Most bytes of all decoded pictures together: of waiting edits, and of those that are decoded. One that finds no
    /// room is answered 429.
    pub picture_memory: usize,
    /// The most of these of one client.
    pub client_picture_memory: usize,
    /// Most bytes of the results of jobs. One that finds no room is answered 429.
    pub job_memory: usize,
    /// Most bytes of the answers to requests that have an idempotency key; the oldest make way.
    pub replay_memory: usize,
    /// Most bytes of the pictures behind URLs; the oldest make way.
    pub file_memory: usize,
    /// What fetches pictures that edits name by URL; without it such URLs are refused.
    pub image_urls: Option<ImageFetcher>,
    /// The step cache that requests run under, if any.
    pub cache: Option<CacheConfig>,
    /// The plans of requests whose cache follows one: those that the workers have.
    pub plans: Plans,
    /// Whether a request may bring cache settings of its own.
    pub allow_request_cache_config: bool,
    /// The share of the pictures made with a step cache, from 0 to 1, that are made again without it to compare the two.
    pub cache_audit: f64,
    /// Whether every picture's cache is summed up in the log.
    pub cache_summary: bool,
    /// Whether a request may bring a priority; otherwise the field is ignored.
    pub priorities: bool,
    /// The keys that let requests in; without any, everybody may come in.
    pub api_keys: ApiKeys,
    /// How many pictures each key may ask for.
    pub rate_limit: Option<RateLimit>,
    /// The names that requests may be sent to.
    pub allowed_hosts: AllowedHosts,
    /// The web pages that may call the server from a browser.
    pub cors_allow_origins: Vec<AllowedOrigin>,
    /// How long the head of a connection's first request may take; later heads may take longer.
    pub header_timeout: Duration,
    /// How slowly a body may come, and how slowly an answer may be taken: that by its rate alone.
    pub pace: Pace,
    /// Where clients see this server, for URLs in answers; without it, what each request says.
    pub public_url: Option<String>,
    /// Most connections at a time; more wait for their turn.
    pub max_connections: usize,
    /// What the program was built for and with.
    pub build: BuildInfo,
    /// How long jobs may go on once the server is told to stop.
    pub drain_timeout: Duration,
}

/// What the program was built for and with.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct BuildInfo {
    /// The program's version.
    pub version: &'static str,
    /// Processor and system, e.g. `x86_64-linux`.
    pub target: String,
    /// The optional parts that are in it.
    pub features: Vec<&'static str>,
}

impl Default for BuildInfo {
    /// This version for this machine, without optional parts.
    fn default() -> Self {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        BuildInfo { version: env!("CARGO_PKG_VERSION"), target, features: Vec::new() }
    }
}

impl ServerConfig {
    /// The defaults, for a model called `id`.
    pub fn new(id: impl Into<String>) -> Self {
        ServerConfig {
            instruction_set: None,
            devices: Vec::new(),
            quantization: None,
            served_model_names: vec![id.into()],
            limits: Limits::default(),
            body_limit: 2 << 20,
            upload_limit: 64 << 20,
            upload_memory: 1 << 30,
            client_upload_memory: 256 << 20,
            picture_memory: 2 << 30,
            client_picture_memory: 1 << 30,
            job_memory: 1 << 30,
            replay_memory: 512 << 20,
            file_memory: 512 << 20,
            image_urls: None,
            cache: None,
            plans: Plans::default(),
            allow_request_cache_config: false,
            cache_audit: 0.0,
            cache_summary: false,
            priorities: true,
            api_keys: ApiKeys::default(),
            rate_limit: None,
            allowed_hosts: AllowedHosts::Any,
            cors_allow_origins: Vec::new(),
            header_timeout: Duration::from_secs(30),
            pace: Pace { idle: Duration::from_secs(30), min_rate: 4 << 10, total: Duration::from_secs(600) },
            public_url: None,
            max_connections: 4096,
            build: BuildInfo::default(),
            drain_timeout: Duration::from_secs(60),
        }
    }

    /// The model's id.
    pub(crate) fn model_id(&self) -> &str {
        self.served_model_names.first().expect("a model has a name. This is a bug.")
    }
}
