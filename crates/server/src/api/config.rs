//! The operator's settings for the API.

use cache::CacheConfig;
use diffusion::Limits;

/// What requests may ask for, and the defaults.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Names that requests may use for the model: its id, then aliases. Never empty.
    pub served_model_names: Vec<String>,
    /// The bounds of a request.
    pub limits: Limits,
    /// The step cache of requests without their own settings, if any.
    pub cache: Option<CacheConfig>,
    /// Whether a request may set its own step cache.
    pub allow_request_cache_config: bool,
    /// Whether the log gets a summary of each picture's step cache.
    pub cache_summary: bool,
    /// Whether a request may set a priority; otherwise the field is ignored.
    pub priorities: bool,
    /// How the program was built.
    pub build: BuildInfo,
}

/// How the program was built.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct BuildInfo {
    /// The program's version.
    pub version: &'static str,
    /// Processor architecture and system, e.g. `x86_64-linux`.
    pub target: String,
    /// The optional features that it contains.
    pub features: Vec<&'static str>,
}

impl Default for BuildInfo {
    /// This version for this machine, without optional features.
    fn default() -> Self {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        BuildInfo { version: env!("CARGO_PKG_VERSION"), target, features: Vec::new() }
    }
}

impl ApiConfig {
    /// The default settings, for a model called `id`.
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
