//! API keys, rate limits and cross-origin requests, through the whole API.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use scheduler::SchedulerConfig;
use scheduler::fake::FakePipeline;
use serde_json::{Value, json};

use super::{Answer, config, configured_state, get, load_becomes, send};
use crate::{AllowedHosts, ServerConfig, app};

async fn app_with(edit: impl FnOnce(&mut ServerConfig)) -> Router {
    let mut config = config();
    edit(&mut config);
    app(configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await)
}

fn keys(config: &mut ServerConfig) {
    for key in ["team-a=sk-a", "sk-b", "team-a=sk-a2"] {
        config.api_keys.add(key).unwrap();
    }
}

#[tokio::test]
async fn a_request_counts_its_pictures() {
    let limited = |config: &mut ServerConfig| {
        keys(config);
        config.rate_limit = Some("6:4".parse().unwrap());
    };
    let app = app_with(limited).await;
    let ask = async |body: Value| {
        let answer = send(&app, super::generation(body, &[("api-key", "sk-a")])).await;
        let code = answer.json["error"]["code"].as_str().unwrap_or("-").to_owned();
        let (remaining, wait) = (answer.header("x-ratelimit-remaining-requests"), answer.header("retry-after"));
        format!("{} {code} {remaining} {wait}", answer.status.as_u16())
    };
    assert_eq!(ask(json!({"prompt": "a cat", "n": 3})).await, "200 - 1 ");
    // Two exceed the limit; neither is counted.
    assert_eq!(ask(json!({"prompt": "a cat", "n": 2})).await, "429 rate_limit_exceeded 1 10");
    assert_eq!(ask(json!({"prompt": "a cat", "n": 5})).await, "400 invalid_value 1 ");
    assert_eq!(ask(json!({"prompt": "a cat"})).await, "200 - 0 ");
    assert_eq!(ask(json!({"prompt": "a cat"})).await, "429 rate_limit_exceeded 0 10");
}

#[tokio::test]
async fn pictures_that_are_not_begun_are_not_counted() {
    let pipeline = super::sockets::gated();
    let mut config = config();
    keys(&mut config);
    config.rate_limit = Some("1:10".parse().unwrap());
    let bounds = SchedulerConfig { max_batch: 1, max_waiting: 1, ..SchedulerConfig::default() };
    let state = configured_state(&pipeline, bounds, config).await;
    let app = app(state.clone());
    let others = super::generation(json!({"prompt": "a cat", "n": 2, "async": true}), &[("api-key", "sk-b")]);
    assert_eq!(send(&app, others).await.status, 202);
    load_becomes(&state, |load| (load.running, load.waiting) == (1, 1)).await;
    let body = json!({"prompt": "a cat", "n": 4});
    let refused = send(&app, super::generation(&body, &[("api-key", "sk-a")])).await;
    assert_eq!(refused.json["error"]["code"], "queue_full");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "9", "the request itself is");
    pipeline.gate.open();
}

