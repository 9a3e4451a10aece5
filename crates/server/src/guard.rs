//! Middleware that a request passes before its handler.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::{allowed_host, allowed_origin, authority};
use crate::access_log::LogEntry;
use crate::api::error::ApiError;
use crate::api::paths::PROBES;
use crate::config::ServerConfig;
use crate::public_url::public_url;
use crate::state::AppState;
use crate::uploads;

/// Refuses requests for another host name, and, on a server without keys, requests from a page of another origin.
pub(crate) async fn same_site(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match check_site(&state.config, &request) {
        Ok(()) => next.run(request).await,
        Err(err) => {
            uploads::linger(request);
            err.into_response()
        }
    }
}

fn check_site(config: &ServerConfig, request: &Request) -> Result<(), ApiError> {
    let (headers, uri) = (request.headers(), request.uri());
    // HTTP/2 has the host in the URI. A header that is not text names no host.
    let asked = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let asked: Vec<_> = asked.chain(uri.authority().map(Authority::as_str)).collect();
    let is_probe = PROBES.contains(&uri.path().trim_end_matches('/'));
    if let Some(host) = asked.iter().find(|host| !allowed_host(host, &config.allowed_hosts, is_probe)) {
        return Err(ApiError::HostNotAllowed(host.chars().take(80).collect()));
    }
    if !config.api_keys.is_empty() {
        return Ok(());
    }
    let is_of_a_page = headers.contains_key(header::ORIGIN);
    let seen = is_of_a_page.then(|| public_url(config.public_url.as_deref(), headers, uri));
    let seen = seen.and_then(|seen| authority(&seen));
    let own: Vec<_> = asked.into_iter().chain(seen.as_ref().map(Authority::as_str)).collect();
    if allowed_origin(request.method(), headers, &own, &config.cors_allow_origins) {
        return Ok(());
    }
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    Err(ApiError::OriginNotAllowed(origin.unwrap_or("another origin").chars().take(80).collect()))
}

/// Checks the API key and its rate limit, and adds the caller to the request.
pub(crate) async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    // A browser's preflight request carries no key.
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    let address = request.extensions().get().map(|ConnectInfo(address): &ConnectInfo<SocketAddr>| address.ip());
    let caller = match state.access.caller(request.headers(), address) {
        Ok(caller) => caller,
        Err(err) => {
            uploads::linger(request);
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
            uploads::linger(request);
            ApiError::RateLimited { wait }.into_response()
        }
        None => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
    };
    // The number of pictures is known only after the handler has run.
    if let Some(standing) = counted.and_then(|_| state.access.standing(&caller)) {
        standing.write(response.headers_mut());
    }
    response
}
