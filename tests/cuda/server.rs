//! A running server with the tiny Qwen-Image, by the program that `LATENTD` names.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::runs::checkpoint;

/// The time that a server may take to start or to recover. The emulator is slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// The server process, killed on drop.
pub struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server on these devices with more arguments and variables, and waits until it is ready.
    pub async fn start(device: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        let Some(program) = std::env::var_os("LATENTD") else {
            println!("skipped: LATENTD names no program");
            return None;
        };
        let mut command = Command::new(program);
        command.args(["serve", &checkpoint("qwen-image"), "--host", "127.0.0.1", "--port", "0"]);
        command.args(["--dtype", "f32", "--device", device]).args(arguments);
        command.env("EMULATOR_GPUS", "2").env("NO_COLOR", "1").env_remove("EMULATOR_COUNTS");
        command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log = Arc::new(Mutex::new(String::new()));
        let told = log.clone();
        let tell = move |line: &str| {
            let mut log = told.lock().unwrap();
            log.push_str(line);
            log.push('\n');
        };
        let address = lines.by_ref().find_map(|line| {
            tell(&line);
            Some(line.split_once("address=")?.1.split_whitespace().next()?.to_owned())
        });
        // The pipe must be drained, or a server that logs much would block.
        std::thread::spawn(move || lines.for_each(|line| tell(&line)));
        let Some(address) = address else { panic!("the server did not start: {}", log.lock().unwrap()) };
        let server = Server { child, address, log };
        server.is_ready().await;
        Some(server)
    }

    /// Waits until the server accepts requests.
    pub async fn is_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while tests::http().get(self.url("/health")).send().await.unwrap().status() != 200 {
            assert!(Instant::now() < deadline, "the server becomes ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The body at a path.
    pub async fn get(&self, path: &str) -> String {
        tests::http().get(self.url(path)).send().await.unwrap().text().await.unwrap()
    }

    /// Requests a picture of a seed and a size in `steps` steps; returns the status and the answer.
    pub async fn ask(&self, seed: u64, size: &str, steps: usize) -> (u16, Value) {
        let body = json!({"prompt": format!("a fox {seed}"), "size": size, "num_inference_steps": steps, "seed": seed});
        let request = tests::http().post(self.url("/v1/images/generations"));
        let response = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    /// The small picture of a seed, encoded as in the answer.
    pub async fn picture(&self, seed: u64) -> Value {
        let (_, answer) = self.ask(seed, "32x32", 4).await;
        assert!(answer["data"][0]["b64_json"].is_string(), "{answer} {}", self.log());
        answer["data"][0]["b64_json"].clone()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the server ends by itself; returns its status.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server ends: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