/// Sends a request with these headers; a POST asks for a picture.
async fn ask(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if method == "POST" { Body::from(r#"{"prompt": "a cat"}"#) } else { Body::empty() };
    send(app, request.body(body).unwrap()).await
}

const GENERATIONS: &str = "/v1/images/generations";

#[tokio::test]
async fn a_key_lets_in_and_nothing_else_does() {
    let app = app_with(keys).await;
    for headers in [
        [("authorization", "Bearer sk-a")],
        [("authorization", "bearer sk-b")],
        [("authorization", "Bearer sk-a2")],
        [("api-key", "sk-a")],
    ] {
        assert_eq!(ask(&app, "POST", GENERATIONS, &headers).await.status, 200, "{headers:?}");
        assert_eq!(ask(&app, "GET", "/v1/models", &headers).await.status, 200, "{headers:?}");
    }
    for (headers, message) in [
        (&[][..], "No API key was given: send it as `Authorization: Bearer KEY`"),
        (&[("authorization", "Basic sk-a")], "No API key was given: send it as `Authorization: Bearer KEY`"),
        (&[("authorization", "Bearer sk-c")], "Incorrect API key"),
        (&[("authorization", "Bearer team-a=sk-a")], "Incorrect API key"),
        (&[("api-key", "sk")], "Incorrect API key"),
    ] {
        for (method, path) in [("POST", GENERATIONS), ("GET", "/models"), ("GET", "/v1/models/gpt-image-1/")] {
            let answer = ask(&app, method, path, headers).await;
            assert_eq!((answer.status.as_u16(), answer.header("www-authenticate")), (401, "Bearer"), "{headers:?}");
            let expected = json!({
                "message": message, "type": "invalid_request_error", "param": null, "code": "invalid_api_key",
            });
            assert_eq!(answer.json["error"], expected, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn what_machines_ask_needs_no_key() {
    let app = app_with(keys).await;
    for path in ["/health", "/livez", "/readyz", "/ping", "/version", "/info", "/metrics", "/health/"] {
        assert_eq!(get(&app, path).await.status, 200, "{path}");
    }
    assert_eq!(get(&app, "/nowhere").await.status, 404);
}

#[tokio::test]
async fn a_key_that_spent_its_requests_waits_and_others_do_not() {
    let limited = |config: &mut ServerConfig| {
        keys(config);
        config.rate_limit = Some("6:2".parse().unwrap());
    };
    let app = app_with(limited).await;
    let standing = |answer: &Answer| {
        let header = |name: &str| answer.header(&format!("x-ratelimit-{name}-requests")).to_owned();
        (answer.status.as_u16(), header("limit"), header("remaining"), header("reset"))
    };
    let row = |status, remaining: &str, reset: &str| (status, "2".to_owned(), remaining.into(), reset.into());
    let ask_as = |key: &'static str, method: &'static str, path: &'static str| {
        let app = &app;
        async move { ask(app, method, path, &[("api-key", key)]).await }
    };
    assert_eq!(standing(&ask_as("sk-a", "POST", GENERATIONS).await), row(200, "1", "10s"));
    // The two keys of one name share its limit.
    assert_eq!(standing(&ask_as("sk-a2", "POST", GENERATIONS).await), row(200, "0", "20s"));
    let refused = ask_as("sk-a", "POST", GENERATIONS).await;
    assert_eq!(standing(&refused), row(429, "0", "20s"));
    let error = &refused.json["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));
    let wait_ms: u64 = refused.header("retry-after-ms").parse().unwrap();
    assert!((9_000..=10_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(refused.header("retry-after"), "10");

    assert_eq!(standing(&ask_as("sk-b", "POST", GENERATIONS).await), row(200, "1", "10s"));
    // Only requests that may make pictures are counted.
    let models = ask_as("sk-a", "GET", "/v1/models").await;
    assert_eq!((models.status.as_u16(), models.header("x-ratelimit-limit-requests")), (200, ""));
    assert_eq!(ask_as("wrong", "POST", GENERATIONS).await.header("x-ratelimit-limit-requests"), "");
}

#[tokio::test]
async fn without_a_limit_no_limit_is_told() {
    let app = app_with(keys).await;
    let answer = ask(&app, "POST", GENERATIONS, &[("api-key", "sk-a")]).await;
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")), "{:?}", answer.headers);
}

/// Preflight headers of openai-node in a browser.
const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", "https://app.example.com"),
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization,content-type,x-stainless-lang,x-stainless-retry-count"),
];

#[tokio::test]
async fn pages_of_an_allowed_origin_may_ask_with_a_key() {
    let cors = |config: &mut ServerConfig| {
        keys(config);
        config.cors_allow_origins = vec!["https://app.example.com".parse().unwrap()];
    };
    let app = app_with(cors).await;
    let allowed = ask(&app, "OPTIONS", GENERATIONS, &PREFLIGHT).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(allowed.header("access-control-allow-headers"), PREFLIGHT[2].1);
    assert!(allowed.header("access-control-allow-methods").contains("POST"));
    assert_eq!(allowed.header("access-control-allow-credentials"), "");

    // A refusal, with its id, is readable too.
    let refused = ask(&app, "POST", GENERATIONS, &PREFLIGHT[..1]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example.com");
    for exposed in ["x-request-id", "retry-after", "x-queue-ms", "x-ignored-params", "location", "x-should-retry"] {
        assert!(refused.header("access-control-expose-headers").split(',').any(|name| name == exposed), "{exposed}");
    }
    let stranger = ask(&app, "OPTIONS", GENERATIONS, &[("origin", "https://evil.example.com"), PREFLIGHT[1]]).await;
    assert_eq!(stranger.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn any_origin_is_never_given_credentials() {
    let app = app_with(|config| config.cors_allow_origins = vec!["*".parse().unwrap()]).await;
    let answer = ask(&app, "OPTIONS", GENERATIONS, &PREFLIGHT).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn by_default_pages_are_told_nothing() {
    let app = app_with(|_| {}).await;
    for method in ["OPTIONS", "POST", "GET"] {
        let answer = ask(&app, method, GENERATIONS, &PREFLIGHT).await;
        assert_eq!(answer.header("access-control-allow-origin"), "", "{method}");
    }
}

/// The settings of a server that listens only on the loopback address.
fn of_this_machine(config: &mut ServerConfig) {
    config.allowed_hosts = AllowedHosts::new(Vec::new(), Vec::new(), [127, 0, 0, 1].into(), false);
}

#[tokio::test]
async fn a_name_that_was_made_to_lead_here_is_not_answered() {
    let app = app_with(of_this_machine).await;
    for path in ["/", "/v1/models", "/health", "/metrics", "/info", GENERATIONS, "/nowhere"] {
        let method = if path == GENERATIONS { "POST" } else { "GET" };
        let refused = ask(&app, method, path, &[("host", "evil.example:8091")]).await;
        let code = &refused.json["error"]["code"];
        assert_eq!((refused.status.as_u16(), code), (403, &json!("host_not_allowed")), "{path}");
        assert!(refused.text.contains("--allowed-hosts") && !refused.header("x-request-id").is_empty());
        let forged = [("host", "evil.example"), ("x-forwarded-host", "localhost"), ("origin", "http://localhost")];
        assert_eq!(ask(&app, method, path, &forged).await.status, 403, "{path}");
    }
    for host in ["localhost:8091", "127.0.0.1:8091", "[::1]:8091"] {
        assert_eq!(ask(&app, "POST", GENERATIONS, &[("host", host)]).await.status, 200, "{host}");
    }
    // HTTP/2 has the host in the URI.
    for (authority, status) in [("localhost:8091", 200), ("evil.example", 403)] {
        assert_eq!(ask(&app, "GET", &format!("http://{authority}/v1/models"), &[]).await.status, status, "{authority}");
    }
    assert_eq!(ask(&app, "GET", "/health", &[("host", "10.244.0.7:8091")]).await.status, 200, "a probe by address");
    assert_eq!(ask(&app, "GET", "/v1/models", &[("host", "10.244.0.7:8091")]).await.status, 403);
}

#[tokio::test]
async fn a_page_of_another_origin_makes_no_pictures_without_a_key() {
    let page = [("origin", "https://evil.example"), ("host", "localhost:8091")];
    let app = app_with(|_| {}).await;
    let refused = ask(&app, "POST", GENERATIONS, &page).await;
    assert_eq!((refused.status.as_u16(), &refused.json["error"]["code"]), (403, &json!("origin_not_allowed")));
    let form = super::forms::Form::default().text("prompt", "a cat").request();
    let (mut parts, body) = form.into_parts();
    parts.headers.insert("origin", "null".parse().unwrap());
    assert_eq!(send(&app, Request::from_parts(parts, body)).await.status, 403, "a form needs no question first");
    for own in [
        &[("origin", "http://localhost:8091"), ("host", "localhost:8091")][..],
        &[("origin", "https://images.example.com"), ("host", "inner"), ("x-forwarded-host", "images.example.com")],
        &[("host", "localhost:8091")],
    ] {
        assert_eq!(ask(&app, "POST", GENERATIONS, own).await.status, 200, "{own:?}");
    }
    let public = app_with(|config| config.public_url = Some("https://evil.example/x".into())).await;
    assert_eq!(ask(&public, "POST", GENERATIONS, &page).await.status, 200, "the operator says that it is its own");
    let keyed = app_with(keys).await;
    assert_eq!(ask(&keyed, "POST", GENERATIONS, &[page[0], ("api-key", "sk-a")]).await.status, 200);
}

#[test]
fn a_server_whose_scheduler_has_ended_is_not_well() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (of_scheduler, of_server) = (runtime(), runtime());
    let state = of_scheduler.block_on(super::state(&FakePipeline::default()));
    let app = app(state.clone());
    let status = |path| of_server.block_on(get(&app, path)).status.as_u16();
    assert_eq!(status("/health"), 200);
    let mut readiness = state.queue.readiness();
    of_scheduler.shutdown_timeout(std::time::Duration::from_secs(10));
    assert!(of_server.block_on(async { readiness.wait_for(|_| false).await.is_err() }));
    assert_eq!([status("/health"), status("/readyz"), status("/livez")], [503, 503, 200]);
}

#[tokio::test]
async fn options_says_what_a_path_takes_without_a_key() {
    let app = app_with(keys).await;
    for (path, methods) in [(GENERATIONS, "POST"), ("/v1/models", "GET,HEAD"), ("/info", "GET,HEAD")] {
        let answer = ask(&app, "OPTIONS", path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (204, methods), "{path}");
    }
    assert_eq!(ask(&app, "OPTIONS", "/nowhere", &[]).await.status, 404);
}

#[tokio::test]
async fn info_says_what_a_page_must_know() {
    let app = app_with(|config| {
        keys(config);
        config.api.priorities = false;
        config.api.cache = Some(serde_json::from_str(r#"{"Fn_compute_blocks": 2}"#).unwrap());
    });
    let info = get(&app.await, "/info").await.json;
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["model"]["names"], json!(["Fake/Fake-Image", "gpt-image-1"]));
    assert_eq!((&info["model"]["id"], &info["model"]["default_size"]), (&json!("Fake/Fake-Image"), &json!("64x64")));
    assert_eq!(info["limits"]["max_pixels"], 256 * 256);
    let cache = &info["cache"];
    assert_eq!((&cache["enabled"], &cache["config"]["Fn_compute_blocks"]), (&json!(true), &json!(2)));
    assert_eq!(cache["presets"], json!(["lossless", "high", "balanced", "fast", "ultra"]));
    assert_eq!((&info["auth_required"], &info["priorities"]), (&json!(true), &json!(false)));
    assert!(!info.to_string().contains("sk-"), "{info}");
}

#[tokio::test]
async fn a_server_that_loads_says_so_and_knows_its_model_by_name_alone() {
    let (metrics, options) = (crate::Metrics::default(), scheduler::SpawnOptions::default());
    let (load, loaded) = std::sync::mpsc::channel::<()>();
    let factory = move || {
        // Blocks until the test ends.
        let _ = loaded.recv();
        FakePipeline::default().factory()()
    };
    let app = app(crate::AppState::new(scheduler::Scheduler::spawn(options, vec![factory]), config(), metrics));
    let health = get(&app, "/health").await;
    assert_eq!((health.status.as_u16(), &health.json["error"]["code"]), (503, &json!("model_loading")));
    let model = get(&app, "/info").await.json["model"].take();
    assert_eq!((&model["id"], &model["class"]), (&json!("Fake/Fake-Image"), &Value::Null));
    assert_eq!(get(&app, "/ping").await.status, 200);
    drop(load);
}

#[tokio::test]
async fn the_version_says_what_was_built() {
    let version = get(&app_with(|_| {}).await, "/version").await.json;
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION"), "target": target, "features": []}));
}
