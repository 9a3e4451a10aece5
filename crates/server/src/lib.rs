//! The OpenAI Images API over HTTP: JSON in, pictures out. HTTP and OpenAI's JSON stop here.
//!
//! Three rooms, each of which knows only those before it:
//!
//! - `api`: what requests ask for and what they are answered, as values. `api/error.rs` is the only place that knows
//!   which failure is which status.
//! - `uploads`: bodies, forms and pictures, as they come from strangers.
//! - the server, which is all else. A request runs through `routes` (which path), `uploads` and `api` (what was typed, and
//!   what is meant by it), the scheduler (a ticket a picture, all of them a `run`) and `live`: a task drives the run for
//!   whoever watches. When the last watcher leaves, as hyper lets it when its client does, the tickets drop and cancel the
//!   jobs. `jobs` are watched by the server itself, `idempotency` lets requests that come again watch what goes on already,
//!   and `files` keeps pictures behind URLs; `expiry` lets go of all three in time. `audits` has pictures made again
//!   without the step cache while nobody waits, and compares. `connections` takes clients on and `access` lets them in.
//!   `access_log` writes the one line a request, and `metrics` counts.

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
