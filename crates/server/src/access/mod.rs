//! Access control: API keys and their limits, and a request's Host and Origin.

mod cors;
mod hosts;
mod keys;
mod origin;
mod rate_limit;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, Method, header};
use diffusion::InvalidRequest;

use crate::api::error::ApiError;
use crate::config::ServerConfig;
use crate::uploads::Client;

pub use cors::AllowedOrigin;
pub(crate) use cors::cors_layer;
pub(crate) use hosts::allowed_host;
pub use hosts::{AllowedHost, AllowedHosts, InvalidAllowedHost};
pub use keys::{ApiKeys, InvalidKey};
pub(crate) use origin::{allowed_origin, authority};
pub use rate_limit::RateLimit;
use rate_limit::{RateLimiter, Standing};

/// Azure's header for a key.
const API_KEY: &str = "api-key";

/// The sender of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The name of the caller's key; `None` on a server without keys.
    pub(crate) name: Option<Arc<str>>,
    /// A number that identifies a caller for the life of the process; 0 for callers that cannot be told apart.
    pub(crate) owner: u64,
    /// The client whose share of the upload, picture and fetch limits the request uses.
    pub(crate) client: Client,
}

/// The keys and the state of their limits.
#[derive(Debug)]
pub(crate) struct Access {
    keys: ApiKeys,
    limiter: Option<RateLimiter>,
}

impl Access {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let keys = config.api_keys.clone();
        let limiter = config.rate_limit.map(|limit| RateLimiter::new(limit, keys.names().len(), Instant::now()));
        Access { keys, limiter }
    }

    /// Returns the sender of these headers from `address`.
    ///
    /// # Errors
    /// The server has keys, and the headers hold none of them.
    pub(crate) fn caller(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Caller, ApiError> {
        if self.keys.is_empty() {
            let owner = bearer(headers).map_or(0, owner);
            return Ok(Caller { name: None, owner, client: Client::new(None, address) });
        }
        let given = bearer(headers).or_else(|| headers.get(API_KEY)?.to_str().ok());
        let holder = given.and_then(|given| self.keys.holder(given));
        let holder = holder.ok_or(ApiError::InvalidApiKey { given: given.is_some() })?;
        let name = Some(self.keys.names()[holder].clone());
        Ok(Caller { name, owner: holder as u64 + 1, client: Client::new(Some(holder), address) })
    }

    /// Takes one picture from the caller's limit, if this kind of request is limited: only those that may make pictures
    /// are. `None` without limits.
    pub(crate) fn count(&self, caller: &Caller, method: &Method) -> Option<Standing> {
        let (limiter, holder) = self.bucket(caller.owner).filter(|_| method == Method::POST)?;
        limiter.take(holder, 1, Instant::now())
    }

    /// The state of the caller's limit.
    pub(crate) fn standing(&self, caller: &Caller) -> Option<Standing> {
        let (limiter, holder) = self.bucket(caller.owner)?;
        limiter.take(holder, 0, Instant::now())
    }

    /// Takes the pictures of `owner`'s request beyond the one that was taken when it arrived.
    ///
    /// # Errors
    /// The limit has too few left, or is smaller than the request. The first picture is given back then, because the
    /// request starts nothing.
    pub(crate) fn count_rest(&self, owner: u64, pictures: usize) -> Result<Counted<'_>, ApiError> {
        let Some((limiter, holder)) = self.bucket(owner) else { return Ok(Counted(None)) };
        if pictures > limiter.burst() as usize {
            limiter.give_back(holder, 1);
            let bound = format!("be at most {} (the server's --rate-limit)", limiter.burst());
            return Err(InvalidRequest::new("n", bound, pictures).into());
        }
        let rest = pictures as u32 - 1;
        let standing = limiter.take(holder, rest, Instant::now());
        let Some(wait) = standing.and_then(|standing| standing.refused_for) else {
            return Ok(Counted(Some((limiter, holder, rest))));
        };
        limiter.give_back(holder, 1);
        Err(ApiError::RateLimited { wait })
    }

    /// The token bucket of `owner`, if it is limited.
    fn bucket(&self, owner: u64) -> Option<(&RateLimiter, usize)> {
        Some((self.limiter.as_ref()?, usize::try_from(owner).ok()?.checked_sub(1)?))
    }
}

/// Pictures taken from the limit whose jobs have not started. Dropping it gives them back, as when the client leaves
/// first.
#[must_use]
pub(crate) struct Counted<'a>(Option<(&'a RateLimiter, usize, u32)>);

impl Counted<'_> {
    /// Marks the pictures as started, so that they are not given back.
    pub(crate) fn begun(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some((limiter, holder, pictures)) = self.0 {
            limiter.give_back(holder, pictures);
        }
    }
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// The same number for the same token for the life of the process. The token itself is not kept.
fn owner(token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn without_keys_the_bearer_of_a_token_is_one_owner() {
        let access = Access::new(&ServerConfig::new("Fake/Fake-Image"));
        let owner = |authorization| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(authorization))]);
            access.caller(&headers, None).unwrap().owner
        };
        assert_eq!(owner("Bearer sk-1"), owner("bearer  sk-1 "));
        assert_ne!(owner("Bearer sk-1"), owner("Bearer sk-2"));
        assert_ne!(owner("Bearer sk-1"), 0);
        for none in ["", "Bearer", "Bearer ", "Basic sk-1"] {
            assert_eq!(owner(none), 0, "{none}");
        }
        assert_eq!(access.caller(&HeaderMap::new(), None).unwrap(), Caller::default());
    }
}
