//! `latentd healthcheck`, run like by a container engine.

use std::process::Output;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::binary::{latentd, run, stderr};
use crate::serve::Server;

/// Runs a health check. `LATENTD_PORT` is the port of `address`, and `flags` can override it.
fn healthcheck(address: &str, flags: &[&str]) -> Output {
    let (_, port) = address.rsplit_once(':').unwrap();
    run(latentd().arg("healthcheck").args(flags).env("LATENTD_PORT", port))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ready_server_is_well() {
    let server = Server::start(&[]).await;
    let url = server.url("");
    for flags in [&[][..], &["--ready"], &["--url", &url, "--timeout-seconds", "30"]] {
        let output = healthcheck(&url, flags);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{flags:?}");
    }
    // The proxy must not be used: its 127.0.0.1 is another machine.
    let output = run(latentd().args(["healthcheck", "--url", &url]).env("http_proxy", "http://127.0.0.1:1"));
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_well_is_said_to_be_in_one_line() {
    let loading = r#"{"error":{"message":"the model is loading"}}"#;
    let app = Router::new()
        .route("/livez", get("{}"))
        .route("/readyz", get((StatusCode::SERVICE_UNAVAILABLE, loading)))
        .route("/slow/livez", get(std::future::pending::<&str>));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async { axum::serve(listener, app).await });
    let fails = |flags: &[&str], line: &str| {
        let output = healthcheck(&address, flags);
        assert_eq!((output.status.code(), stderr(&output)), (Some(1), format!("error: {line}\n")), "{flags:?}");
    };

    assert_eq!(healthcheck(&address, &[]).status.code(), Some(0));
    fails(&["--ready"], &format!("http://{address}/readyz answered 503: the model is loading"));
    let started = Instant::now();
    let slow = format!("http://{address}/slow");
    fails(&["--url", &slow, "--timeout-seconds", "1"], &format!("{slow}/livez does not answer: operation timed out"));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());

    serving.abort();
    let _ = serving.await;
    fails(&[], &format!("http://{address}/livez does not answer: Connection refused (os error 111)"));
}
