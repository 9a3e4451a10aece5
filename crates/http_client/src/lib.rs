//! The HTTP client for all outgoing requests.

use reqwest::ClientBuilder;

/// A client builder with TLS by rustls and ring, which trusts the system's certificates.
///
/// reqwest's default is aws-lc, which takes a minute to build.
pub fn http_client() -> ClientBuilder {
    use_ring();
    reqwest::Client::builder()
}

/// Makes ring the process's TLS provider, for libraries that build a client themselves. The first choice stays.
pub fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
