//! Who may come in: named keys, and how much each may ask for.

mod cors;
mod keys;
mod rate_limit;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diffusion::InvalidRequest;

use crate::access_log::LogEntry;
use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::request;
use crate::state::AppState;

pub use cors::AllowedOrigin;
pub(crate) use cors::cors_layer;
pub use keys::{ApiKeys, InvalidKey};
pub use rate_limit::RateLimit;
use rate_limit::{RateLimiter, Standing};

/// Azure's place for a key.
const API_KEY: &str = "api-key";

/// Who sent a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The name of the caller's key; `None` on a server without keys.
    pub(crate) name: Option<Arc<str>>,
    /// One number for one caller for as long as the process lives; 0 for callers that cannot be told
    /// apart.
    pub(crate) owner: u64,
}

/// The keys and what is left of their limits.
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

    /// Who sends these headers.
    ///
    /// # Errors
    /// There are keys and the headers hold none of them.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.keys.is_empty() {
            return Ok(Caller { name: None, owner: bearer(headers).map_or(0, owner) });
        }
        let given = bearer(headers).or_else(|| headers.get(API_KEY)?.to_str().ok());
        let holder = given.and_then(|given| self.keys.holder(given));
        let holder = holder.ok_or(ApiError::InvalidApiKey { given: given.is_some() })?;
        Ok(Caller { name: Some(self.keys.names()[holder].clone()), owner: holder as u64 + 1 })
    }

    /// Takes one picture off the caller's limit, if requests like this one are limited: those that
    /// may make pictures. `None` without limits.
    fn count(&self, caller: &Caller, method: &Method) -> Option<Standing> {
        let (limiter, holder) = self.bucket(caller.owner).filter(|_| method == Method::POST)?;
        limiter.take(holder, 1, Instant::now())
    }

    /// How the caller stands now.
    fn standing(&self, caller: &Caller) -> Option<Standing> {
        let (limiter, holder) = self.bucket(caller.owner)?;
        limiter.take(holder, 0, Instant::now())
    }

    /// Takes what a request of `owner` for `pictures` takes beyond the one that was counted when it came in.
    ///
    /// # Errors
    /// There is not as much, or never can be. The one is given back then: the request begins nothing.
    pub(crate) fn count_rest(&self, owner: u64, pictures: usize) -> Result<(), ApiError> {
        let Some((limiter, holder)) = self.bucket(owner) else { return Ok(()) };
        if pictures > limiter.burst() as usize {
            limiter.give_back(holder, 1);
            let bound = format!("be at most {} (the server's --rate-limit)", limiter.burst());
            return Err(InvalidRequest::new("n", bound, pictures).into());
        }
        let standing = limiter.take(holder, pictures as u32 - 1, Instant::now());
        let Some(wait) = standing.and_then(|standing| standing.refused_for) else { return Ok(()) };
        limiter.give_back(holder, 1);
        Err(ApiError::RateLimited { wait })
    }

    /// Gives back what [`Access::count_rest`] took: the pictures are not begun.
    pub(crate) fn give_rest_back(&self, owner: u64, pictures: usize) {
        if let Some((limiter, holder)) = self.bucket(owner) {
            limiter.give_back(holder, pictures as u32 - 1);
        }
    }

    /// Where the tokens of `owner` are, if they are limited.
    fn bucket(&self, owner: u64) -> Option<(&RateLimiter, usize)> {
        Some((self.limiter.as_ref()?, usize::try_from(owner).ok()?.checked_sub(1)?))
    }
}

/// Lets in whoever has a key, within its limit, and tells the handler who it is.
pub(crate) async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    // A browser asks what it may send before it has a key to send.
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    let caller = match state.access.caller(request.headers()) {
        Ok(caller) => caller,
        Err(err) => {
            request::linger(request);
            return err.into_response();
        }
    };
    if let Some(log) = request.extensions().get::<LogEntry>() {
        log.write(|line| line.key = caller.name.clone());
    }
    let counted = state.access.count(&caller, request.method());
    let refused = counted.and_then(|standing| standing.refused_for);
    let mut response = match refused {
        Some(wait) => {
            request::linger(request);
            ApiError::RateLimited { wait }.into_response()
        }
        None => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
    };
    // Only now is it known how many pictures were asked for.
    if let Some(standing) = counted.and_then(|_| state.access.standing(&caller)) {
        standing.write(response.headers_mut());
    }
    response
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

/// The same number for the same token for as long as the process lives; the token itself goes
/// no further.
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
            access.caller(&headers).unwrap().owner
        };
        assert_eq!(owner("Bearer sk-1"), owner("bearer  sk-1 "));
        assert_ne!(owner("Bearer sk-1"), owner("Bearer sk-2"));
        assert_ne!(owner("Bearer sk-1"), 0);
        for none in ["", "Bearer", "Bearer ", "Basic sk-1"] {
            assert_eq!(owner(none), 0, "{none}");
        }
        assert_eq!(access.caller(&HeaderMap::new()).unwrap(), Caller::default());
    }
}
