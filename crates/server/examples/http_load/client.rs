//! A connection that loads a server.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::server_process::Server;

/// A connection that requests one picture after another.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
    /// The last answer. The buffer is reused, so that the load takes little of the cores it shares with the server.
    pub(crate) body: Vec<u8>,
    /// Header lines of each request.
    pub(crate) more: &'static str,
}

impl Client {
    pub(crate) async fn open(server: &Server, more: &'static str) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::of(stream, more)
    }

    pub(crate) fn of(stream: TcpStream, more: &'static str) -> Self {
        Client { stream: BufReader::with_capacity(64 << 10, stream), body: Vec::new(), more }
    }

    /// The answer's length in bytes.
    pub(crate) async fn generate(&mut self) -> usize {
        self.send(r#"{"prompt":"a fox on a green background","num_inference_steps":1,"seed":7}"#).await;
        self.answer().await;
        self.body.len()
    }

    pub(crate) async fn send(&mut self, body: &str) {
        let request = format!(
            "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n{body}",
            body.len(),
            self.more,
        );
        self.stream.get_mut().write_all(request.as_bytes()).await.unwrap();
    }

    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line
    }

    pub(crate) async fn status(&mut self) -> u16 {
        self.line().await.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) async fn answer(&mut self) {
        assert_eq!(self.status().await, 200);
        let mut length = 0;
        loop {
            let line = self.line().await;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).await.unwrap();
    }
}
