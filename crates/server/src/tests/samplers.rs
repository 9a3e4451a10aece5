//! Samplers: the default, a request's own, and the reported steps.

use diffusion::Sampler;
use scheduler::fake::FakePipeline;
use serde_json::{Value, json};

use super::{events, fake_app, generate, get, state};
use crate::app;

#[tokio::test]
async fn info_names_the_default_and_what_there_is() {
    let default = async |sampler| {
        let mut pipeline = FakePipeline::default();
        pipeline.card.default_sampler = sampler;
        let info = get(&app(state(&pipeline).await), "/info").await.json;
        assert_eq!(info["samplers"], json!(["euler", "heun", "dpmpp_2m", "unipc"]));
        info["model"]["default_sampler"].clone()
    };
    assert_eq!(default(Sampler::default()).await, "euler");
    assert_eq!(default(Sampler::UniPc).await, "unipc");
}

/// The reported steps of a request for five: the index and total of each; and the final warnings.
async fn told(default: Sampler, sampler: Value) -> (Vec<(u64, u64)>, Value) {
    let mut pipeline = FakePipeline::default();
    pipeline.card.default_sampler = default;
    let body = json!({"prompt": "a cat", "stream": true, "stream_progress": true, "steps": 5, "sampler": sampler});
    let events = events(&generate(&app(state(&pipeline).await), body).await.text);
    let (completed, steps) = events.split_last().unwrap();
    let numbers = |event: &Value| {
        let number = |name: &str| event[name].as_u64().unwrap();
        (number("step_index"), number("num_inference_steps"))
    };
    (steps.iter().map(|(_, event)| numbers(event)).collect(), completed.1["warnings"].clone())
}

#[tokio::test]
async fn each_evaluation_is_a_step_that_is_told() {
    let steps = |n: u64| (0..n).map(|step| (step, n)).collect::<Vec<_>>();
    for (default, sampler, expected) in [
        (Sampler::Euler, Value::Null, 5),
        (Sampler::Euler, json!("heun"), 9),
        (Sampler::Heun, Value::Null, 9),
        (Sampler::Heun, json!("dpmpp_2m"), 5),
        (Sampler::Heun, json!("unipc"), 5),
    ] {
        assert_eq!(told(default, sampler.clone()).await, (steps(expected), json!([])), "{default:?}, {sampler}");
    }
}

#[tokio::test]
async fn few_steps_are_eulers_and_that_is_told_to_who_asked_for_another() {
    let answer = async |body: Value| generate(&fake_app().await, body).await;
    let few = answer(json!({"prompt": "a cat", "sampler": "dpmpp_2m", "steps": 3})).await;
    let why = "`sampler` has no effect: dpmpp_2m is another than euler from 4 steps on.";
    assert_eq!((few.header("x-ignored-params"), &few.json["warnings"]), ("sampler", &json!([why])));
    let enough = answer(json!({"prompt": "a cat", "sampler": "dpmpp_2m", "steps": 4})).await;
    assert_eq!((enough.header("x-ignored-params"), &enough.json["warnings"]), ("", &Value::Null));
    let unknown = answer(json!({"prompt": "a cat", "sampler": "ddim"})).await;
    let error = &unknown.json["error"];
    assert_eq!((unknown.status.as_u16(), error["param"].as_str()), (400, Some("sampler")));
    assert_eq!(error["message"], "`sampler` must be one of euler, heun, dpmpp_2m, unipc. Given: \"ddim\"");
}
