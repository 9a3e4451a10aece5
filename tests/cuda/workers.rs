//! A server with CUDA: one worker on each of two GPUs, what it reports about them, and what is loaded when it is ready.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::counts::modules;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn two_gpus_make_the_pictures_of_one() {
    let alone = ["--max-batch", "1"];
    let Some(one) = Server::start("cuda", &alone, &[]).await else { return };
    let two = Server::start("cuda:0,cuda:1", &alone, &[]).await.unwrap();
    let pictures = async |server: &Server| join_all((1..=6).map(|seed| server.picture(seed))).await;
    assert_eq!(pictures(&two).await, pictures(&one).await);
    // Each worker has encoded prompts.
    let metrics = two.get("/metrics").await;
    for worker in ["0", "1"] {
        let kept = format!(r#"encoding_cache_bytes{{worker="{worker}"}} "#);
        let line = metrics.lines().find(|line| line.contains(&kept));
        assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{kept}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_runs_on_is_told() {
    let Some(server) = Server::start("cuda:1,cuda:0", &["--offload", "encoder"], &[]).await else { return };
    let info: Value = serde_json::from_str(&server.get("/info").await).unwrap();
    for (device, name) in info["devices"].as_array().unwrap().iter().zip(["cuda:1", "cuda:0"]) {
        assert_eq!(device["device"], name, "{info}");
        let expected = json!({
            "name": "The emulated GPU", "compute_capability": "9.0", "memory_bytes": 4_u64 << 30, "attention": "mma"
        });
        assert_eq!(device["gpu"], expected, "{info}");
        let parts = device["parts"].as_array().unwrap();
        let host: Vec<_> = parts.iter().map(|part| part["host_bytes"].as_u64().unwrap() > 0).collect();
        assert_eq!(host, [true, false, false], "{info}");
    }
    let log = server.log();
    for told in ["name=\"The emulated GPU\"", "attention=\"mma\"", "text encoder", "on the host"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

/// The driver takes seconds to compile a module of candle's kernels that is not in its cache.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_to_load_once_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("counts");
    let cached = ["--cache-backend", "cache_dit", "--cache-config", r#"{"residual_diff_threshold": 1}"#];
    let Some(server) = Server::start("cuda", &cached, &[("EMULATOR_COUNTS", counts.to_str().unwrap())]).await else {
        return;
    };
    let before = modules(&counts);
    assert!(before > 5, "{before}");
    server.picture(1).await;
    assert_eq!(modules(&counts), before);
}
