//! End-to-end tests: the built binary with the built-in model on real sockets.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

mod bench;
mod binary;
mod cache;
mod config;
mod edit;
mod fake_hub;
mod generate;
mod healthcheck;
mod hub;
mod image_urls;
mod metrics;
mod output;
mod serve;
mod wire;
