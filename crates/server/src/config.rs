//! What the operator decides about the front end. Nothing is parsed here.

use std::time::Duration;

use cache::CacheConfig;
use diffusion::Limits;

/// The settings of the front end.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What requests may call the model: first its id, then aliases. Never empty.
    pub served_model_names: Vec<String>,
    /// The bounds of a request.
    pub limits: Limits,
    /// Most bytes of a JSON body.
    pub body_limit: usize,
    /// The step cache that requests run under, if any.
    pub cache: Option<CacheConfig>,
    /// Whether a request may bring cache settings of its own.
    pub allow_request_cache_config: bool,
    /// Whether every picture's cache is summed up in the log.
    pub cache_summary: bool,
    /// Whether a request may bring a priority; otherwise the field is ignored.
    pub priorities: bool,
    /// How long jobs may go on once the server is told to stop.
    pub drain_timeout: Duration,
}

impl ServerConfig {
    /// The defaults, for a model called `id`.
    pub fn new(id: impl Into<String>) -> Self {
        ServerConfig {
            served_model_names: vec![id.into()],
            limits: Limits::default(),
            body_limit: 2 << 20,
            cache: None,
            allow_request_cache_config: false,
            cache_summary: false,
            priorities: true,
            drain_timeout: Duration::from_secs(60),
        }
    }

    /// The model's id.
    pub(crate) fn model_id(&self) -> &str {
        self.served_model_names.first().expect("a model has a name. This is a bug.")
    }
}
