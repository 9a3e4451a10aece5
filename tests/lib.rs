//! Helpers shared by the tests of the whole.

/// A client for what the tests ask of a server.
pub fn http() -> reqwest::Client {
    http_client::http_client().build().expect("a client without settings. This is a bug.")
}
