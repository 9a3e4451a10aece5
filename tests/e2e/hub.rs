//! A model from the Hub: a look-alike on this machine, then the cache alone.

use std::path::PathBuf;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::binary::{folder, latentd, run, stderr};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the built-in model as `owner/model`, to whoever has the token.
async fn hub() -> String {
    let app = Router::new()
        .route("/api/models/owner/model/revision/{revision}", get(info))
        .route("/api/models/owner/model/tree/{revision}", get(tree))
        .route("/owner/model/resolve/{revision}/{*file}", get(file))
        .fallback(|| async { (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")], "no such repository") })
        .with_state(());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn info(State(()): State<()>) -> Response {
    let siblings: Vec<_> = demo::FILES.iter().map(|file| json!({"rfilename": file.path})).collect();
    axum::Json(json!({"id": "owner/model", "modelId": "owner/model", "sha": COMMIT, "siblings": siblings}))
        .into_response()
}

async fn tree() -> Response {
    let entry = |file: &demo::File| json!({"type": "file", "path": file.path, "size": file.bytes.len(), "oid": COMMIT});
    axum::Json(demo::FILES.iter().map(entry).collect::<Vec<_>>()).into_response()
}

async fn file(Path((_, path)): Path<(String, String)>, headers: HeaderMap) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer hf_test") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(bytes) = demo::file(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let etag = format!("\"{}\"", path.replace('/', "-"));
    ([("x-repo-commit", COMMIT.to_owned()), ("etag", etag)], bytes).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_model_is_downloaded_once_and_then_served_from_the_cache() {
    let (endpoint, folder) = (hub().await, folder());
    let generate = |picture: PathBuf, offline: &str, token: &str| {
        let mut command = latentd();
        command.args([
            "generate",
            "a cat",
            "--model",
            "owner/model",
            "--num-inference-steps",
            "1",
            "--seed",
            "1",
            "-o",
        ]);
        command.arg(picture).env("HF_HOME", folder.path()).env("HF_HUB_OFFLINE", offline);
        command.env("HF_ENDPOINT", &endpoint).env("HF_TOKEN", token).env("HF_HUB_DISABLE_XET", "1");
        run(&mut command)
    };
    let picture = |name: &str| folder.path().join(name);

    let refused = tokio::task::block_in_place(|| generate(picture("a.png"), "0", "wrong"));
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("set HF_TOKEN"), "{}", stderr(&refused));

    let absent = tokio::task::block_in_place(|| generate(picture("a.png"), "1", "hf_test"));
    assert_eq!(absent.status.code(), Some(2));
    assert!(stderr(&absent).contains("is not whole in the cache"), "{}", stderr(&absent));

    let downloaded = tokio::task::block_in_place(|| generate(picture("a.png"), "0", "hf_test"));
    assert!(downloaded.status.success(), "{}", stderr(&downloaded));
    let snapshot = folder.path().join(format!("hub/models--owner--model/snapshots/{COMMIT}/model_index.json"));
    assert!(snapshot.is_file(), "Python's cache layout");

    let cached = tokio::task::block_in_place(|| generate(picture("b.png"), "1", "hf_test"));
    assert!(cached.status.success(), "{}", stderr(&cached));
    let read = |name: &str| std::fs::read(picture(name)).unwrap();
    assert_eq!(read("a.png"), read("b.png"));
}
