//! HTTP requests to the Hub: a repository's list of files, the metadata of a file, and its bytes.

use std::io;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, RANGE};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::cache::stays_inside;
use super::settings::HubSettings;

/// Limits on making a connection and on silence while reading from it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Retries of a transient failure, and the wait before the first of them. The wait doubles each time.
const RETRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Sends requests about one model repository.
pub(crate) struct HubClient {
    /// Follows all redirects: large files are stored on other hosts.
    http: Client,
    /// Follows redirects on the same host only. The Hub's response has the file's tag, the storage host's does not.
    heads: Client,
    endpoint: Url,
    /// Owner and name.
    repository: Vec<String>,
    token: Option<String>,
}

/// A revision's commit and files.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// A file's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHead {
    /// Identifies the contents.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
}

/// Why a request to the Hub failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("no such repository")]
    NoRepository,
    #[error("no such revision")]
    NoRevision,
    #[error("{0}")]
    Closed(StatusCode),
    #[error("{url} answered {status}")]
    Status { url: Url, status: StatusCode },
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another program downloads one of the files.
    #[error("another program downloads it")]
    Locked,
}

impl HubError {
    /// Whether a retry may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            HubError::Unreachable(_) => true,
            HubError::Status { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 416 | 425 | 429)
            }
            _ => false,
        }
    }
}

impl From<reqwest::Error> for HubError {
    /// Includes the innermost cause, which is more specific than reqwest's own message.
    fn from(err: reqwest::Error) -> Self {
        let mut innermost: &dyn std::error::Error = &err;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let reason = innermost.to_string();
        let sentence = err.to_string();
        HubError::Unreachable(if sentence == reason { sentence } else { format!("{sentence}: {reason}") })
    }
}

