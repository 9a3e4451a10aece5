//! Pictures that a request names by `http(s)` URL.
//!
//! Off unless the operator enables it: a server that fetches for its clients can be made to reach what only it can
//! reach (server-side request forgery). `policy` and `address` decide on plain values what is allowed; `fetch` acts on
//! that.

mod address;
mod fetch;
mod places;
mod policy;

use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use diffusion::InvalidRequest;
use futures_util::future::try_join_all;
use url::Url;

pub use fetch::ImageFetcher;
pub use policy::{ImageUrlHost, ImageUrlSchemes, ImageUrls, InvalidHost};

use super::body::Upload;
use super::sources::{NamedPicture, SentPicture};
use crate::api::error::ApiError;
use crate::api::request::picture_bounds::file_too_large;
use fetch::FetchError;

/// Returns the pictures of a request after fetching the remote ones concurrently. They count as if the request had
/// uploaded them.
///
/// # Errors
/// The first picture that cannot be fetched, and why.
pub(crate) async fn fetched(
    named: Vec<NamedPicture>,
    fetcher: Option<&ImageFetcher>,
    upload: &mut Upload,
    param: &'static str,
) -> Result<Vec<SentPicture>, ApiError> {
    let client = upload.client();
    let upload = Mutex::new(upload);
    let count = |piece: &Bytes| {
        let mut upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
        upload.account(piece).map_err(|err| Failed::Counting(together(err, param)))
    };
    try_join_all(named.into_iter().map(|named| async move {
        match (named, fetcher) {
            (NamedPicture::Sent(source), _) => Ok(source),
            (NamedPicture::Elsewhere(url), Some(fetcher)) => {
                let file = fetcher.fetch(url.clone(), client, count).await;
                file.map(SentPicture::File).map_err(|failed| failed.told(&url, param))
            }
            (NamedPicture::Elsewhere(_), None) => unreachable!("such a URL was refused. This is a bug."),
        }
    }))
    .await
}

enum Failed {
    Fetching(FetchError),
    Counting(ApiError),
}

impl From<FetchError> for Failed {
    fn from(err: FetchError) -> Self {
        Failed::Fetching(err)
    }
}

impl Failed {
    fn told(self, url: &Url, param: &'static str) -> ApiError {
        match self {
            Failed::Fetching(FetchError::TooLarge) => ApiError::ImageTooLarge(file_too_large(param)),
            Failed::Fetching(err) => {
                let bound = format!("name pictures that can be fetched, but one {err}");
                ApiError::InvalidImage(InvalidRequest::new(param, bound, url))
            }
            Failed::Counting(err) => err,
        }
    }
}

/// The body itself was within the limit.
fn together(err: ApiError, param: &'static str) -> ApiError {
    match err {
        ApiError::BodyTooLarge { limit } => {
            let bound = format!("have at most {} bytes, together with the request", limit.bytes);
            ApiError::ImageTooLarge(InvalidRequest::new(param, bound, "more"))
        }
        err => err,
    }
}
