//! Taking connections, HTTP/1.1 or HTTP/2 as the client begins, and giving up on those that stall.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use crate::config::ServerConfig;

/// How long a connection may rest between two requests. Longer than the minute of nginx and of AWS's
/// balancers, so that they close first: one that sends on a connection which is being closed loses
/// the request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// HTTP/2 clients are asked this often whether they are there, and have as long to say so.
const PING: Duration = Duration::from_secs(20);
/// How long a peer may leave what was sent to it, and how often one that is silent is asked whether it is there.
const PATIENCE: Duration = Duration::from_secs(60);
const PROBE: Duration = Duration::from_secs(15);
/// Most bytes that HTTP/1 holds of a connection. An upload holds them beside what has come of it; an answer of
/// megabytes is written in the fewer calls the more they are: measured, a third more answers a second than with a
/// quarter of it.
const BUFFER: usize = 256 << 10;

/// Serves `app` until `closing`, and then until every connection has had its answers.
pub(crate) async fn serve(
    mut listener: TcpListener,
    app: Router,
    config: &ServerConfig,
    closing: impl Future<Output = ()>,
) {
    let (header_timeout, body_timeout) = (config.header_timeout, config.body_timeout);
    let builder = builder(header_timeout);
    let places = Arc::new(Semaphore::new(config.max_connections));
    let open = GracefulShutdown::new();
    let mut closing = pin!(closing);
    loop {
        let (stream, place) = tokio::select! {
            taken = take(&mut listener, &places) => taken,
            () = &mut closing => break,
        };
        let begun = Arc::new(Notify::new());
        let (app, first) = (app.clone(), begun.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            begun.notify_one();
            app.clone().oneshot(request.map(|body| Body::new(TimeoutBody::new(body_timeout, body))))
        });
        let connection = open.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            let _place = place;
            let silent = async {
                if timeout(header_timeout, first.notified()).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                result = connection => if let Err(err) = result {
                    tracing::debug!(error = %err, "a connection failed");
                },
                () = silent => tracing::debug!("a connection brought no request in time"),
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// Hyper guards the head of every request but what it needs to tell HTTP/1.1 from HTTP/2.
fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let header_timeout = header_timeout.max(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    builder
}

/// The next connection, once there is a place for it.
async fn take(listener: &mut TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("nobody closes the semaphore. This is a bug.");
    // Axum's, which waits where the system is out of file descriptors.
    let (stream, _) = Listener::accept(listener).await;
    // Answers are written whole: waiting to fill packets would only delay their last one.
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(error = %err, "no TCP_NODELAY");
    }
    if let Err(err) = give_up_on_the_dead(&stream, PATIENCE) {
        tracing::debug!(error = %err, "no timeouts of TCP");
    }
    (stream, place)
}

/// Has the system break a connection whose peer is gone without a word (asked by keepalive), acknowledges nothing, or
/// takes nothing in while there is something for it, for `patience`: its answers are dropped then, and their jobs with
/// them.
///
/// A peer that waits for its answer and one that will never read it look the same until the buffers of both systems
/// are full, some megabytes: the job of the latter is finished for nothing. So are those of a peer that reads a
/// byte now and then. Outside Linux only keepalive is there.
fn give_up_on_the_dead(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(patience).with_interval(PROBE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience))?;
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let places = Arc::new(Semaphore::new(1));
        (take(&mut listener, &places).await.0, client)
    }

    #[tokio::test]
    async fn a_connection_is_taken_with_an_end_to_patience() {
        let (taken, _client) = pair().await;
        let socket = SockRef::from(&taken);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PATIENCE));
        assert!(socket.keepalive().unwrap());
        let times = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!(times, (PATIENCE, PROBE));
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (mut taken, _client) = pair().await;
        give_up_on_the_dead(&taken, Duration::from_secs(1)).unwrap();
        let writing = async {
            loop {
                if let Err(err) = taken.write_all(&[0; 1 << 16]).await {
                    break err;
                }
            }
        };
        let err = timeout(Duration::from_secs(20), writing).await.expect("the connection breaks");
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    }
}
