//! How a request's jobs differ from others: whose they are, how urgent, and until when.

use std::time::Duration;

use axum::http::HeaderMap;
use diffusion::InvalidRequest;
use scheduler::JobOptions;

use crate::error::ApiError;

/// How soon the client needs its answer, in seconds, by its own word.
const X_REQUEST_TIMEOUT: &str = "x-request-timeout";
/// When openai-python stops reading, in seconds; it is sent with every request.
const X_STAINLESS_READ_TIMEOUT: &str = "x-stainless-read-timeout";

/// The longest deadline that is told apart from none: sums of times stay in range.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The options of a request with these headers, of this priority and this owner.
///
/// # Errors
/// An `x-request-timeout` that is no time.
pub(crate) fn job_options(headers: &HeaderMap, priority: i8, owner: u64) -> Result<JobOptions, ApiError> {
    let own = match headers.get(X_REQUEST_TIMEOUT) {
        None => None,
        Some(given) => {
            let given = String::from_utf8_lossy(given.as_bytes());
            let bound = "be a number of seconds above 0";
            let invalid = || InvalidRequest::new(X_REQUEST_TIMEOUT, bound, format!("{given:?}"));
            Some(seconds(&given).ok_or_else(invalid)?)
        }
    };
    // The client's user did not choose this one, and cannot mend it.
    let library = headers.get(X_STAINLESS_READ_TIMEOUT).and_then(|given| seconds(given.to_str().ok()?));
    let deadline = own.into_iter().chain(library).min();
    Ok(JobOptions { priority, owner, deadline })
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| *seconds > 0.0)?;
    Some(Duration::try_from_secs_f64(seconds.min(LONGEST.as_secs_f64())).unwrap_or(LONGEST))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn options(headers: &[(&'static str, &str)]) -> Result<JobOptions, String> {
        let headers = headers
            .iter()
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        job_options(&headers.collect(), 3, 7).map_err(|err| err.to_string())
    }

    fn deadline(headers: &[(&'static str, &str)]) -> Option<f64> {
        options(headers).unwrap().deadline.map(|deadline| deadline.as_secs_f64())
    }

    #[test]
    fn the_sooner_of_the_two_timeouts_is_the_deadline() {
        let (own, library) = (X_REQUEST_TIMEOUT, X_STAINLESS_READ_TIMEOUT);
        assert_eq!(options(&[]), Ok(JobOptions { priority: 3, owner: 7, deadline: None }));
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
    fn a_timeout_that_is_none_is_refused() {
        for bad in ["", "0", "-1", "soon", "NaN", "é"] {
            let expected = format!("`x-request-timeout` must be a number of seconds above 0. Given: {bad:?}");
            assert_eq!(options(&[(X_REQUEST_TIMEOUT, bad)]), Err(expected));
        }
    }
}
