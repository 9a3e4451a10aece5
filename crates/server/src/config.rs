//! The front end's settings, already parsed.

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
    /// Bounds of what requests may ask for.
    pub api: ApiConfig,
    /// Bounds of what requests may upload.
    pub uploads: UploadConfig,
    /// The instruction set of the CPU kernels, e.g. `avx512`.
    pub instruction_set: Option<&'static str>,
    /// The device of each worker.
    pub devices: Vec<WorkerDevice>,
    /// Format to which the linear layers of the transformer's blocks are quantized, e.g. `int8`.
    pub quantization: Option<&'static str>,
    /// Most bytes of job results. A job that does not fit is answered 429.
    pub job_memory: usize,
    /// Most bytes of answers kept for idempotency keys; the oldest are dropped first.
    pub replay_memory: usize,
    /// Most bytes of the pictures behind URLs; the oldest are dropped first.
    pub file_memory: usize,
    /// The cache plans that the workers follow.
    pub plans: Plans,
    /// Share of the pictures made with a step cache, from 0 to 1, that are made again without it for comparison.
    pub cache_audit: f64,
    /// The accepted API keys; without any, no key is needed.
    pub api_keys: ApiKeys,
    /// Rate limit of each key, in pictures.
    pub rate_limit: Option<RateLimit>,
    /// The host names that requests may address.
    pub allowed_hosts: AllowedHosts,
    /// The web pages that may call the server from a browser.
    pub cors_allow_origins: Vec<AllowedOrigin>,
    /// Time for the head of a connection's first request; later heads may take longer.
    pub header_timeout: Duration,
    /// Limits on slow clients. Of an answer only the rate is limited.
    pub pace: Pace,
    /// Base of the URLs in answers. Without it, it is derived from each request.
    pub public_url: Option<String>,
    /// Most simultaneous connections; further ones wait.
    pub max_connections: usize,
    /// Time for jobs to finish once the server is told to stop.
    pub drain_timeout: Duration,
}

impl ServerConfig {
    /// The default settings, for a model called `id`.
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
