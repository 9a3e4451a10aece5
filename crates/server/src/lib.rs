//! The OpenAI Images API over HTTP: JSON in, pictures out. HTTP and OpenAI's JSON stop here.
//!
//! Three layers, each of which knows only those before it:
//!
//! - `api`: requests, answers and errors as values. `api/error.rs` is the only place that maps failures to statuses.
//! - `uploads`: bodies, forms and pictures from untrusted clients.
//! - the server: everything else. A request runs through `routes` (by path), then `uploads` and `api` (wire form to
//!   valid request). The scheduler returns one ticket a picture; together they are a `run`, which a task in `live`
//!   drives for its watchers. Hyper drops the handler of a client that left; when the last watcher leaves, the tickets
//!   drop and cancel the jobs. The server itself watches async `jobs`. `idempotency` lets a repeated request watch the
//!   run of the first one, and `files` keeps pictures behind URLs; `expiry` removes entries of all three when their
//!   time is over. `audits` makes pictures again without the step cache while the scheduler is idle, and compares them.
//!   `connections` accepts clients and `access` authorises them. `access_log` writes one line a request, and `metrics`
//!   counts.

mod access;
mod access_log;
mod api;
mod audits;
mod clock;
mod config;
mod connections;
mod expiry;
mod files;
mod guard;
mod idempotency;
mod jobs;
mod live;
mod metrics;
mod public_url;
mod request_id;
mod routes;
mod run;
mod serve;
mod shutdown;
mod state;
#[cfg(test)]
mod tests;
mod trace_context;
mod uploads;

pub use access::{AllowedHost, AllowedHosts, AllowedOrigin, ApiKeys, InvalidAllowedHost, InvalidKey, RateLimit};
pub use api::answer::cache_summary;
pub use api::config::{ApiConfig, BuildInfo};
pub use api::devices::{ModelPart, WorkerDevice, WorkerGpu};
pub use config::ServerConfig;
pub use connections::Pace;
pub use metrics::Metrics;
pub use routes::app;
pub use serve::serve;
pub use shutdown::stop_on_signals;
pub use state::AppState;
pub use uploads::{ImageFetcher, ImageUrlHost, ImageUrlSchemes, ImageUrls, InvalidHost, UploadConfig};
