//! Taking connections, HTTP/1.1 or HTTP/2 as the client begins, and giving up on those that stall.

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
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout.max(KEEP_ALIVE));
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
    (stream, place)
}
