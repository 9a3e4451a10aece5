//! Pictures that an edit names by URL: which addresses a server fetches from, and which it refuses.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::edit::KLEIN;
use crate::serve::Server;

/// A listener on this machine that the server must not connect to.
struct Bystander(TcpListener);

impl Bystander {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Bystander(listener)
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    fn was_called(&self) -> bool {
        self.0.accept().is_ok()
    }
}

async fn refusal(server: &Server, url: &str) -> String {
    let edit = json!({"prompt": "make it night", "images": [{"image_url": url}]}).to_string();
    let request = tests::http().post(server.url("/v1/images/edits")).header("content-type", "application/json");
    let answer = request.body(edit).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    answer["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_unless_the_operator_allows_it() {
    let (server, bystander) = (Server::start(&[KLEIN]).await, Bystander::new());
    let message = refusal(&server, &bystander.url()).await;
    assert!(message.contains("its operator can allow it with --allow-image-urls"), "{message}");
    assert!(!bystander.was_called());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fetches_pictures_reaches_nobody_on_its_own_machine() {
    let bystander = Bystander::new();
    let port = bystander.0.local_addr().unwrap().port();
    let hosts = format!("127.0.0.1:{port},localhost:{port}");
    let flags = ["--allow-image-urls=any", "--image-url-hosts", &hosts];
    let server = Server::start(&[&[KLEIN][..], &flags].concat()).await;
    let message = refusal(&server, &bystander.url()).await;
    assert!(message.contains("be of a public address"), "{message}");
    // Nothing is fetched for a model that accepts no pictures.
    let server = Server::start(&flags).await;
    let message = refusal(&server, &format!("http://localhost:{port}/cat.png")).await;
    assert!(message.contains("`image` must be absent"), "{message}");
    assert!(!bystander.was_called());
}
