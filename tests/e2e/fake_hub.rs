//! A fake Hub on this machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The commit of every revision.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A Hub with one repository, `owner/model`, which needs the token.
#[derive(Clone)]
pub struct Hub {
    pub files: Arc<BTreeMap<String, &'static [u8]>>,
    /// Number of downloads of each file.
    pub downloads: Arc<Mutex<BTreeMap<String, usize>>>,
    /// A file whose second half is sent only once the flag is true.
    pub held: Option<(&'static str, watch::Receiver<bool>)>,
    /// A file whose first download breaks off after half of it.
    pub breaks: Option<&'static str>,
    /// URL that safetensors files redirect to, under another name of this machine.
    pub elsewhere: Option<String>,
    /// The files requested with a range, each with its range.
    pub ranges: Arc<Mutex<Vec<(String, String)>>>,
}

impl Hub {
    /// A Hub with the built-in model.
    pub fn new() -> Self {
        Hub::with(demo::FILES.iter().map(|file| (file.path.to_owned(), file.bytes)))
    }

    pub fn with(files: impl IntoIterator<Item = (String, &'static [u8])>) -> Self {
        let files = Arc::new(files.into_iter().collect());
        let (downloads, ranges) = Default::default();
        Hub { files, downloads, held: None, breaks: None, elsewhere: None, ranges }
    }

    /// Starts serving. Returns the address.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.serve_on(listener).await
    }

    pub async fn serve_on(&self, listener: TcpListener) -> String {
        let app = Router::new()
            .route("/api/models/owner/model/revision/{revision}", get(info))
            .route("/owner/model/resolve/{revision}/{*file}", get(file))
            .route("/elsewhere/{*file}", get(elsewhere))
            .fallback(|| async { (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")], "no such repository") })
            .with_state(self.clone());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    pub fn downloads(&self, file: &str) -> usize {
        self.downloads.lock().unwrap().get(file).copied().unwrap_or(0)
    }
}

async fn info(State(hub): State<Hub>) -> Response {
    let siblings: Vec<_> = hub.files.keys().map(|path| json!({"rfilename": path})).collect();
    axum::Json(json!({"id": "owner/model", "modelId": "owner/model", "sha": COMMIT, "siblings": siblings}))
        .into_response()
}

async fn file(
    State(hub): State<Hub>,
    method: Method,
    Path((_, path)): Path<(String, String)>,
    asked: HeaderMap,
) -> Response {
    if asked.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer hf_test") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(&bytes) = hub.files.get(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let etag = format!("\"{}\"", path.replace('/', "-"));
    if let Some(elsewhere) = hub.elsewhere.filter(|_| path.ends_with(".safetensors")) {
        let linked = [("x-linked-etag", etag), ("x-linked-size", bytes.len().to_string())];
        return (StatusCode::FOUND, linked, [("location", format!("{elsewhere}/{path}"))]).into_response();
    }
    let headers = [("x-repo-commit", COMMIT.to_owned()), ("etag", etag), ("content-length", bytes.len().to_string())];
    if method != Method::GET {
        return (headers, bytes).into_response();
    }
    let times = *hub.downloads.lock().unwrap().entry(path.clone()).and_modify(|times| *times += 1).or_insert(1);
    if let Some(range) = asked.get(header::RANGE) {
        let range = range.to_str().unwrap().to_owned();
        hub.ranges.lock().unwrap().push((path, range.clone()));
        return rest(bytes, &range);
    }
    match hub.held {
        Some((held, until)) if held == path => (headers, halves(bytes, until)).into_response(),
        _ if hub.breaks == Some(&*path) && times == 1 => (headers, half(bytes)).into_response(),
        _ => (headers, bytes).into_response(),
    }
}

/// Serves the bytes of a file. Rejects requests that carry the Hub's token.
async fn elsewhere(State(hub): State<Hub>, Path(path): Path<String>, asked: HeaderMap) -> Response {
    match hub.files.get(&path) {
        Some(&bytes) if !asked.contains_key(header::AUTHORIZATION) => bytes.into_response(),
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// The part of `bytes` from the start of `range` on.
fn rest(bytes: &'static [u8], range: &str) -> Response {
    let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    (StatusCode::PARTIAL_CONTENT, [("content-range", range)], &bytes[start..]).into_response()
}

/// A body that breaks off after the first half of `bytes`.
fn half(bytes: &'static [u8]) -> Body {
    let first = Bytes::from_static(&bytes[..bytes.len() / 2]);
    // The delay lets the first half arrive before the connection breaks.
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Err(std::io::Error::other("broken off"))
    };
    Body::from_stream(futures_util::stream::iter([Ok(first)]).chain(futures_util::stream::once(end)))
}

/// A body of `bytes` whose second half is sent only once `until` is true.
fn halves(bytes: &'static [u8], mut until: watch::Receiver<bool>) -> Body {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let rest = async move {
        let _ = until.wait_for(|open| *open).await;
        Bytes::from_static(second)
    };
    let parts = futures_util::stream::iter([Bytes::from_static(first)]).chain(futures_util::stream::once(rest));
    Body::from_stream(parts.map(Ok::<_, std::convert::Infallible>))
}
