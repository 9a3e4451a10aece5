//! The OpenAI Images API over HTTP: JSON in, pictures out. HTTP and OpenAI's JSON stop here.
//!
//! A request runs through `routes` (which path), `request` (what was typed, and what is meant by it),
//! the scheduler (a ticket a picture; dropping the handler's future, as hyper does when the client
//! leaves, drops the tickets and cancels the jobs), and `answer` (PNG and base64, off the event loop).
//! `connections` takes clients on and `access` lets them in.
//! `error` is the only place that knows which failure is which status, `access_log` writes the one
//! line a request, and `metrics` counts.

mod access;
mod access_log;
mod answer;
mod config;
mod connections;
mod error;
mod metrics;
mod openapi;
mod request;
mod request_id;
mod routes;
mod serve;
mod shutdown;
mod state;
mod trace_context;
#[cfg(test)]
mod tests;

pub use access::{AllowedOrigin, ApiKeys, InvalidKey, RateLimit};
pub use answer::cache_summary;
pub use config::{BuildInfo, ServerConfig};
pub use metrics::Metrics;
pub use routes::app;
pub use serve::serve;
pub use shutdown::stop_on_signals;
pub use state::AppState;
