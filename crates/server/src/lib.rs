//! The OpenAI Images API over HTTP: JSON in, pictures out. HTTP and OpenAI's JSON stop here.
//!
//! A request runs through `routes` (which path), `request` (what was typed, and what is meant by it),
//! the scheduler (a ticket a picture; dropping the handler's future, as hyper does when the client
//! leaves, drops the tickets and cancels the jobs), and `answer` (PNG and base64, off the event loop).
//! `error` is the only place that knows which failure is which status, `access_log` writes the one
//! line a request, and `metrics` counts.

mod access_log;
mod answer;
mod config;
mod error;
mod metrics;
mod request;
mod request_id;
mod routes;
mod serve;
mod shutdown;
mod state;
#[cfg(test)]
mod tests;

pub use answer::cache_summary;
pub use config::ServerConfig;
pub use metrics::Metrics;
pub use routes::app;
pub use serve::serve;
pub use shutdown::stop_on_signals;
pub use state::AppState;
