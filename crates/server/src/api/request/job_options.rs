//! Job options of a request: owner, priority and deadline.

use std::time::Duration;

use axum::http::HeaderMap;
use diffusion::InvalidRequest;
use scheduler::JobOptions;

use super::ImagesRequest;
use crate::api::error::ApiError;

/// Header in which the client says how soon it needs the answer, in seconds.
const X_REQUEST_TIMEOUT: &str = "x-request-timeout";
/// Header with openai-python's read timeout, in seconds. The library sends it with every request: 600 unless its user
/// chose another value.
const X_STAINLESS_READ_TIMEOUT: &str = "x-stainless-read-timeout";

/// Longest deadline; larger values are clamped to it, so that sums of times stay in range.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Returns the job options of `owner`'s request with these headers.
///
/// # Errors
/// An `x-request-timeout` that is not a number of seconds above 0.
pub(crate) fn job_options(headers: &HeaderMap, asked: &ImagesRequest, owner: u64) -> Result<JobOptions, ApiError> {
    let deadline = deadline(headers, asked.is_waited_for())?;
    Ok(JobOptions { priority: asked.priority, owner, deadline, latents: false })
}

/// Returns how soon the pictures are needed. The client library's read timeout bounds a silence, so it applies only to
/// an answer in one piece: a stream is never silent for long, and a job's client polls.
fn deadline(headers: &HeaderMap, is_waited_for: bool) -> Result<Option<Duration>, ApiError> {
    let own = match headers.get(X_REQUEST_TIMEOUT) {
        None => None,
        Some(given) => {
            let given = String::from_utf8_lossy(given.as_bytes());
            let bound = "be a number of seconds above 0";
            let invalid = || InvalidRequest::new(X_REQUEST_TIMEOUT, bound, format!("{given:?}"));
            Some(seconds(&given).ok_or_else(invalid)?)
        }
    };
    // The library sets this header, so its user could not correct a bad value: ignore it.
    let library = headers.get(X_STAINLESS_READ_TIMEOUT).filter(|_| is_waited_for);
    let library = library.and_then(|given| seconds(given.to_str().ok()?));
    Ok(own.into_iter().chain(library).min())
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0)?;
    Some(Duration::try_from_secs_f64(seconds.min(LONGEST.as_secs_f64())).unwrap_or(LONGEST))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn of(headers: &[(&'static str, &str)], is_waited_for: bool) -> Result<Option<f64>, String> {
        let headers = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        let deadline = super::deadline(&headers.collect(), is_waited_for).map_err(|err| err.to_string())?;
        Ok(deadline.map(|deadline| deadline.as_secs_f64()))
    }

    fn deadline(headers: &[(&'static str, &str)]) -> Option<f64> {
        of(headers, true).unwrap()
    }

    #[test]
    fn the_sooner_of_the_two_timeouts_is_the_deadline() {
        let (own, library) = (X_REQUEST_TIMEOUT, X_STAINLESS_READ_TIMEOUT);
        assert_eq!(deadline(&[]), None);
        assert_eq!(deadline(&[(library, "600")]), Some(600.0));
        assert_eq!(deadline(&[(own, "2.5")]), Some(2.5));
        assert_eq!(deadline(&[(own, "700"), (library, "600")]), Some(600.0));
        assert_eq!(deadline(&[(own, "5"), (library, "600")]), Some(5.0));
        assert_eq!(deadline(&[(own, "1e300")]), Some(LONGEST.as_secs_f64()));
        for bad in ["", "0", "-1", "None", "NaN", "not given"] {
            assert_eq!(deadline(&[(library, bad)]), None, "{bad}");
        }
    }

    #[test]
    fn what_a_library_waits_for_is_an_answer_in_one_piece() {
        let (own, library) = (X_REQUEST_TIMEOUT, X_STAINLESS_READ_TIMEOUT);
        assert_eq!(of(&[(library, "600")], false), Ok(None));
        assert_eq!(of(&[(own, "700"), (library, "600")], false), Ok(Some(700.0)));
    }

    #[test]
    fn a_timeout_that_is_none_is_refused() {
        for bad in ["", "0", "-1", "soon", "NaN", "é"] {
            let expected = format!("`x-request-timeout` must be a number of seconds above 0. Given: {bad:?}");
            assert_eq!(of(&[(X_REQUEST_TIMEOUT, bad)], false), Err(expected));
        }
    }
}
