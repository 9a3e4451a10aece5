//! The OpenAI Images API over HTTP: JSON in, pictures out. HTTP and OpenAI's JSON stop here.
//!
//! A request runs through `routes` (which path), `request` (what was typed, and what is meant by it),
//! the scheduler (a ticket a picture, all of them a `run`), `live` (a task drives the run for whoever
//! watches; when the last watcher leaves, as hyper lets it when its client does, the tickets drop and
//! cancel the jobs), and `answer` (files, JSON and events, off the event loop). `jobs` are watched by the
//! server itself, `idempotency` lets requests that come again watch what goes on already, and `files`
//! keeps pictures behind URLs; `expiry` lets go of all three in time. `audits` has pictures made again without
//! the step cache while nobody waits, and compares.
//! `connections` takes clients on and `access` lets them in.
//! `error` is the only place that knows which failure is which status, `access_log` writes the one
//! line a request, and `metrics` counts.

mod access;
mod access_log;
mod answer;
mod audits;
mod clock;
mod config;
mod connections;
mod devices;
mod error;
mod expiry;
mod files;
mod guard;
mod idempotency;
mod jobs;
mod live;
mod metrics;
mod openapi;
mod paths;
mod public_url;
mod request;
mod request_id;
mod routes;
mod run;
mod serve;
mod shutdown;
mod state;
#[cfg(test)]
mod tests;
mod trace_context;

pub use access::{AllowedHost, AllowedHosts, AllowedOrigin, ApiKeys, InvalidAllowedHost, InvalidKey, RateLimit};
pub use answer::cache_summary;
pub use config::{BuildInfo, ServerConfig};
pub use connections::Pace;
pub use devices::{ModelPart, WorkerDevice, WorkerGpu};
pub use metrics::Metrics;
pub use request::{ImageFetcher, ImageUrlHost, ImageUrlSchemes, ImageUrls, InputPictures, InvalidHost, input_pictures};
pub use routes::app;
pub use serve::serve;
pub use shutdown::stop_on_signals;
pub use state::AppState;
