//! Settings of `latentd serve` from flags, variables and a file; keys; the log as JSON.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{folder, latentd, run, stderr};
use crate::serve::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_stands_over_a_variable_and_a_variable_over_the_file() {
    let folder = folder();
    let file = folder.path().join("server.toml");
    let text = "max_generated_image_size = 10000\nserved_model_name = [\"from-file\"]\nno_priorities = true\n";
    fs::write(&file, format!("{text}cache_backend = \"cache_dit\"\ncache_config = {{ max_warmup_steps = 7 }}\n"))
        .unwrap();
    let variables = [
        ("LATENTD_CONFIG", file.to_str().unwrap()),
        ("LATENTD_MAX_GENERATED_IMAGE_SIZE", "20000"),
        ("LATENTD_SERVED_MODEL_NAME", "from-variable"),
        ("LATENTD_QUANTIZATION", "int8"),
    ];
    let server = Server::start_with(&["--max-generated-image-size", "30000"], &variables).await;
    let (_, info) = server.get("/info").await;
    assert_eq!(info["limits"]["max_pixels"], 30000);
    assert_eq!(info["model"]["names"], json!(["from-variable"]));
    // The built-in model's checkpoint is in bf16. The weights stay so if the processor multiplies it faster.
    let dtype = if kernels::multiplies_bf16() { "bf16" } else { "f32" };
    assert_eq!((&info["dtype"], &info["quantization"]), (&json!(dtype), &json!("int8")));
    assert_eq!((&info["priorities"], &info["cache"]["config"]["max_warmup_steps"]), (&json!(false), &json!(7)));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let folder = folder();
    let file = folder.path().join("server.toml");
    fs::write(&file, "max_batchs = 1\nport = \"x\"\napi_key_file = \"/no/such/keys\"\n").unwrap();
    let mut command = latentd();
    command.args(["serve", "/no/such/model", "--cache_config", "{}", "--config"]).arg(&file).env("LATENTD_DTYPE", "f8");
    let output = run(&mut command);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for part in [
        "error: 6 settings cannot be honoured:\n",
        "server.toml: `max_batchs` is not a setting. Near: max_batch\n",
        "server.toml: `port`: must be a whole number from 0 to 65535. Given: x\n",
        "  LATENTD_DTYPE: must be one of f32, bf16, f16. Given: f8\n",
        "  `--cache-config` needs `--cache-backend cache_dit`\n",
        "  cannot read `/no/such/keys`",
        "/no/such/model",
    ] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert_eq!(message.lines().count(), 7, "{message}");
}

/// In a pod, Kubernetes sets `LATENTD_PORT` to the address of a service named `latentd`, and the log is not a terminal.
#[test]
fn a_server_in_a_pod_listens_where_its_file_says() {
    let folder = folder();
    let file = folder.path().join("server.toml");
    fs::write(&file, "\u{feff}port = 0\nhost = \"localhost\"\n").unwrap();
    let variables = [
        ("LATENTD_PORT", "tcp://10.0.0.7:8091"),
        ("LATENTD_SERVICE_HOST", "10.0.0.7"),
        ("LATENTD_CONFIG", file.to_str().unwrap()),
        ("LATENTD_API_KEY", "4m1gJ3yZ0pX7+Qk/9sVbT2uR6wYcH8dLfA5eNoKxPjE=\n"),
    ];
    let mut command = latentd();
    command.arg("serve").envs(variables).env_remove("NO_COLOR").stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let (mut log, mut address) = (String::new(), None);
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    while let Some(line) = lines.next().filter(|_| address.is_none()) {
        address = line.split_once("address=").and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned));
        log += &(line + "\n");
    }
    std::thread::spawn(move || lines.for_each(drop));
    let address = address.unwrap_or_else(|| panic!("{log}"));
    let well = run(latentd().args(["healthcheck", "--url", &format!("http://{address}")]));
    let unwell = run(latentd().arg("healthcheck").envs(variables));
    let _ = server.kill();
    let _ = server.wait();
    assert!(!log.contains('\u{1b}') && log.contains("LATENTD_PORT tells of a Kubernetes service"), "{log}");
    assert!(address.starts_with("127.0.0.1:") || address.starts_with("[::1]:"), "{address}");
    assert_eq!(well.status.code(), Some(0), "{}", stderr(&well));
    // The file's port 0 lets the server take any free port, so nothing answers on port 0 itself.
    let message = stderr(&unwell);
    assert!(unwell.status.code() == Some(1) && message.contains("http://localhost:0/livez"), "{message}");
}

#[test]
fn a_budget_that_holds_no_picture_is_told_before_anybody_asks() {
    let mut command = latentd();
    command.args(["serve", "--port", "0", "--host", "localhost", "--memory-budget", "1MiB"]).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told: Vec<_> = lines.take_while(|line| !line.contains("ready: POST")).collect();
    let _ = server.kill();
    let _ = server.wait();
    let told = told.join("\n");
    assert!(told.contains("`--memory-budget` 1.0 MiB holds no picture of the default size, which needs "), "{told}");
}

#[test]
fn the_version_says_what_was_built() {
    let output = run(latentd().arg("--version"));
    let version = String::from_utf8(output.stdout).unwrap();
    assert!(version.starts_with(concat!("latentd ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.trim_end().contains(std::env::consts::ARCH) && version.contains("features: "), "{version}");
}

#[test]
fn the_help_does_not_show_the_keys_of_the_environment() {
    let output = run(latentd().args(["serve", "--help"]).env("LATENTD_API_KEY", "sk-secret"));
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("LATENTD_API_KEY") && !help.contains("sk-secret"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_as_json_has_a_line_a_request_with_the_name_of_its_key() {
    let folder = folder();
    let keys = folder.path().join("keys");
    fs::write(&keys, "# ours\nteam-a=sk-secret\n").unwrap();
    let mut command = latentd();
    command.args(["serve", "--config", concat!(env!("CARGO_MANIFEST_DIR"), "/../config/server.toml")]);
    command.args(["--host", "127.0.0.1", "--port", "0", "--log-format", "json", "--api-key-file"]).arg(&keys);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut events =
        lines.filter(|line| line.starts_with('{')).map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let mut event =
        |message: &str| events.find(|event| event["message"].as_str().unwrap().starts_with(message)).unwrap();
    let address = event("listening")["address"].as_str().unwrap().to_owned();
    event("ready");

    let url = format!("http://{address}/v1/images/generations");
    let ask = |key: &'static str| {
        let request = tests::http().post(&url).header("content-type", "application/json").bearer_auth(key);
        request.body(r#"{"prompt": "a hidden fox", "num_inference_steps": 2}"#).timeout(Duration::from_secs(60)).send()
    };
    assert_eq!(ask("sk-wrong").await.unwrap().status(), 401);
    let answer = ask("sk-secret").await.unwrap();
    assert_eq!(answer.status(), 200);
    let bytes = answer.bytes().await.unwrap().len();
    let (refused, served) = (event("request"), event("request"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(json!([refused["status"], refused["key"], refused["code"]]), json!([401, null, "invalid_api_key"]));
    assert_eq!(json!([served["status"], served["key"], served["bytes"]]), json!([200, "team-a", bytes]));
    assert_eq!(json!([served["n"], served["steps"], served["size"]]), json!([1, 2, "128x128"]));
    let both = format!("{refused}{served}");
    assert!(!both.contains("fox") && !both.contains("sk-"), "{both}");
}
