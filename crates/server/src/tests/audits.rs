//! Audits: pictures that are made again without the step cache.

use axum::Router;
use cache::{Aim, CacheConfig, Calibration, FittedPlan, Jump, Plans, Psnr};
use scheduler::SchedulerConfig;
use scheduler::fake::{FakePipeline, Flaw};
use serde_json::{Value, json};

use super::{config, configured_state, generate, get};
use crate::{AppState, app};

/// A server that audits this share; its fake step cache makes a third of the bytes two too large.
async fn audited(share: f64) -> (AppState, Router) {
    let is_cached = |cache: Option<&CacheConfig>| cache.is_none_or(|cache| !cache.never_reuses());
    let flaw = Flaw::new(move |request| is_cached(request.cache.as_ref()).then_some(2));
    let pipeline = FakePipeline { flaw, ..FakePipeline::default() };
    let mut config = config();
    (config.api.cache, config.cache_audit) = (Some(CacheConfig::default()), share);
    config.api.allow_request_cache_config = true;
    let state = configured_state(&pipeline, SchedulerConfig::default(), config).await;
    (state.clone(), app(state))
}

/// Polls `/info` until `count` audits are done; returns its audit results.
async fn over(app: &Router, count: u64) -> Value {
    for _ in 0..10_000 {
        let told = get(app, "/info").await.json["cache_audits"].clone();
        if told["done"].as_u64().unwrap() + told["dropped"].as_u64().unwrap() == count {
            return told;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("{count} audits in {}", get(app, "/info").await.text);
}

#[tokio::test]
async fn pictures_of_a_cache_are_made_again_without_it_and_compared() {
    let (_, app) = audited(1.0).await;
    for cache in [Value::Null, json!("fast"), json!("off")] {
        let body = json!({"prompt": "a cat", "n": 2, "seed": 5, "size": "64x64", "cache": cache, "partial_images": 1});
        assert_eq!(generate(&app, body).await.status, 200);
    }
    let told = over(&app, 4).await;
    // 10 log10(255^2 / (4 / 3)): pictures made without a cache do not count.
    let psnr = told["mean"]["psnr_db"].as_f64().unwrap();
    assert!((psnr - 46.8814).abs() < 1e-4, "{told}");
    assert!(told["mean"]["ssim"].as_f64().unwrap() > 0.99);
    let aims: Vec<_> = told["aims"].as_array().unwrap().iter().map(|aim| (&aim["aim"], &aim["done"])).collect();
    assert_eq!(aims, [(&json!("cache_dit"), &json!(2)), (&json!("fast"), &json!(2))]);
    assert_eq!((&told["share"], &told["dropped"], &told["promised_psnr_db"]), (&json!(1.0), &json!(0), &Value::Null));
    assert_eq!(told["mean"]["latent_error"], 0.0, "the fake's latents are its seed");

    let metrics = get(&app, "/metrics").await.text;
    for line in [
        "cache_audits_total{outcome=\"done\"} 4",
        "cache_audit_psnr_db_count{aim=\"cache_dit\"} 2",
        "cache_audit_psnr_db_bucket{aim=\"fast\",le=\"45\"} 0",
        "cache_audit_psnr_db_bucket{aim=\"fast\",le=\"47.5\"} 2",
        "cache_audit_ssim_count{aim=\"fast\"} 2",
        "cache_audit_latent_error_count{aim=\"fast\"} 2",
        // Only requested pictures count.
        "images_total 6",
        "queue_duration_seconds_count 6",
        "stage_duration_seconds_count{stage=\"decode\"} 6",
        "workers_busy 0",
    ] {
        assert!(metrics.contains(&format!("\nlatentd_{line}\n")), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_server_audits_nothing_unless_it_is_told_to() {
    let (_, app) = audited(0.0).await;
    assert_eq!(generate(&app, json!({"prompt": "a cat", "size": "64x64"})).await.status, 200);
    assert_eq!(get(&app, "/info").await.json["cache_audits"], Value::Null);
    assert!(!get(&app, "/metrics").await.text.contains("cache_audit_psnr_db_count"));
}

#[tokio::test]
async fn audits_that_make_way_are_counted() {
    let (state, app) = audited(1.0).await;
    assert_eq!(generate(&app, json!({"prompt": "a cat", "size": "64x64"})).await.status, 200);
    // A worker waits for a moment before it starts idle work.
    state.queue.drain(std::time::Duration::from_secs(10)).await;
    assert_eq!(over(&app, 1).await["dropped"], 1);
    assert!(get(&app, "/metrics").await.text.contains("\nlatentd_cache_audits_total{outcome=\"dropped\"} 1\n"));
}

/// Plans that promise any requested quality.
fn plans() -> Plans {
    let plan =
        FittedPlan { computed: vec![0], jumps: vec![Jump::euler()], changes: Vec::new(), psnr: Psnr::of(vec![99.0]) };
    let (class, model) = ("FakePipeline".into(), "digest".into());
    let plans = Plans::default();
    let plan = vec![plan];
    plans.replace(Calibration { class, model, num_inference_steps: 4, guidance: None, pictures: 8, plans: plan });
    plans
}

#[tokio::test]
async fn plans_whose_pictures_miss_their_promise_are_tightened_by_as_much() {
    // A third of the bytes is four too large, 40.86 dB; once the plans are tight enough, two too large, 46.88 dB.
    let plans = plans();
    let followed = plans.clone();
    let flaw = Flaw::new(move |request| {
        let is_cached = request.cache.as_ref().is_none_or(|cache| !cache.never_reuses());
        is_cached.then(|| if followed.current(false).unwrap().shift < 4.0 { 4 } else { 2 })
    });
    let mut config = config();
    config.api.cache = Some(CacheConfig { planned: Some(Aim::Psnr(45.0)), ..CacheConfig::default() });
    (config.cache_audit, config.plans) = (1.0, plans.clone());
    let pipeline = FakePipeline { flaw, ..FakePipeline::default() };
    let app = app(configured_state(&pipeline, SchedulerConfig::default(), config).await);
    for (count, shift) in [(7, 0.0), (8, 4.1393), (16, 4.1393)] {
        let done = get(&app, "/info").await.json["cache_audits"]["done"].as_u64().unwrap();
        let body = json!({"prompt": "a cat", "n": count - done, "size": "64x64"});
        assert_eq!(generate(&app, body).await.status, 200);
        let told = over(&app, count).await;
        let tightened = told["tightened_by_db"].as_f64().unwrap();
        assert!((tightened - shift).abs() < 1e-3 && told["promised_psnr_db"] == 45.0, "{told}");
        assert_eq!(plans.current(false).unwrap().shift, tightened);
    }
    let metrics = get(&app, "/metrics").await.text;
    assert!(metrics.contains("\nlatentd_cache_audit_tightened_db 4.13"), "{metrics}");
    assert!(metrics.contains("\nlatentd_cache_audit_promised_psnr_db{aim=\"psnr_45\"} 45.0\n"), "{metrics}");
}

#[tokio::test]
async fn it_is_told_what_plans_there_are_and_which_are_being_learnt() {
    let plans = plans();
    plans.learn_from(16);
    let mut config = config();
    config.plans = plans;
    let state = configured_state(&FakePipeline::default(), SchedulerConfig::default(), config).await;
    let expected = json!([
        {"guided": true, "pictures": 0, "learning_from": 16},
        {"guided": false, "pictures": 8, "learning_from": null},
    ]);
    assert_eq!(get(&app(state), "/info").await.json["cache"]["plans"], expected);
}
