//! What the operator decides about the API itself.

use cache::CacheConfig;
use diffusion::Limits;

/// What requests may ask for, and what they get where they say nothing.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// What requests may call the model: first its id, then aliases. Never empty.
    pub served_model_names: Vec<String>,
    /// The bounds of a request.
    pub limits: Limits,
    /// The step cache that requests run under, if any.
    pub cache: Option<CacheConfig>,
    /// Whether a request may bring cache settings of its own.
    pub allow_request_cache_config: bool,
    /// Whether every picture's cache is summed up in the log.
    pub cache_summary: bool,
    /// Whether a request may bring a priority; otherwise the field is ignored.
    pub priorities: bool,
    /// What the program was built for and with.
    pub build: BuildInfo,
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

impl ApiConfig {
    /// The defaults, for a model called `id`.
    pub fn new(id: impl Into<String>) -> Self {
        ApiConfig {
            served_model_names: vec![id.into()],
            limits: Limits::default(),
            cache: None,
            allow_request_cache_config: false,
            cache_summary: false,
            priorities: true,
            build: BuildInfo::default(),
        }
    }

    /// The model's id.
    pub(crate) fn model_id(&self) -> &str {
        self.served_model_names.first().expect("a model has a name. This is a bug.")
    }
}
