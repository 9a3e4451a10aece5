//! Helpers shared by the workspace tests.

/// An HTTP client for requests to the server under test.
pub fn http() -> reqwest::Client {
    http_client::http_client().build().expect("a client without settings. This is a bug.")
}