/// The Hub's JSON about a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl HubClient {
    /// A client for repository `id` (`owner/name`).
    ///
    /// # Errors
    /// The endpoint is not a URL, or the system has no certificates to check it with.
    pub(crate) fn new(id: &str, settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = Url::parse(&settings.endpoint).ok().filter(|url| url.has_host());
        let endpoint = endpoint
            .ok_or_else(|| HubError::Malformed(format!("HF_ENDPOINT must be a URL. Given: {}", settings.endpoint)))?;
        let client = |redirects| {
            http_client::http_client()
                .user_agent(&settings.user_agent)
                // HTTP/2 would share one connection's flow-control window among all files.
                .http1_only()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .redirect(redirects)
                .build()
        };
        Ok(HubClient {
            http: client(Policy::default())?,
            heads: client(Policy::custom(|attempt| match is_same_host(&attempt) {
                true => attempt.follow(),
                false => attempt.stop(),
            }))?,
            endpoint,
            repository: id.split('/').map(str::to_owned).collect(),
            token: settings.token.clone(),
        })
    }

    /// The commit and the files of a revision.
    pub(crate) async fn list(&self, revision: &str) -> Result<Listing, HubError> {
        let url = self.url(&["api", "models"], &["revision", revision]);
        let answer = self.answer(|| self.request(&self.http, Method::GET, &url)).await?;
        let info: Info = serde_json::from_slice(&answer.bytes().await?)
            .map_err(|err| HubError::Malformed(format!("{url} answered no repository: {err}")))?;
        let files: Vec<_> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(name) = files.iter().chain([&info.sha]).find(|name| !stays_inside(name)) {
            return Err(HubError::Malformed(format!("{url} names a file `{name}`")));
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// The metadata of `file` of a commit.
    pub(crate) async fn head(&self, commit: &str, file: &str) -> Result<FileHead, HubError> {
        let url = self.file_url(commit, file);
        let answer = self.answer(|| self.request(&self.heads, Method::HEAD, &url)).await?;
        let head = file_head(answer.headers(), answer.status());
        head.ok_or_else(|| HubError::Malformed(format!("{url} has no usable ETag")))
    }

    /// The bytes of `file` of a commit from `start` on: where the response starts, which is 0 if the server ignores
    /// ranges, and the response.
    pub(crate) async fn get(&self, commit: &str, file: &str, start: u64) -> Result<(u64, Response), HubError> {
        let url = self.file_url(commit, file);
        let request = self.request(&self.http, Method::GET, &url);
        let request = if start > 0 { request.header(RANGE, format!("bytes={start}-")) } else { request };
        let answer = check(request.send().await?)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(answer.headers(), start) => Ok((start, answer)),
            StatusCode::PARTIAL_CONTENT => {
                Err(HubError::Malformed(format!("{url} answered another part than was asked for")))
            }
            _ => Ok((0, answer)),
        }
    }

    fn request(&self, client: &Client, method: Method, url: &Url) -> RequestBuilder {
        // Compressed responses would not have the file's size.
        let request = client.request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The response to `request`, with retries.
    async fn answer(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, HubError> {
        let mut retries = Retries::default();
        loop {
            match request().send().await.map_err(HubError::from).and_then(check) {
                Err(err) if err.is_transient() => retries.wait(err).await?,
                result => return result,
            }
        }
    }

    fn file_url(&self, commit: &str, file: &str) -> Url {
        let end: Vec<_> = ["resolve", commit].into_iter().chain(file.split('/')).collect();
        self.url(&[], &end)
    }

    /// `start`, the repository and `end` as path segments below the endpoint. A slash in a segment is escaped.
    fn url(&self, start: &[&str], end: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        let mut path = url.path_segments_mut().expect("a URL with a host has a path. This is a bug.");
        path.pop_if_empty().extend(start).extend(&self.repository).extend(end);
        drop(path);
        url
    }
}

/// Counts retries and waits before each.
#[derive(Default)]
pub(crate) struct Retries {
    done: u32,
}

impl Retries {
    /// Waits before the next retry.
    ///
    /// # Errors
    /// `err`, if no retries are left.
    pub(crate) async fn wait(&mut self, err: HubError) -> Result<(), HubError> {
        if self.done == RETRIES {
            return Err(err);
        }
        tracing::debug!(error = %err, "trying again");
        tokio::time::sleep(FIRST_WAIT * 2u32.pow(self.done)).await;
        self.done += 1;
        Ok(())
    }
}

/// Whether a redirect stays on the host of the first request.
fn is_same_host(attempt: &Attempt<'_>) -> bool {
    let previous = attempt.previous();
    previous.len() <= 10 && previous.first().is_some_and(|first| first.host_str() == attempt.url().host_str())
}

/// The response, unless its status is an error. A redirect is valid: the Hub sends it for files stored elsewhere.
fn check(answer: Response) -> Result<Response, HubError> {
    let status = answer.status();
    if status.is_success() || status.is_redirection() {
        return Ok(answer);
    }
    Err(match (answer.headers().get("x-error-code").and_then(|code| code.to_str().ok()), status) {
        (Some("RepoNotFound"), _) => HubError::NoRepository,
        (Some("RevisionNotFound"), _) => HubError::NoRevision,
        (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => HubError::Closed(status),
        _ => HubError::Status { url: answer.url().clone(), status },
    })
}

/// The metadata in a response's headers. For a file that is stored elsewhere, `x-linked-*` has its tag and size.
fn file_head(headers: &HeaderMap, status: StatusCode) -> Option<FileHead> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let etag = text("x-linked-etag").or_else(|| text(ETAG.as_str()))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    // A redirect's Content-Length is not the file's.
    let length = text(CONTENT_LENGTH.as_str()).filter(|_| status.is_success());
    let size = text("x-linked-size").or(length).and_then(|size| size.parse().ok());
    (stays_inside(&etag) && !etag.contains(['/', '\\'])).then_some(FileHead { etag, size })
}

/// Whether a partial response begins at `start`.
fn begins_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&'static str, &'static str)], status: StatusCode) -> Option<FileHead> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        file_head(&headers.collect(), status)
    }

    #[test]
    fn a_file_s_tag_and_size_are_the_hub_s_own() {
        let some = |etag: &str, size| Some(FileHead { etag: etag.into(), size });
        let linked = [("etag", "\"of-the-redirect\""), ("x-linked-etag", "\"sha\""), ("content-length", "1000")];
        let sized = [linked.as_slice(), &[("x-linked-size", "7")]].concat();
        assert_eq!(head(&sized, StatusCode::FOUND), some("sha", Some(7)));
        assert_eq!(head(&linked, StatusCode::FOUND), some("sha", None), "a redirect's length is not the file's");
        assert_eq!(head(&[("etag", "W/\"oid\""), ("content-length", "5")], StatusCode::OK), some("oid", Some(5)));
    }

    #[test]
    fn a_tag_that_leads_elsewhere_is_none() {
        for etag in ["\"\"", "\"..\"", "\"../../token\"", "\"/etc/passwd\"", "\"a/b\""] {
            assert_eq!(head(&[("etag", etag)], StatusCode::OK), None, "{etag}");
        }
        assert_eq!(head(&[], StatusCode::OK), None);
    }

    #[test]
    fn a_revision_with_a_slash_is_one_part_of_the_path() {
        let settings = HubSettings {
            cache_dir: "/none".into(),
            endpoint: "https://mirror.example/hf/".into(),
            token: None,
            offline: false,
            user_agent: "latentd".into(),
        };
        let client = HubClient::new("owner/model", &settings).unwrap();
        let url = client.url(&["api", "models"], &["revision", "refs/pr/1"]);
        assert_eq!(url.as_str(), "https://mirror.example/hf/api/models/owner/model/revision/refs%2Fpr%2F1");
        let url = client.file_url("c0ffee", "vae/a b.json");
        assert_eq!(url.as_str(), "https://mirror.example/hf/owner/model/resolve/c0ffee/vae/a%20b.json");
        let bad = HubSettings { endpoint: "mirror".into(), ..settings };
        let message = HubClient::new("owner/model", &bad).map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "HF_ENDPOINT must be a URL. Given: mirror");
    }
}
