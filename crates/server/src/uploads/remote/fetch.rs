//! Fetching pictures within the operator's policy.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, header};
use tokio::time::timeout;
use url::Url;

use super::address::is_public;
use super::places::FetchPlaces;
use super::policy::{ImageUrls, Refusal};
use crate::api::request::picture_bounds::MAX_IMAGE_BYTES;
use crate::uploads::Client as Caller;

/// Time limit for a picture with all its redirects.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most redirects for one picture.
const MAX_REDIRECTS: usize = 3;

/// A client that fetches pictures; a cheap clone.
#[derive(Clone)]
pub struct ImageFetcher {
    client: Client,
    allowed: Arc<ImageUrls>,
    is_public: fn(IpAddr) -> bool,
    places: Arc<FetchPlaces>,
}

impl ImageFetcher {
    /// A fetcher for the URLs that `allowed` permits.
    ///
    /// # Errors
    /// The system has no certificates to verify servers with.
    pub fn new(allowed: ImageUrls) -> Result<Self, Box<dyn Error + Send + Sync>> {
        ImageFetcher::with(allowed, is_public, Arc::new(lookup), TIMEOUT)
    }

    fn with(
        allowed: ImageUrls,
        is_public: fn(IpAddr) -> bool,
        lookup: Lookup,
        timeout: Duration,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let allowed = Arc::new(allowed);
        let every_hop = allowed.clone();
        let redirects = Policy::custom(move |attempt| match next_hop(&attempt, &every_hop, is_public) {
            Ok(()) => attempt.follow(),
            Err(refused) => attempt.error(refused),
        });
        let client = http_client::http_client()
            .user_agent(concat!("latentd/", env!("CARGO_PKG_VERSION")))
            // A proxy would resolve names itself.
            .no_proxy()
            .referer(false)
            .redirect(redirects)
            .dns_resolver(Arc::new(PublicNames { lookup, is_public }))
            // A pooled connection could outlive the address that was checked.
            .pool_max_idle_per_host(0)
            .timeout(timeout)
            .build()?;
        Ok(ImageFetcher { client, allowed, is_public, places: Arc::default() })
    }

    /// Fetches only from `host` on this machine.
    #[cfg(test)]
    pub(crate) fn of_this_machine(host: &str) -> Self {
        let allowed = ImageUrls { schemes: super::ImageUrlSchemes::Any, hosts: vec![host.parse().unwrap()] };
        ImageFetcher::with(allowed, |address| address.is_loopback(), Arc::new(lookup), TIMEOUT).unwrap()
    }

    /// Checks the text of a URL against the policy.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn check(&self, url: &str) -> Result<Url, String> {
        let url = Url::parse(url).map_err(|err| format!("be a URL: {err}"))?;
        self.allowed.check(&url, self.is_public).map_err(|refusal| refusal.to_string())?;
        Ok(url)
    }

    /// Fetches the file at a checked URL for `caller`. `take` is called with each piece as it arrives. If all places
    /// are taken, it waits for one, at most as long as a picture may take.
    ///
    /// # Errors
    /// The fetch fails, or `take` does.
    pub(super) async fn fetch<E: From<FetchError>>(
        &self,
        url: Url,
        caller: Caller,
        mut take: impl FnMut(&Bytes) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let place = timeout(TIMEOUT, self.places.take(caller)).await;
        let _place = place.map_err(|_| FetchError::TimedOut)?;
        let request = self.client.get(url).header(header::ACCEPT, "image/*");
        let mut response = request.send().await.map_err(FetchError::from)?;
        check_head(&response)?;
        let mut file = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(FetchError::from)? {
            take(&piece)?;
            if file.len() + piece.len() > MAX_IMAGE_BYTES {
                return Err(FetchError::TooLarge.into());
            }
            file.extend_from_slice(&piece);
        }
        Ok(file)
    }
}

impl fmt::Debug for ImageFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageFetcher").field(&self.allowed).finish()
    }
}

/// Why a picture could not be fetched; the text follows "but one ".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("leads to a URL that is not allowed: it must {0}")]
    Refused(Refusal),
    #[error("was redirected more than {MAX_REDIRECTS} times")]
    Redirects,
    #[error("took too long")]
    TimedOut,
    #[error("could not be reached")]
    Unreachable,
    #[error("answered {0}")]
    Status(u16),
    #[error("is no picture but {0:?}")]
    NoPicture(String),
    #[error("has more than {MAX_IMAGE_BYTES} bytes")]
    TooLarge,
}

impl From<reqwest::Error> for FetchError {
    fn from(err: reqwest::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&err);
        while let Some(err) = cause {
            if let Some(refusal) = err.downcast_ref::<Refusal>() {
                return FetchError::Refused(*refusal);
            }
            if err.is::<TooManyRedirects>() {
                return FetchError::Redirects;
            }
            cause = err.source();
        }
        if err.is_timeout() { FetchError::TimedOut } else { FetchError::Unreachable }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("too many redirects")]
struct TooManyRedirects;

/// Decides whether to follow a redirect: every hop must satisfy the policy.
fn next_hop(
    attempt: &Attempt<'_>,
    allowed: &ImageUrls,
    is_public: fn(IpAddr) -> bool,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    // The first entry is the URL itself.
    if attempt.previous().len() > MAX_REDIRECTS {
        return Err(TooManyRedirects.into());
    }
    Ok(allowed.check(attempt.url(), is_public)?)
}

/// Checks by its headers that an answer is a picture of an allowed size.
fn check_head(response: &Response) -> Result<(), FetchError> {
    if !response.status().is_success() {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or("nothing");
    if !content_type.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("image/")) {
        return Err(FetchError::NoPicture(content_type.chars().take(80).collect()));
    }
    if response.content_length().is_some_and(|length| length > MAX_IMAGE_BYTES as u64) {
        return Err(FetchError::TooLarge);
    }
    Ok(())
}

/// Resolves a name to addresses.
type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> + Send + Sync>;

fn lookup(name: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// A resolver for names that lead only to public addresses. The connection uses the checked addresses: there is no
/// second lookup.
struct PublicNames {
    lookup: Lookup,
    is_public: fn(IpAddr) -> bool,
}

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, is_public) = ((self.lookup)(name.as_str().to_owned()), self.is_public);
        Box::pin(async move {
            let found = found.await?;
            if !found.iter().all(|&address| is_public(address)) {
                return Err(Refusal::Address.into());
            }
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
