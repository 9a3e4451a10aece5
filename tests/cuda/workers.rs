//! A server with CUDA: a worker on each of two GPUs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::runs::checkpoint;

/// A running server; killed with the value.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// The program that `LATENTD` names with the tiny Qwen-Image on these devices, once it is ready.
    async fn start(device: &str) -> Option<Self> {
        let Some(program) = std::env::var_os("LATENTD") else {
            println!("skipped: LATENTD names no program");
            return None;
        };
        let mut command = Command::new(program);
        command.args(["serve", &checkpoint("qwen-image"), "--host", "127.0.0.1", "--port", "0"]);
        command.args(["--dtype", "f32", "--device", device, "--max-batch", "1"]);
        command.env("EMULATOR_GPUS", "2").env("NO_COLOR", "1").env_remove("EMULATOR_COUNTS");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.split_once("address=")?.1.split_whitespace().next()?.to_owned()));
        // The pipe must be read on, or a chatty server would block.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Server { child, address: address.unwrap() };
        let deadline = Instant::now() + Duration::from_secs(240);
        while reqwest::get(server.url("/health")).await.unwrap().status() != 200 {
            assert!(Instant::now() < deadline, "the server becomes ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(server)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The picture of a seed, as it is answered.
    async fn picture(&self, seed: u64) -> Value {
        let body = json!({"prompt": format!("a fox {seed}"), "size": "32x32", "num_inference_steps": 4, "seed": seed});
        let request = reqwest::Client::new().post(self.url("/v1/images/generations"));
        let response = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert!(answer["data"][0]["b64_json"].is_string(), "{answer}");
        answer["data"][0]["b64_json"].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gpus_make_the_pictures_of_one() {
    let (Some(one), Some(two)) = (Server::start("cuda").await, Server::start("cuda:0,cuda:1").await) else { return };
    let pictures = async |server: &Server| join_all((1..=6).map(|seed| server.picture(seed))).await;
    assert_eq!(pictures(&two).await, pictures(&one).await);
    // Each worker has encoded prompts.
    let metrics = reqwest::get(two.url("/metrics")).await.unwrap().text().await.unwrap();
    for worker in ["0", "1"] {
        let kept = format!(r#"encoding_cache_bytes{{worker="{worker}"}} "#);
        let line = metrics.lines().find(|line| line.contains(&kept));
        assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{kept}: {metrics}");
    }
}
