//! The flags of the HTTP front end: access, timeouts and limits.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::value_parser;
use latentd::Error;
use reqwest::Url;
use server::{
    AllowedHost, AllowedHosts, AllowedOrigin, ApiKeys, ImageFetcher, ImageUrlHost, ImageUrlSchemes, ImageUrls, Pace,
    RateLimit, ServerConfig,
};

use super::mistakes::Mistakes;
use crate::commands::host::Host;

/// [`ImageUrlSchemes`] as a flag's value.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Schemes {
    Https,
    Any,
}

/// Access, timeouts and limits of the HTTP front end.
#[derive(clap::Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct HttpFlags {
    /// A key that authorizes requests, with or without a name for the log; may be repeated. Without any key the server
    /// is open to everybody
    #[arg(long, value_name = "NAME=KEY", value_delimiter = ',', env = "LATENTD_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// A file of keys, one NAME=KEY or KEY per line, # for comments
    #[arg(long, value_name = "FILE", env = "LATENTD_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Pictures that each key may request per minute, and at once (without :BURST as many as per minute). A request
    /// counts its `n`, and one even if it is refused. More are answered with 429
    #[arg(long, value_name = "PER_MINUTE[:BURST]", env = "LATENTD_RATE_LIMIT")]
    rate_limit: Option<RateLimit>,
    /// Allowed values of a request's Host: NAME, *.NAME, an address, or * for all; may be repeated. This machine
    /// (localhost, 127.0.0.1, ::1) and the host of --public-url are always allowed. By default all are, except on a
    /// server without keys that listens on this machine only: a web page could reach it by its own domain name
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "LATENTD_ALLOWED_HOSTS")]
    allowed_hosts: Vec<AllowedHost>,
    /// A web page's origin that may call the server from a browser, or * for all; may be repeated
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', env = "LATENTD_CORS_ALLOW_ORIGIN")]
    cors_allow_origin: Vec<AllowedOrigin>,
    /// Timeout of the head of a connection's first request
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3600), env = "LATENTD_HEADER_TIMEOUT")]
    header_timeout: u64,
    /// Maximum time that an upload may make no progress
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3600), env = "LATENTD_BODY_TIMEOUT")]
    body_timeout: u64,
    /// Maximum time of a whole upload
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(1..=86400), env = "LATENTD_UPLOAD_TIMEOUT")]
    upload_timeout: u64,
    /// Minimum bytes per second, in any half minute, at which a client must send a body or read an answer; 0 for no
    /// bound
    #[arg(long, value_name = "BYTES", default_value = "4KiB", env = "LATENTD_MIN_TRANSFER_RATE")]
    min_transfer_rate: ByteSize,
    /// Maximum bytes of a JSON body, e.g. 2MiB
    #[arg(long, value_name = "BYTES", default_value = "2MiB", env = "LATENTD_BODY_LIMIT")]
    body_limit: ByteSize,
    /// Maximum bytes of the body of an edit, which contains pictures
    #[arg(long, value_name = "BYTES", default_value = "64MiB", env = "LATENTD_UPLOAD_LIMIT")]
    upload_limit: ByteSize,
    /// Fetch pictures that an edit names by URL, over https or also over http (`any`). They are fetched from public
    /// addresses only; a firewall between the server and internal services is still advisable
    #[arg(long, value_name = "SCHEMES", num_args = 0..=1, default_missing_value = "https", require_equals = true, env = "LATENTD_ALLOW_IMAGE_URLS")]
    allow_image_urls: Option<Schemes>,
    /// Hosts that such pictures may come from: HOST, HOST:PORT or *.HOST; may be repeated; by default all
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "LATENTD_IMAGE_URL_HOSTS")]
    image_url_hosts: Vec<ImageUrlHost>,
    /// This server's URL as clients see it, for the URLs of pictures, e.g. https://images.example.com; by default the
    /// host that each request was sent to
    #[arg(long, value_name = "URL", value_parser = public_url, env = "LATENTD_PUBLIC_URL")]
    public_url: Option<String>,
    /// Maximum connections at a time, each of which takes up to 256 KiB besides its upload; more wait for their turn
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = value_parser!(u32).range(1..), env = "LATENTD_MAX_CONNECTIONS")]
    max_connections: u32,
}

