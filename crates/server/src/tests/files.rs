//! Pictures behind URLs.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use scheduler::SchedulerConfig;
use scheduler::fake::{FakePipeline, colour};
use serde_json::json;

use super::{Answer, config, configured_state, fake_app, fetch, first_pixel, generation, get, send, sockets, state};
use crate::app;

fn url(answer: &Answer) -> &str {
    answer.json["data"][0]["url"].as_str().unwrap_or_else(|| panic!("{}", answer.text))
}

#[tokio::test]
async fn a_url_is_what_the_client_sees_and_needs_no_key() {
    let mut config = config();
    config.api_keys.add("sk-1").unwrap();
    let app = app(configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await);
    let body = json!({"prompt": "a cat", "seed": 9, "response_format": "url", "output_format": "jpeg"});
    let headers = [
        ("authorization", "Bearer sk-1"),
        ("host", "inner:8091"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "images.example.com"),
    ];
    let answer = send(&app, generation(body, &headers)).await;
    assert!(answer.json["data"][0].get("b64_json").is_none());
    let path = url(&answer).strip_prefix("https://images.example.com/").unwrap().to_owned();
    let (parts, file) = fetch(&app, Request::get(format!("/{path}")).body(Body::empty()).unwrap()).await;
    assert_eq!((parts.status.as_u16(), &parts.headers["content-type"]), (200, &"image/jpeg".parse().unwrap()));
    assert_eq!(parts.headers["content-length"].to_str().unwrap(), file.len().to_string());
    let [red, green, blue] = first_pixel(&file);
    assert!(red.abs_diff(colour(9)[0]) < 5 && green < 5 && blue.abs_diff(colour(9)[2]) < 5, "{red} {green} {blue}");
}

#[tokio::test]
async fn the_operator_knows_best_where_clients_see_the_server() {
    let config = crate::ServerConfig { public_url: Some("https://pictures.example/".into()), ..config() };
    let app = app(configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await);
    let body = json!({"prompt": "a cat", "response_format": "url"});
    let answer = send(&app, generation(body, &[("host", "inner"), ("x-forwarded-host", "elsewhere")])).await;
    assert!(url(&answer).starts_with("https://pictures.example/v1/images/files/"), "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_stops_waits_until_a_new_picture_is_fetched() {
    let state = state(&FakePipeline::default()).await;
    let server = sockets::served(&state).await;
    let answer = sockets::start_generation(server.address, r#"{"prompt": "a cat", "response_format": "url"}"#).await;
    let answer = sockets::answer(answer).await;
    let path = answer.split(r#""url":"http://x"#).nth(1).and_then(|url| url.split('"').next()).expect(&answer);
    server.stop.send(()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    sockets::assert_status(&sockets::get(server.address, path).await, 200);
    let stopped = tokio::time::timeout(Duration::from_secs(3), server.ended).await;
    stopped.expect("nothing is left to fetch").unwrap().unwrap();
}

#[tokio::test]
async fn a_url_that_was_changed_or_has_expired_is_refused() {
    let app = fake_app().await;
    let answer = send(&app, generation(json!({"prompt": "a cat", "response_format": "url"}), &[])).await;
    let path = url(&answer).strip_prefix("http://localhost").unwrap();
    for path in [path, path.strip_prefix("/v1").unwrap()] {
        assert_eq!(fetch(&app, Request::get(path).body(Body::empty()).unwrap()).await.0.status, 200, "{path}");
    }
    let refused = async |path: &str| {
        let answer = get(&app, path).await;
        format!("{} {}", answer.status.as_u16(), answer.json["error"]["code"].as_str().unwrap())
    };
    let (id, _) = path.split_once('?').unwrap();
    for changed in
        [id.to_owned(), format!("{path}x"), path.replace("expires=1", "expires=2"), format!("{id}?expires=x")]
    {
        assert_eq!(refused(&changed).await, "403 invalid_signature", "{changed}");
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(refused(path).await, "403 url_expired");
}
