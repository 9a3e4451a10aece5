//! OpenAI's Images API as values: its requests, answers and errors, and their description. This layer has no sockets,
//! files or untrusted picture bytes, and knows nothing of the rest of the server.

pub(crate) mod answer;
pub(crate) mod bounds;
pub(crate) mod config;
pub(crate) mod devices;
pub(crate) mod error;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod job;
pub(crate) mod milliseconds;
pub(crate) mod openapi;
pub(crate) mod paths;
pub(crate) mod request;
