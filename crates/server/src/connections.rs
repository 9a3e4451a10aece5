//! Accepting connections, HTTP/1.1 or HTTP/2 as the client begins, and closing those that stall, trickle or idle.

mod activity;
mod pace;
mod paced_body;
mod paced_stream;
mod progress;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::config::ServerConfig;
use activity::{Activity, AnswerBody};
pub use pace::Pace;
use paced_body::PacedBody;
use paced_stream::PacedStream;

/// Longest idle time between two requests. It is longer than the minute of nginx and of AWS's balancers, so that they
/// close first: a request sent on a connection that is being closed is lost.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time for a connection that was idle to close in good order.
const CLOSE: Duration = Duration::from_secs(10);
/// Interval of pings to HTTP/2 clients, and the time to answer one.
const PING: Duration = Duration::from_secs(20);
/// Longest time that sent data may stay unacknowledged, and interval of keepalive probes to a silent peer.
const PATIENCE: Duration = Duration::from_secs(60);
const PROBE: Duration = Duration::from_secs(15);
/// Most bytes that HTTP/1 buffers for writing on a connection: a larger buffer writes an answer of megabytes in fewer
/// calls. Measured, a third more answers a second than with a quarter of it. The read side buffers less
/// (`paced_stream`).
const BUFFER: usize = 256 << 10;

/// Serves `app` until `closing`, and then until every connection has sent its answers.
pub(crate) async fn serve(
    mut listener: TcpListener,
    app: Router,
    config: &ServerConfig,
    closing: impl Future<Output = ()>,
) {
    let builder = builder(config.header_timeout);
    let places = Arc::new(Semaphore::new(config.max_connections));
    let (close, is_closing) = watch::channel(false);
    let mut closing = pin!(closing);
    loop {
        let (stream, address, place) = tokio::select! {
            taken = take(&mut listener, &places) => taken,
            () = &mut closing => break,
        };
        let connection = Connection {
            address,
            app: app.clone(),
            builder: builder.clone(),
            header_timeout: config.header_timeout,
            pace: config.pace,
            is_closing: is_closing.clone(),
        };
        tokio::spawn(async move {
            let _place = place;
            connection.serve(stream).await;
        });
    }
    drop((listener, is_closing));
    let _ = close.send(true);
    // Every connection holds a receiver.
    close.closed().await;
}

/// A connection and its shared state.
struct Connection {
    address: SocketAddr,
    app: Router,
    builder: Builder<TokioExecutor>,
    header_timeout: Duration,
    pace: Pace,
    is_closing: watch::Receiver<bool>,
}

impl Connection {
    /// Serves the connection until the client or the server closes it, or it exceeds a limit.
    async fn serve(self, stream: TcpStream) {
        let Connection { address, app, builder, header_timeout, pace, mut is_closing } = self;
        let (activity, begun) = (Activity::begin(), Arc::new(Notify::new()));
        let stream = PacedStream::new(stream, pace, activity.clone());
        let service = service_fn(|request: Request<Incoming>| {
            begun.notify_one();
            let (app, work) = (app.clone(), activity.work());
            let mut request = request.map(|body| Body::new(PacedBody::new(body, pace)));
            request.extensions_mut().insert(ConnectInfo(address));
            async move {
                app.oneshot(request).await.map(|answer: Response<Body>| answer.map(|body| AnswerBody::new(body, work)))
            }
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let silent = async {
            if timeout(header_timeout, begun.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = connection.as_mut() => return tell(result),
            () = silent => return tracing::debug!("a connection sent no request in time"),
            () = activity.rests_for(KEEP_ALIVE) => {
                connection.as_mut().graceful_shutdown();
                match timeout(CLOSE, connection).await {
                    Ok(result) => tell(result),
                    Err(_) => tracing::debug!("an idle connection did not close in time"),
                }
                return;
            }
            () = told(&mut is_closing) => {}
        }
        connection.as_mut().graceful_shutdown();
        tell(connection.await);
    }
}

/// Waits until the server closes.
async fn told(is_closing: &mut watch::Receiver<bool>) {
    // An error means that the accepting task has ended, which has the same effect.
    let _ = is_closing.wait_for(|is_closing| *is_closing).await;
}

fn tell(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(err) = result {
        tracing::debug!(error = %err, "a connection failed");
    }
}

/// Hyper limits the time for the head of every request, except for the bytes it needs to tell HTTP/1.1 from HTTP/2.
fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let header_timeout = header_timeout.max(KEEP_ALIVE);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    builder
}

/// Accepts the next connection once there is a free place.
async fn take(listener: &mut TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("nobody closes the semaphore. This is a bug.");
    // Axum's `accept` waits if the system is out of file descriptors.
    let (stream, address) = Listener::accept(listener).await;
    // Answers are written whole: Nagle's algorithm would only delay their last packet.
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(error = %err, "TCP_NODELAY could not be set");
    }
    if let Err(err) = give_up_on_the_dead(&stream, PATIENCE) {
        tracing::debug!(error = %err, "TCP timeouts could not be set");
    }
    (stream, address, place)
}

/// Has the system break a connection after `patience` if its peer is silently gone (keepalive probes), acknowledges
/// nothing, or accepts no data while some is queued. Its answers are dropped then, and their jobs with them.
///
/// A peer that waits for its answer and one that will never read it look the same until the buffers of both systems are
/// full, some megabytes. The job of the latter is finished for nothing. [`PacedStream`] handles a peer that reads a
/// byte now and then. Outside Linux only keepalive is available.
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
