//! Shutdown requests from the system or the keyboard.

use tokio::signal::ctrl_c;
use tokio::sync::mpsc;

/// Turns every SIGTERM and every ctrl-c into a message: the first asks the server to finish the accepted jobs, the
/// second to stop at once.
///
/// # Errors
/// The system does not let the process listen for its signals.
pub fn stop_on_signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (stop, stopped) = mpsc::channel(2);
    let mut terminate = Terminate::new()?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = terminate.recv() => {}
                // If ctrl-c cannot be received, SIGTERM still counts.
                result = ctrl_c() => if result.is_err() { terminate.recv().await },
            }
            if stop.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(stopped)
}

#[cfg(unix)]
struct Terminate(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Terminate {
    fn new() -> std::io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map(Terminate)
    }

    async fn recv(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(not(unix))]
struct Terminate;

#[cfg(not(unix))]
impl Terminate {
    fn new() -> std::io::Result<Self> {
        Ok(Terminate)
    }

    async fn recv(&mut self) {
        std::future::pending::<()>().await;
    }
}
