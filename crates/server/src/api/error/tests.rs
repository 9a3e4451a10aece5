//! Messages and headers of failures.

use super::*;
use crate::api::bounds::Whose;

/// Status, code, `x-should-retry` and Retry-After as one line.
fn line(error: impl Into<ApiError>) -> String {
    let response = error.into().into_response();
    let header = |name: &str| response.headers().get(name).map_or("-", |value| value.to_str().unwrap());
    let ErrorCode(code) = response.extensions().get().copied().unwrap();
    let status = response.status().as_u16();
    format!("{status} {code} {} {}", header("x-should-retry"), header("retry-after"))
}

#[test]
fn a_refused_deadline_says_whether_and_when_to_come_back() {
    let [predicted, alone, deadline] = [90, 20, 60].map(Duration::from_secs);
    let late = SubmitError::TooLate { predicted, alone, deadline };
    assert_eq!(line(late.clone()), "429 deadline_too_short - 30");
    let told = ApiError::from(late).to_string();
    assert!(told.contains("in about 90.0s, 70.0s of it waiting for others") && told.contains("60.0s"), "{told}");
    let never = SubmitError::NeverInTime { predicted, deadline };
    assert_eq!(line(never.clone()), "429 deadline_too_short false -");
    let told = ApiError::from(never).to_string();
    assert!(told.contains("about 90.0s, with no wait") && told.contains("fewer steps"), "{told}");
    assert_eq!(line(JobError::TooLate), "504 deadline_exceeded false -");
}

#[test]
fn a_request_over_the_memory_budget_names_the_field() {
    let large = SubmitError::TooLarge { bytes: 3 << 29, budget: 1 << 30 };
    assert_eq!(line(large.clone()), "400 request_too_large - -");
    let message = "`size` must be such that a picture needs at most 1.0 GiB of memory \
        (the server's --memory-budget). Given: 1.5 GiB";
    assert_eq!(ApiError::from(large).to_string(), message);
}

fn full(seconds: f64) -> SubmitError {
    SubmitError::QueueFull { waiting: 9, place_in: Duration::from_secs_f64(seconds) }
}

#[test]
fn clients_are_told_whether_and_when_to_come_back() {
    assert_eq!(line(SubmitError::Loading), "503 model_loading true 5");
    assert_eq!(line(SubmitError::ShuttingDown), "503 shutting_down true 5");
    assert_eq!(line(JobError::ShuttingDown), "503 shutting_down true 5");
    assert_eq!(line(SubmitError::Failed("no disk".into())), "503 model_failed false -");
    assert_eq!(line(full(0.0)), "429 queue_full - 1");
    assert_eq!(line(full(12.3)), "429 queue_full - 13");
    assert_eq!(line(full(3600.0)), "429 queue_full - 60");
    assert_eq!(line(JobError::Pipeline(PipelineError::OutOfMemory)), "500 out_of_memory false -");
    let not_finite = PipelineError::NotFinite { what: "pixels" };
    assert_eq!(line(JobError::Pipeline(not_finite)), "500 not_finite false -");
    assert_eq!(line(JobError::Pipeline(PipelineError::Model("?".into()))), "500 internal_error false -");
    assert_eq!(line(ApiError::RateLimited { wait: Duration::from_millis(250) }), "429 rate_limit_exceeded - 1");
    assert_eq!(line(ApiError::RateLimited { wait: Duration::from_secs(90) }), "429 rate_limit_exceeded - 60");
    for (what, expected) in [(Purpose::Uploads, "429 uploads_full - 5"), (Purpose::Pictures, "429 pictures_full - 5")] {
        assert_eq!(line(MemoryFull { what, whose: Whose::All }), expected);
    }
    assert_eq!(line(JobError::Crashed), "500 internal_error false -");
    let crashes = JobError::CrashesModel("index out of bounds".into());
    assert_eq!(line(crashes.clone()), "500 crashes_model false -");
    assert!(!ApiError::from(crashes).body().message.contains("bounds"), "the reason is for the log");
    assert_eq!(line(ApiError::Missing("prompt")), "400 missing_required_parameter - -");
}
