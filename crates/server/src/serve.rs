//! Serving connections, and ceasing to.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::connections;
use crate::expiry;
use crate::routes::app;
use crate::state::AppState;

/// How long, once every job is answered, the answers may take to reach their clients.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves connections until told to stop.
///
/// The first message of `stop` turns readiness to 503 and refuses new jobs, while connections
/// are still taken, so that a load balancer sees it; what was taken is finished, within the
/// configured time. The second message returns at once. When `stop` is closed, that is no message.
///
/// # Errors
/// None that is known: connections that fail are dropped alone.
pub async fn serve(listener: TcpListener, state: AppState, mut stop: mpsc::Receiver<()>) -> io::Result<()> {
    let (scheduler, drain_timeout) = (state.scheduler.clone(), state.config.drain_timeout);
    let (close, closing) = oneshot::channel::<()>();
    let stopping = async move {
        told(&mut stop).await;
        tracing::info!("stopping: finishing what was taken");
        let finish = async {
            scheduler.drain(drain_timeout).await;
            let _ = close.send(());
            tokio::time::sleep(CLOSE_TIMEOUT).await;
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

async fn told(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