impl HttpFlags {
    /// Writes the flags into the front end's settings.
    pub(super) fn settle(&self, config: &mut ServerConfig, mistakes: &mut Mistakes) {
        let before = mistakes.len();
        config.api_keys = self.keys(mistakes);
        config.rate_limit = self.rate_limit;
        // An invalid key has been noted already.
        if self.rate_limit.is_some() && config.api_keys.is_empty() && mistakes.len() == before {
            mistakes.note("`--rate-limit` needs `--api-key` or `--api-key-file`: without keys nobody is told apart");
        }
        config.cors_allow_origins = self.cors_allow_origin.clone();
        config.header_timeout = Duration::from_secs(self.header_timeout);
        config.pace = Pace {
            idle: Duration::from_secs(self.body_timeout),
            min_rate: self.min_transfer_rate.as_u64(),
            total: Duration::from_secs(self.upload_timeout),
        };
        config.uploads.body_limit = self.body_limit.as_u64() as usize;
        config.uploads.upload_limit = self.upload_limit.as_u64() as usize;
        config.uploads.image_urls = self.image_urls(mistakes);
        config.public_url = self.public_url.clone();
        config.max_connections = self.max_connections as usize;
    }

    /// The allowed values of a request's Host, on a server that was configured to listen on `host` and listens on
    /// `local`.
    pub(super) fn allowed_hosts(&self, host: &Host, local: IpAddr, has_keys: bool) -> AllowedHosts {
        let public = self.public_url.as_deref().and_then(|url| Url::parse(url).ok());
        let public = public.and_then(|url| url.host_str()?.parse().ok());
        let own = public.into_iter().chain(host.to_string().parse().ok());
        AllowedHosts::new(self.allowed_hosts.clone(), own.collect(), local, has_keys)
    }

    fn image_urls(&self, mistakes: &mut Mistakes) -> Option<ImageFetcher> {
        let Some(schemes) = self.allow_image_urls else {
            if !self.image_url_hosts.is_empty() {
                mistakes.note("`--image-url-hosts` needs `--allow-image-urls`: nothing is fetched without it");
            }
            return None;
        };
        let schemes = match schemes {
            Schemes::Https => ImageUrlSchemes::Https,
            Schemes::Any => ImageUrlSchemes::Any,
        };
        let fetcher = ImageFetcher::new(ImageUrls { schemes, hosts: self.image_url_hosts.clone() });
        fetcher.map_err(|err| mistakes.note(format!("`--allow-image-urls` cannot be had: {err}"))).ok()
    }

    /// The keys of both flags.
    fn keys(&self, mistakes: &mut Mistakes) -> ApiKeys {
        let mut keys = ApiKeys::default();
        // A secret of several lines has one key per line.
        let lines = |entry: &String| match entry.trim() {
            "" => vec![String::new()],
            entry => entry.lines().map(str::to_owned).collect(),
        };
        for (i, entry) in self.api_key.iter().flat_map(lines).enumerate() {
            if let Err(err) = keys.add(&entry) {
                mistakes.note(format!("`--api-key`, number {}: {err}", i + 1));
            }
        }
        if let Some(path) = &self.api_key_file {
            add_file(&mut keys, path, mistakes);
        }
        keys
    }
}

fn public_url(text: &str) -> Result<String, &'static str> {
    let is_absolute =
        ["http://", "https://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    is_absolute.then(|| text.to_owned()).ok_or("must begin with http:// or https://")
}

fn add_file(keys: &mut ApiKeys, path: &Path, mistakes: &mut Mistakes) {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: path.display().to_string(), source });
    let Some(text) = mistakes.take(text) else { return };
    let mut is_empty = true;
    for (line, entry) in ApiKeys::entries(&text) {
        is_empty = false;
        if let Err(err) = keys.add(entry) {
            mistakes.note(format!("{}, line {line}: {err}", path.display()));
        }
    }
    // Without this check, an empty file would leave the server open to everybody.
    if is_empty {
        mistakes.note(format!("{}: there is no key in it", path.display()));
    }
}
