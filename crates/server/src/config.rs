//! What the operator decides about the front end. Nothing is parsed here.

use std::time::Duration;

use cache::Plans;

use crate::access::{AllowedHosts, AllowedOrigin, ApiKeys, RateLimit};
use crate::api::config::ApiConfig;
use crate::api::devices::WorkerDevice;
use crate::connections::Pace;
use crate::uploads::UploadConfig;

/// The settings of the front end.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What requests may ask for.
    pub api: ApiConfig,
    /// What they may bring.
    pub uploads: UploadConfig,
    /// The instructions that the kernels of a worker on the CPU are made of, e.g. `avx512`.
    pub instruction_set: Option<&'static str>,
    /// The device of each worker.
    pub devices: Vec<WorkerDevice>,
    /// What the products of the transformer's blocks are rounded to, e.g. `int8`.
    pub quantization: Option<&'static str>,
    /// Most bytes of the results of jobs. One that finds no room is answered 429.
    pub job_memory: usize,
    /// Most bytes of the answers to requests that have an idempotency key; the oldest make way.
    pub replay_memory: usize,
    /// Most bytes of the pictures behind URLs; the oldest make way.
    pub file_memory: usize,
    /// The plans of requests whose cache follows one: those that the workers have.
    pub plans: Plans,
    /// The share of the pictures made with a step cache, from 0 to 1, that are made again without it to compare the two.
    pub cache_audit: f64,
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
    /// How long jobs may go on once the server is told to stop.
    pub drain_timeout: Duration,
}

impl ServerConfig {
    /// The defaults, for a model called `id`.
    pub fn new(id: impl Into<String>) -> Self {
        ServerConfig {
            api: ApiConfig::new(id),
            uploads: UploadConfig::default(),
            instruction_set: None,
            devices: Vec::new(),
            quantization: None,
            job_memory: 1 << 30,
            replay_memory: 512 << 20,
            file_memory: 512 << 20,
            plans: Plans::default(),
            cache_audit: 0.0,
            api_keys: ApiKeys::default(),
            rate_limit: None,
            allowed_hosts: AllowedHosts::Any,
            cors_allow_origins: Vec::new(),
            header_timeout: Duration::from_secs(30),
            pace: Pace { idle: Duration::from_secs(30), min_rate: 4 << 10, total: Duration::from_secs(600) },
            public_url: None,
            max_connections: 4096,
            drain_timeout: Duration::from_secs(60),
        }
    }
}
