//! Models from the Hub: downloads from a fake Hub on this machine, then runs from the cache alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::binary::{folder, latentd, stderr};
use crate::fake_hub::{COMMIT, Hub};

/// A timeout longer than anything in these tests.
const LONG: Duration = Duration::from_secs(240);

/// The command `latentd generate` for `owner/model`, with the Hub at `endpoint` and the cache in `home`.
fn generate(endpoint: &str, home: &Path, picture: &Path) -> Command {
    let mut command = latentd();
    command.args(["generate", "a cat", "--model", "owner/model", "--num-inference-steps", "1", "--seed", "1", "-o"]);
    command.arg(picture).env("HF_HOME", home).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint);
    command.env("HF_TOKEN", "hf_test");
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Output {
    tokio::task::block_in_place(|| command.output().unwrap())
}

fn snapshot(home: &Path) -> PathBuf {
    home.join(format!("hub/models--owner--model/snapshots/{COMMIT}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_model_is_downloaded_once_and_then_served_from_the_cache() {
    let (endpoint, folder) = (Hub::new().serve().await, folder());
    let picture = |name: &str| folder.path().join(name);
    let generate = |name: &str| generate(&endpoint, folder.path(), &picture(name));

    let refused = run(generate("a.png").env("HF_TOKEN", "wrong"));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("set HF_TOKEN"), "{}", stderr(&refused));

    let absent = run(generate("a.png").env("HF_HUB_OFFLINE", "1"));
    assert_eq!(absent.status.code(), Some(2));
    assert!(stderr(&absent).contains("`owner/model` is not in the Hub's cache `"), "{}", stderr(&absent));

    let downloaded = run(&mut generate("a.png"));
    assert!(downloaded.status.success(), "{}", stderr(&downloaded));
    assert!(snapshot(folder.path()).join("model_index.json").is_file(), "Python's cache layout");

    let cached = run(generate("b.png").env("HF_HUB_OFFLINE", "1"));
    assert!(cached.status.success(), "{}", stderr(&cached));
    let read = |name: &str| fs::read(picture(name)).unwrap();
    assert_eq!(read("a.png"), read("b.png"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cached_snapshot_lacks_is_fetched_and_nothing_else() {
    let (hub, folder) = (Hub::new(), folder());
    let (endpoint, picture) = (hub.serve().await, folder.path().join("a.png"));
    let whole = run(&mut generate(&endpoint, folder.path(), &picture));
    assert!(whole.status.success(), "{}", stderr(&whole));
    for lacks in [
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ] {
        let path = snapshot(folder.path()).join(lacks);
        fs::remove_file(path.canonicalize().unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        hub.downloads.lock().unwrap().clear();

        let offline = run(generate(&endpoint, folder.path(), &picture).env("HF_HUB_OFFLINE", "1"));
        assert_eq!(offline.status.code(), Some(2));
        let expected = if lacks.ends_with(".json") { lacks } else { "transformer/*.safetensors" };
        let told = stderr(&offline);
        assert!(
            told.contains(&format!("`owner/model` is not whole in the cache: `{expected}` is missing in `")),
            "{told}"
        );
        assert!(told.contains("HF_HUB_OFFLINE forbids downloading it: unset it"), "{told}");

        let completed = run(&mut generate(&endpoint, folder.path(), &picture));
        assert!(completed.status.success(), "{lacks}: {}", stderr(&completed));
        let fetched = hub.downloads.lock().unwrap().clone();
        assert_eq!(fetched, BTreeMap::from([(lacks.to_owned(), 1)]));
    }
    let unreachable = snapshot(folder.path()).join("vae/config.json");
    fs::remove_file(unreachable).unwrap();
    let output = run(&mut generate("http://127.0.0.1:1", folder.path(), &picture));
    let told = stderr(&output);
    assert!(told.contains("the Hub's cache has `owner/model` without `vae/config.json`, and cannot reach"), "{told}");
}

/// A running process whose messages are read.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    told: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (stderr, (sender, lines)) = (BufReader::new(child.stderr.take().unwrap()), mpsc::channel());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, told: Vec::new() }
    }

    /// Reads messages until one contains `words`.
    fn says(&mut self, words: &str) {
        tokio::task::block_in_place(|| {
            while !self.told.last().is_some_and(|line| line.contains(words)) {
                let line = self.lines.recv_timeout(LONG);
                self.told.push(line.unwrap_or_else(|_| panic!("it never said `{words}`: {:?}", self.told)));
            }
        });
    }

    fn succeeds(mut self) {
        let status = tokio::task::block_in_place(|| self.child.wait().unwrap());
        self.told.extend(self.lines.iter());
        assert!(status.success(), "{:?}", self.told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_processes_waits_for_the_first_one_s_download() {
    let (open, until) = watch::channel(false);
    let held = "transformer/diffusion_pytorch_model.safetensors";
    let hub = Hub { held: Some((held, until)), ..Hub::new() };
    let (endpoint, folder) = (hub.serve().await, folder());
    let picture = |name: &str| folder.path().join(name);
    let first = Running::start(&mut generate(&endpoint, folder.path(), &picture("a.png")));
    let id = first.child.id();
    let started = async {
        while hub.downloads(held) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, started).await.unwrap();
    let mut second = Running::start(&mut generate(&endpoint, folder.path(), &picture("b.png")));
    second.says(&format!("`owner/model` is being downloaded by process {id} on "));
    open.send(true).unwrap();
    first.succeeds();
    second.succeeds();
    let downloads = hub.downloads.lock().unwrap().clone();
    assert!(downloads.values().all(|times| *times == 1), "{downloads:?}");
    assert_eq!(fs::read(picture("a.png")).unwrap(), fs::read(picture("b.png")).unwrap());
}

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// The range requests for the second half of the weights.
fn second_half(hub: &Hub) -> Vec<(String, String)> {
    vec![(WEIGHTS.to_owned(), format!("bytes={}-", hub.files[WEIGHTS].len() / 2))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_is_continued_where_it_was() {
    let hub = Hub { breaks: Some(WEIGHTS), ..Hub::new() };
    let (endpoint, folder) = (hub.serve().await, folder());
    let output = run(&mut generate(&endpoint, folder.path(), &folder.path().join("a.png")));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(*hub.ranges.lock().unwrap(), second_half(&hub));
    assert_eq!(fs::read(snapshot(folder.path()).join(WEIGHTS)).unwrap(), hub.files[WEIGHTS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_has_downloaded_is_not_fetched_again() {
    let (_open, until) = watch::channel(false);
    let hub = Hub { held: Some((WEIGHTS, until)), ..Hub::new() };
    let (endpoint, folder) = (hub.serve().await, folder());
    let picture = folder.path().join("a.png");
    let mut first = generate(&endpoint, folder.path(), &picture).stderr(Stdio::null()).spawn().unwrap();
    let half = hub.files[WEIGHTS].len() as u64 / 2;
    let blobs = folder.path().join("hub/models--owner--model/blobs");
    let has_half = |blob: fs::DirEntry| blob.metadata().is_ok_and(|blob| blob.len() == half);
    let arrived = async {
        while !fs::read_dir(&blobs).is_ok_and(|mut blobs| blobs.any(|blob| blob.is_ok_and(has_half))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, arrived).await.unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let output = run(&mut generate(&endpoint, folder.path(), &picture));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(*hub.ranges.lock().unwrap(), second_half(&hub));
    assert_eq!(fs::read(snapshot(folder.path()).join(WEIGHTS)).unwrap(), hub.files[WEIGHTS]);
}

/// The Hub redirects clients to another host for large files, including Xet's.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_elsewhere_are_fetched_without_the_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("http://localhost:{}/elsewhere", listener.local_addr().unwrap().port());
    let hub = Hub { elsewhere: Some(elsewhere), ..Hub::new() };
    let (endpoint, folder) = (hub.serve_on(listener).await, folder());
    let output = run(&mut generate(&endpoint, folder.path(), &folder.path().join("a.png")));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(snapshot(folder.path()).join(WEIGHTS)).unwrap(), hub.files[WEIGHTS]);
    let blob = fs::read_link(snapshot(folder.path()).join(WEIGHTS)).unwrap();
    let etag = WEIGHTS.replace('/', "-");
    assert_eq!(blob, Path::new("../../../blobs").join(etag), "Python's cache layout");
}

/// Python's client locks single files, in the same place.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_by_another_program_is_waited_for() {
    let (endpoint, folder) = (Hub::new().serve().await, folder());
    let locks = folder.path().join("hub/.locks/models--owner--model");
    fs::create_dir_all(&locks).unwrap();
    let lock = File::create(locks.join("vae-config.json.lock")).unwrap();
    lock.lock().unwrap();
    let mut waits = Running::start(&mut generate(&endpoint, folder.path(), &folder.path().join("a.png")));
    waits.says("`owner/model` is being downloaded by another program, which holds `");
    lock.unlock().unwrap();
    waits.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_written_to_is_named_with_its_variable() {
    let (endpoint, folder) = (Hub::new().serve().await, folder());
    let home = folder.path().join("file");
    fs::write(&home, "").unwrap();
    let output = run(&mut generate(&endpoint, &home, &folder.path().join("a.png")));
    assert_eq!(output.status.code(), Some(2));
    let expected = format!("cannot write to the Hub's cache `{}/hub`, where HF_HOME puts it: ", home.display());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_a_pipeline_is_told_what_it_is_before_anything_is_downloaded() {
    let hub = Hub::with([("qwen-image-Q4_K_M.gguf".to_owned(), &b"GGUF"[..])]);
    let (endpoint, folder) = (hub.serve().await, folder());
    let output = run(&mut generate(&endpoint, folder.path(), &folder.path().join("a.png")));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`owner/model` is made of GGUF files"), "{}", stderr(&output));
    assert_eq!(hub.downloads("qwen-image-Q4_K_M.gguf"), 0);
}

/// All commands report the same fault of a folder that they cannot load, and `models` reports it for the cache.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_tells_what_is_wrong_with_a_checkpoint() {
    let home = folder();
    let snapshot = home.path().join(format!("hub/models--Qwen--Qwen-Image/snapshots/{COMMIT}"));
    fs::create_dir_all(snapshot.join("scheduler")).unwrap();
    fs::create_dir_all(home.path().join("hub/models--Qwen--Qwen-Image/refs")).unwrap();
    fs::write(home.path().join("hub/models--Qwen--Qwen-Image/refs/main"), COMMIT).unwrap();
    let write = |file: &str, text: &str| fs::write(snapshot.join(file), text).unwrap();
    write("model_index.json", r#"{"_class_name": "QwenImagePipeline"}"#);
    write("scheduler/scheduler_config.json", "{}");
    let lacks = "`tokenizer/vocab.json` is missing";
    for command in [&["generate", "a cat", "--model"][..], &["serve"]] {
        let output = run(latentd().args(command).arg(&snapshot));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(lacks), "{command:?}: {}", stderr(&output));
    }
    let models = |arguments: &[&str]| {
        let output = run(latentd().arg("models").args(arguments).env("HF_HOME", home.path()));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = models(&[]);
    assert!(text.contains(&format!("in the Hub's cache, but {lacks}, and fetched when the model is run")), "{text}");
    let rows: serde_json::Value = serde_json::from_str(&models(&["--json"])).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == "Qwen/Qwen-Image").unwrap();
    assert_eq!(row["in_hub_cache"], false);
    assert!(row["hub_cache_fault"].as_str().unwrap().starts_with(lacks), "{row}");
}
