//! `latentd serve`: a real server on a real socket.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::binary::latentd;
use crate::metrics::samples;

/// A running server, killed on drop.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts a server on a free port and waits until it is ready.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    /// Does the same with additional environment variables.
    pub async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = latentd();
        command.args(["serve", "--host", "127.0.0.1", "--port", "0"]).args(arguments);
        let server = Self::spawn(command.env("NO_COLOR", "1").envs(variables.iter().copied()));
        let deadline = Instant::now() + Duration::from_secs(120);
        while server.get("/health").await.0 != 200 {
            assert!(Instant::now() < deadline, "the server becomes ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, after) = line.split_once("address=")?;
            Some(after.split_whitespace().next()?.to_owned())
        });
        // Someone must keep reading the pipe, or a server that logs much would block.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address: address.unwrap() }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(tests::http().get(self.url(path)).send().await).await
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn post(&self, body: &Value) -> (u16, Value) {
        answer(self.request(body.to_string()).send().await).await
    }

    fn request(&self, body: String) -> reqwest::RequestBuilder {
        self.request_of("application/json", body)
    }

    fn request_of(&self, content_type: &str, body: String) -> reqwest::RequestBuilder {
        tests::http().post(self.url("/v1/images/generations")).header("content-type", content_type).body(body)
    }

    /// Waits for the end of the process. Fails if it does not end soon.
    async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(exit) = self.child.try_wait().unwrap() {
                return exit;
            }
            assert!(Instant::now() < deadline, "the server ends");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn answer(response: reqwest::Result<reqwest::Response>) -> (u16, Value) {
    let response = response.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_comes_back_as_a_picture() {
    let server = Server::start(&[]).await;
    let body = json!({"prompt": "a fox on a green background", "num_inference_steps": 4, "seed": 3, "n": 2});
    let (status, images) = server.post(&body).await;
    assert_eq!(status, 200, "{images}");
    assert_eq!((images["size"].as_str(), images["output_format"].as_str()), (Some("128x128"), Some("png")));
    assert_eq!(images["usage"]["output_tokens"], 2 * 64);
    assert!(images["usage"]["input_tokens"].as_u64().unwrap() > 0);
    assert_eq!((&images["data"][0]["seed"], &images["data"][1]["seed"]), (&json!(3), &json!(4)));

    // The second picture of the pair equals the picture made alone with its seed.
    let (_, alone) = server.post(&json!({"prompt": body["prompt"], "num_inference_steps": 4, "seed": 4})).await;
    assert_eq!(images["data"][1]["b64_json"], alone["data"][0]["b64_json"]);
    let png = alone["data"][0]["b64_json"].as_str().unwrap();
    assert_eq!(&base64::engine::general_purpose::STANDARD.decode(png).unwrap()[1..4], b"PNG");

    let (status, models) = server.get("/v1/models").await;
    assert_eq!((status, models["data"][0]["id"].as_str()), (200, Some("latentd/builtin")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_openais_shape() {
    let server = Server::start(&["--max-generated-image-size", "65536"]).await;
    let long = "fox ".repeat(3000);
    for (body, status, param) in [
        (json!({"prompt": ""}), 400, "prompt"),
        (json!({"prompt": long}), 400, "prompt"),
        (json!({"prompt": "x", "size": "big"}), 400, "size"),
        (json!({"prompt": "x", "size": "0x128"}), 400, "size"),
        (json!({"prompt": "x", "size": "512x512"}), 400, "size"),
        (json!({"prompt": "x", "num_inference_steps": 0}), 400, "num_inference_steps"),
        (json!({"prompt": "x", "num_inference_steps": 1001}), 400, "num_inference_steps"),
        (json!({"prompt": "x", "seed": -2}), 400, "seed"),
        (json!({"prompt": "x", "n": 0}), 400, "n"),
        (json!({"prompt": "x", "n": 11}), 400, "n"),
        (json!({"prompt": "x", "output_format": "tiff"}), 400, "output_format"),
        (json!({"prompt": "x", "model": "gpt-9"}), 404, "model"),
    ] {
        let (given, error) = server.post(&body).await;
        assert_eq!((given, error["error"]["param"].as_str()), (status, Some(param)), "{body}: {error}");
        for key in ["message", "type", "code"] {
            assert!(error["error"][key].is_string(), "{body}: {error}");
        }
    }
    for (request, status) in [
        (server.request("{".into()), 400),
        (server.request_of("text/plain", "prompt=x".into()), 415),
        (server.request("x".repeat(3 << 20)), 413),
    ] {
        let (given, error) = answer(request.send().await).await;
        assert_eq!(given, status, "{error}");
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    assert_eq!(server.get("/v1/nothing").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_worker() {
    let server = Server::start(&["--max-batch", "1"]).await;
    // This picture takes minutes, and its client gives up after half a second.
    let long = json!({"prompt": "a cat", "num_inference_steps": 1000, "size": "256x256", "negative_prompt": " "});
    let given_up = server.request(long.to_string()).timeout(Duration::from_millis(500)).send().await;
    assert!(given_up.unwrap_err().is_timeout());
    let started = Instant::now();
    assert_eq!(server.post(&json!({"prompt": "a dog", "num_inference_steps": 1})).await.0, 200);
    assert!(started.elapsed() < Duration::from_secs(20), "the worker was freed: {:?}", started.elapsed());
}

/// A server with a tiny model that draws any size, and the body of a picture that takes many minutes.
async fn drawing_a_large_picture(arguments: &[&str]) -> (Server, String) {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens/models/qwen-image");
    let server = Server::start(&[&[model, "--max-generated-image-size", "4194304"], arguments].concat()).await;
    let large = json!({"prompt": "a cat", "num_inference_steps": 1000, "size": "2048x2048"});
    (server, large.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_picture_that_nobody_waits_for_frees_the_worker_within_its_step() {
    let (server, large) = drawing_a_large_picture(&[]).await;
    let given_up = server.request(large).timeout(Duration::from_secs(2)).send().await;
    assert!(given_up.unwrap_err().is_timeout());
    let small = json!({"prompt": "a dog", "num_inference_steps": 1, "size": "64x64"});
    assert_eq!(server.post(&small).await.0, 200);
    let samples = samples(&server).await;
    let interrupted = ["count", "sum"].map(|of| samples[&format!("latentd_interrupt_duration_seconds_{of}")]);
    assert!(interrupted[0] == 1.0 && interrupted[1] < 2.0, "{interrupted:?}");
    assert_eq!(samples["latentd_workers_busy"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_no_time_left_ends_in_the_middle_of_a_step() {
    let (mut server, large) = drawing_a_large_picture(&["--drain-timeout", "1"]).await;
    let taken = tokio::spawn(server.request(large).send());
    while samples(&server).await["latentd_workers_busy"] != 1.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.signal("TERM");
    let (status, error) = answer(taken.await.unwrap()).await;
    assert_eq!((status, error["error"]["code"].as_str()), (503, Some("shutting_down")), "{error}");
    assert!(server.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_was_taken() {
    let mut server = Server::start(&[]).await;
    let body = json!({"prompt": "a cat", "num_inference_steps": 40}).to_string();
    let taken = tokio::spawn(server.request(body).send());
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal("TERM");
    let (status, _) = answer(taken.await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(server.ended().await.success());
}
