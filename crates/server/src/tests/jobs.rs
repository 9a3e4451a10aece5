//! Async jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use scheduler::fake::FakePipeline;
use scheduler::{Readiness, SchedulerConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::ServiceExt;

use super::sockets::{self, gated, head, served};
use super::{
    Answer, config, configured_state, decoded, events, fake_app, generate, generation, get, load_becomes, send, state,
};
use crate::app;
use crate::jobs::{Bounds, Jobs};

async fn submit(app: &Router, more: Value) -> Answer {
    let mut body = json!({"prompt": "a cat", "async": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    generate(app, body).await
}

fn id(answer: &Answer) -> String {
    answer.json["id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

async fn ask(app: &Router, id: &str) -> Answer {
    get(app, &format!("/v1/images/jobs/{id}")).await
}

async fn delete(app: &Router, id: &str) -> Answer {
    send(app, Request::delete(format!("/v1/images/jobs/{id}")).body(Body::empty()).unwrap()).await
}

/// Polls the job until it is neither queued nor in progress.
pub(super) async fn ended(app: &Router, id: &str) -> Value {
    loop {
        let job = ask(app, id).await.json;
        match job["status"].as_str().unwrap() {
            "queued" | "in_progress" => tokio::time::sleep(Duration::from_millis(2)).await,
            _ => return job,
        }
    }
}

#[tokio::test]
async fn a_job_is_accepted_followed_and_answered() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let first = generation(json!({"prompt": "a cat", "seed": 5, "n": 2}), &[("prefer", "respond-async")]);
    let first = send(&app, first).await;
    assert_eq!(first.status, 202);
    assert_eq!(first.header("location"), format!("/v1/images/jobs/{}", id(&first)));
    assert_eq!((first.header("x-queue-position"), &first.json["object"]), ("0", &json!("image.job")));
    assert_eq!((&first.json["progress"], &first.json["result"]), (&json!(0), &Value::Null));
    load_becomes(&state, |load| load.running == 2).await;
    let second = submit(&app, json!({})).await;
    assert_eq!((&second.json["status"], &second.json["queue_position"]), (&json!("queued"), &json!(0)));

    // Two pictures of four steps each; each has done one step.
    pipeline.gate.allow(1);
    let half = loop {
        let job = ask(&app, &id(&first)).await.json;
        if job["progress"] != 0 {
            break job;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let facts = json!([half["status"], half["queue_position"], half["result"], half["expires_at"], half["error"]]);
    assert_eq!(facts, json!(["in_progress", null, null, null, null]));
    assert!([12, 25].map(Value::from).contains(&half["progress"]), "{half}");

    pipeline.gate.open();
    let done = ended(&app, &id(&first)).await;
    assert_eq!((&done["status"], &done["progress"]), (&json!("completed"), &json!(100)));
    assert!(done["expires_at"].as_u64().unwrap() >= done["created_at"].as_u64().unwrap() + 3600);
    assert_eq!(done["result"]["data"].as_array().unwrap().len(), 2);
    assert_eq!(ended(&app, &id(&second)).await["status"], "completed");
}

#[tokio::test]
async fn a_job_outlives_its_clients_connection() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let server = served(&state).await;
    let body = r#"{"prompt": "a cat", "async": true}"#;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    client.write_all((head(body.len(), "") + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    drop(client);
    let id = answer.split("location: /v1/images/jobs/").nth(1).unwrap().split('\r').next().unwrap().to_owned();
    load_becomes(&state, |load| load.running == 1).await;
    let app = app(state.clone());
    // A client that follows the job may leave too.
    let followed =
        app.clone().oneshot(Request::get(format!("/v1/images/jobs/{id}/events")).body(Body::empty()).unwrap());
    drop(followed.await.unwrap());
    pipeline.gate.open();
    assert_eq!(ended(&app, &id).await["status"], "completed");
}

/// Stops a server while it runs an async job, and returns how long it takes. If `asks`, a client polls the job
/// meanwhile.
async fn stopped(drain_timeout: Duration, asks: bool) -> Duration {
    let pipeline = gated();
    let mut state = state(&pipeline).await;
    Arc::get_mut(&mut state.config).unwrap().drain_timeout = drain_timeout;
    let server = served(&state).await;
    let job = id(&submit(&app(state.clone()), json!({})).await);
    load_becomes(&state, |load| load.running == 1).await;
    server.stop.send(()).await.unwrap();
    let mut readiness = state.queue.readiness();
    readiness.wait_for(|readiness| *readiness == Readiness::Draining).await.unwrap();
    let path = format!("/v1/images/jobs/{job}");
    assert!(sockets::get(server.address, &path).await.contains(r#""status":"in_progress""#));
    pipeline.gate.open();
    let begun = std::time::Instant::now();
    // Some clients poll once a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    if asks {
        let told = sockets::get(server.address, &path).await;
        assert!(told.contains(r#""status":"completed""#) && told.contains("b64_json"), "{}", &told[..200]);
    }
    timeout(Duration::from_secs(20), server.ended).await.expect("nothing keeps the server").unwrap().unwrap();
    begun.elapsed()
}

#[tokio::test]
async fn a_job_that_ends_while_the_server_stops_can_be_asked_after() {
    let told = stopped(Duration::from_secs(60), true).await;
    assert!(told < Duration::from_secs(4), "nothing is left to tell after {told:?}");
    let (lost, hurried) = tokio::join!(stopped(Duration::from_secs(60), false), stopped(Duration::from_secs(2), false));
    assert!((5..8).contains(&lost.as_secs()), "nobody asks for {lost:?}");
    assert!((1..4).contains(&hurried.as_secs()), "the drain timeout holds: {hurried:?}");
}

#[tokio::test]
async fn a_job_can_be_given_up_and_forgotten() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let job = submit(&app, json!({"num_inference_steps": 1000})).await;
    load_becomes(&state, |load| load.running == 1).await;
    let followed = Request::get(format!("/v1/images/jobs/{}/events", id(&job))).body(Body::empty()).unwrap();
    let followed = app.clone().oneshot(followed).await.unwrap();
    let cancelled = timeout(Duration::from_secs(10), delete(&app, &id(&job))).await.expect("the job is given up");
    assert_eq!((cancelled.status.as_u16(), &cancelled.json["status"]), (200, &json!("cancelled")));
    load_becomes(&state, |load| load.running == 0).await;
    let text = axum::body::to_bytes(followed.into_body(), usize::MAX).await.unwrap();
    let told = events(std::str::from_utf8(&text).unwrap());
    assert_eq!((told.len(), &told[0].1["error"]["code"]), (1, &json!("cancelled")));
    assert_eq!(ask(&app, &id(&job)).await.json["status"], "cancelled");
    assert_eq!(delete(&app, &id(&job)).await.json["status"], "cancelled");
    assert_eq!(ask(&app, &id(&job)).await.json["error"]["code"], "job_not_found");
    pipeline.gate.open();
}

#[tokio::test]
async fn delete_forgets_everything_of_a_job() {
    let state = state(&FakePipeline::default()).await;
    let app = app(state.clone());
    let body = json!({"prompt": "a cat", "async": true, "response_format": "url", "n": 2});
    let post = async || send(&app, generation(body.clone(), &[("idempotency-key", "k")])).await;
    let job = id(&post().await);
    let done = ended(&app, &job).await;
    let path = |i: usize| done["result"]["data"][i]["url"].as_str().unwrap().replace("http://localhost", "");
    let picture = async |i: usize| {
        let request = Request::get(path(i)).body(Body::empty()).unwrap();
        super::fetch(&app, request).await.0.status.as_u16()
    };
    assert_eq!([picture(0).await, picture(1).await], [200; 2]);
    let kept = state.jobs.get(&job, 0, 0).unwrap().live;
    assert!(kept.most_bytes() > 0);
    assert_eq!(delete(&app, &job).await.json["status"], "completed");
    assert_eq!([picture(0).await, picture(1).await], [404; 2]);
    assert_eq!(kept.most_bytes(), 0, "a handle of the job keeps no picture");
    let again = post().await;
    assert_eq!((again.status.as_u16(), again.header("idempotent-replayed")), (202, ""));
    assert_ne!(id(&again), job);
}

#[tokio::test]
async fn a_job_that_is_given_up_keeps_none_of_its_pictures() {
    let pipeline = gated();
    let mut config = config();
    config.api.limits.max_pixels = Some(256 * 256);
    let bounds = SchedulerConfig { max_batch: 1, max_waiting: 9, ..SchedulerConfig::default() };
    let state = configured_state(&pipeline, bounds, config).await;
    let app = app(state.clone());
    let job = id(&submit(&app, json!({"n": 2, "steps": 2, "response_format": "url"})).await);
    // The first picture is finished after two steps, the second has done one of two.
    pipeline.gate.allow(3);
    let kept = state.jobs.get(&job, 0, 0).unwrap().live;
    while kept.urls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let url = kept.urls().remove(0);
    assert_eq!(delete(&app, &job).await.json["status"], "cancelled");
    pipeline.gate.open();
    assert!(!state.files.has(&url, 0));
    assert_eq!((kept.most_bytes(), &ask(&app, &job).await.json["status"]), (0, &json!("cancelled")));
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_let_go_though_nobody_asks() {
    let state = state(&FakePipeline::default()).await;
    let _server = served(&state).await;
    let app = app(state.clone());
    let body = json!({"prompt": "a cat", "async": true, "response_format": "url"});
    let job = id(&send(&app, generation(body, &[("idempotency-key", "k")])).await);
    let kept = state.jobs.get(&job, 0, 0).unwrap().live;
    while !kept.has_ended() {
        tokio::task::yield_now().await;
    }
    let url = kept.urls().remove(0);
    let counts = || (state.jobs.len(), state.files.has(&url, 0), state.replays.len());
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert_eq!(counts(), (1, true, 1));
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert_eq!(counts(), (0, false, 0));
}

#[tokio::test]
async fn whoever_comes_late_is_told_everything() {
    let app = fake_app().await;
    let job = submit(&app, json!({"n": 2, "seed": 3, "num_inference_steps": 3})).await;
    ended(&app, &id(&job)).await;
    for _ in 0..2 {
        let answer = get(&app, &format!("/v1/images/jobs/{}/events", id(&job))).await;
        assert_eq!(answer.header("content-type"), "text/event-stream");
        let events = events(&answer.text);
        let named = |name: &str| events.iter().filter(|(named, _)| named == name).count();
        assert_eq!((named("image_generation.progress"), named("image_generation.completed")), (6, 2));
        assert_eq!(events.len(), 8);
    }
}

#[tokio::test]
async fn who_follows_a_job_sees_its_previews_and_they_are_not_kept() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let job = id(&submit(&app, json!({"partial_images": 3, "steps": 4, "n": 2, "seed": 3})).await);
    let path = format!("/v1/images/jobs/{job}/events");
    let mut stream = app.clone().oneshot(Request::get(&path).body(Body::empty()).unwrap()).await.unwrap().into_body();
    pipeline.gate.allow(3);
    let mut told = String::new();
    let mut previews = async || {
        while told.matches("event: image_generation.partial_image").count() < 6 {
            let frame = stream.frame().await.expect("the stream goes on").unwrap();
            told += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
        }
    };
    timeout(Duration::from_secs(10), previews()).await.expect("three previews of two pictures");
    let kept = state.jobs.get(&job, 0, 0).unwrap().live;
    let with_previews = kept.most_bytes();
    pipeline.gate.open();
    let done = ended(&app, &job).await;
    let files: usize = (0..2).map(|i| decoded(&done["result"]["data"][i]["b64_json"]).len()).sum();
    assert!(with_previews > 3 * files, "{with_previews} bytes with six previews, {files} of two pictures");
    assert!(kept.most_bytes() < with_previews, "{} {with_previews}", kept.most_bytes());
    let late = get(&app, &path).await.text;
    assert!(late.contains("event: image_generation.completed") && !late.contains("partial_image"), "{late}");
}

#[tokio::test]
async fn a_job_that_fails_says_why() {
    let app = fake_app().await;
    let job = submit(&app, json!({"prompt": "oom in step"})).await;
    let failed = ended(&app, &id(&job)).await;
    assert_eq!((&failed["status"], &failed["result"]), (&json!("failed"), &Value::Null));
    assert_eq!(failed["error"]["code"], "out_of_memory");
    assert!(failed["expires_at"].is_u64());
}

#[tokio::test]
async fn a_job_is_its_owners_alone() {
    let mut config = config();
    config.api_keys.add("a=sk-a").unwrap();
    config.api_keys.add("b=sk-b").unwrap();
    let app = app(configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await);
    let submitted = generation(json!({"prompt": "a cat", "async": true}), &[("authorization", "Bearer sk-a")]);
    let job = id(&send(&app, submitted).await);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("GET", "/events")] {
        let as_bearer = |key: &str| {
            let request = Request::builder().method(method).uri(format!("/v1/images/jobs/{job}{path}"));
            request.header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap()
        };
        let answer = send(&app, as_bearer("sk-b")).await;
        assert_eq!((answer.status.as_u16(), &answer.json["error"]["code"]), (404, &json!("job_not_found")));
        if method == "GET" {
            assert_eq!(send(&app, as_bearer("sk-a")).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_job_expires_an_hour_after_its_end() {
    let app = fake_app().await;
    let job = id(&submit(&app, json!({})).await);
    ended(&app, &job).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3590)).await;
    assert_eq!(ask(&app, &job).await.status, 200);
    tokio::time::advance(Duration::from_secs(11)).await;
    let answer = ask(&app, &job).await;
    assert_eq!((answer.status.as_u16(), &answer.json["error"]["code"]), (404, &json!("job_not_found")));
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for() {
    for bounds in [Bounds { count: 2, bytes: usize::MAX }, Bounds { count: 9, bytes: 1 }] {
        let mut state = state(&FakePipeline::default()).await;
        state.jobs = Jobs::new(bounds).into();
        let app = app(state);
        let mut taken = Vec::new();
        let refused = loop {
            let answer = submit(&app, json!({})).await;
            if answer.status != 202 {
                break answer;
            }
            taken.push(id(&answer));
            assert!(taken.len() < 9, "{bounds:?}");
            ended(&app, taken.last().unwrap()).await;
        };
        assert_eq!(taken.len(), if bounds.bytes == 1 { 1 } else { 2 });
        assert_eq!((refused.status.as_u16(), &refused.json["error"]["code"]), (429, &json!("jobs_full")));
        assert_eq!(refused.header("retry-after"), "60");
        delete(&app, &taken[0]).await;
        assert_eq!(submit(&app, json!({})).await.status, 202, "a place became free");
    }
}

#[tokio::test]
async fn a_server_that_stops_finishes_its_jobs_and_takes_no_more() {
    let pipeline = gated();
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let job = id(&submit(&app, json!({})).await);
    load_becomes(&state, |load| load.running == 1).await;
    let draining = tokio::spawn({
        let scheduler = state.queue.clone();
        async move { scheduler.drain(Duration::from_secs(60)).await }
    });
    let mut readiness = state.queue.readiness();
    readiness.wait_for(|readiness| *readiness == scheduler::Readiness::Draining).await.unwrap();
    let late = submit(&app, json!({})).await;
    assert_eq!((late.status.as_u16(), &late.json["error"]["code"]), (503, &json!("shutting_down")));
    pipeline.gate.open();
    draining.await.unwrap();
    assert_eq!(ended(&app, &job).await["status"], "completed");
}

#[tokio::test]
async fn progress_falls_back_when_a_job_runs_again_and_never_passes_the_end() {
    let pipeline = FakePipeline { panics: Arc::new([3].into()), ..gated() };
    let state = state(&pipeline).await;
    let app = app(state.clone());
    let job = id(&submit(&app, json!({"steps": 4})).await);
    let progress_becomes = async |expected: u64| {
        while ask(&app, &job).await.json["progress"] != expected {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // The third step panics: after two of four steps the count is back to zero.
    pipeline.gate.allow(2);
    progress_becomes(50).await;
    // The panic, the trial of the new pipeline, and one step.
    pipeline.gate.allow(3);
    progress_becomes(25).await;
    pipeline.gate.open();
    let ended = ended(&app, &job).await;
    assert_eq!((&ended["status"], &ended["progress"]), (&json!("completed"), &json!(100)));
}
