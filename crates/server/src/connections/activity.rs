//! Idle detection for connections, whatever the protocol.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// Activity of one connection; a cheap clone.
///
/// A connection is busy while the server works on an answer, and while the system's send buffer is full. It is idle
/// while only the client could continue: one that takes nothing of its answers on HTTP/2 counts as gone, even if it
/// keeps the connection alive.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests that the server is working on.
    working: usize,
    /// Whether the system's send buffer is full.
    is_blocked: bool,
    /// Time of the last activity.
    touched: Instant,
}

impl Activity {
    pub(super) fn begin() -> Self {
        Activity(Arc::new(Mutex::new(State { working: 0, is_blocked: false, touched: Instant::now() })))
    }

    /// Waits until the connection has been idle for `limit`.
    pub(super) async fn rests_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let end = match &*self.state() {
                State { working: 0, is_blocked: false, touched } => *touched + limit,
                // Busy: when the work ends it updates `touched`, and the idle time counts from there.
                _ => now + limit,
            };
            if end <= now {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// Registers a request that the server starts to work on.
    pub(super) fn work(&self) -> Work {
        let mut work = Work { activity: self.clone(), is_working: false };
        work.set(true);
        work
    }

    /// Records whether the system's send buffer is full.
    pub(super) fn blocked(&self, is_blocked: bool) {
        let mut state = self.state();
        (state.is_blocked, state.touched) = (is_blocked, Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's share of the activity.
pub(super) struct Work {
    activity: Activity,
    is_working: bool,
}

impl Work {
    fn set(&mut self, is_working: bool) {
        let mut state = self.activity.state();
        match (self.is_working, is_working) {
            (false, true) => state.working += 1,
            (true, false) => state.working -= 1,
            _ => {}
        }
        state.touched = Instant::now();
        drop(state);
        self.is_working = is_working;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The body of an answer: the server is working if no frame is ready, and the client is if one is.
pub(super) struct AnswerBody {
    body: Body,
    work: Work,
}

impl AnswerBody {
    /// The body of the answer to the request of `work`.
    pub(super) fn new(body: Body, mut work: Work) -> Self {
        work.set(false);
        AnswerBody { body, work }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.work.set(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(75);

    fn seconds(since: Instant) -> u64 {
        since.elapsed().as_secs()
    }

    async fn wait(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_from_the_end_of_its_last_request() {
        let begun = Instant::now();
        let activity = Activity::begin();
        activity.rests_for(LIMIT).await;
        assert_eq!(seconds(begun), 75);

        let activity = Activity::begin();
        let (begun, work) = (Instant::now(), activity.work());
        let working = async {
            wait(1000).await;
            drop(work);
        };
        tokio::join!(activity.rests_for(LIMIT), working);
        assert_eq!(seconds(begun), 1075);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_no_work_and_one_that_is_waited_for_is() {
        let activity = Activity::begin();
        let (begun, mut work) = (Instant::now(), activity.work());
        let working = async {
            wait(200).await;
            // A frame is ready: from here on the client must ask for the next one.
            work.set(false);
            wait(50).await;
            work.set(true);
            wait(100).await;
            work.set(false);
            wait(1000).await;
        };
        tokio::select! {
            () = activity.rests_for(LIMIT) => {}
            () = working => panic!("the answer keeps the connection"),
        }
        assert_eq!(seconds(begun), 200 + 50 + 100 + 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_does_not_rest_while_the_system_has_something_to_send() {
        let (begun, activity) = (Instant::now(), Activity::begin());
        activity.blocked(true);
        let sending = async {
            wait(300).await;
            activity.blocked(false);
        };
        tokio::join!(activity.rests_for(LIMIT), sending);
        assert_eq!(seconds(begun), 375);
    }
}
