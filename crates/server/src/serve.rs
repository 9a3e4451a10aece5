//! Serving connections until shutdown.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::connections;
use crate::expiry;
use crate::routes::app;
use crate::state::AppState;

/// Time for the answers to reach their clients once every job is finished.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for clients to poll their async jobs and to fetch pictures by URL once every job is finished, and the interval
/// at which the server checks whether all have.
const TELL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(50));

/// Serves connections until `stop` says otherwise.
///
/// The first message of `stop` turns readiness to 503 and refuses new jobs. Connections are still accepted, so that a
/// load balancer sees the 503. Accepted jobs are finished, and clients can read the results of async jobs, within the
/// configured time. The second message returns at once. Closing `stop` is not a message.
///
/// # Errors
/// None at present: a failed connection is dropped alone.
pub async fn serve(listener: TcpListener, state: AppState, mut stop: mpsc::Receiver<()>) -> io::Result<()> {
    let draining = state.clone();
    let (close, closing) = oneshot::channel::<()>();
    let stopping = async move {
        told(&mut stop).await;
        tracing::info!("stopping: finishing accepted jobs");
        let finish = async {
            let (begun, drain_timeout) = (Instant::now(), draining.config.drain_timeout);
            draining.queue.drain(drain_timeout).await;
            let left = drain_timeout.saturating_sub(begun.elapsed());
            let _ = timeout(left.min(TELL.0), all_told(&draining)).await;
            let _ = close.send(());
            sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            () = finish => tracing::warn!("stopping: some connections did not close in time"),
            () = told(&mut stop) => tracing::warn!("stopping at once"),
        }
    };
    let closed = async {
        let _ = closing.await;
    };
    let config = state.config.clone();
    tokio::select! {
        () = expiry::run(state.clone()) => {}
        () = connections::serve(listener, app(state), &config, closed) => {}
        () = stopping => {}
    }
    Ok(())
}

/// Waits until every async job was polled after its end and every picture behind a URL was fetched: they are lost with
/// this process.
async fn all_told(state: &AppState) {
    let is_told = |now| state.jobs.are_all_told(now) && state.files.are_all_fetched(now);
    while !is_told(state.clock.now()) {
        sleep(TELL.1).await;
    }
}

async fn told(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
