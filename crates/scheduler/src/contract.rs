//! The contract of a [`Queue`] as assertions, for the tests of each implementation.

use std::time::Duration;

use diffusion::ImageRequest;

use crate::{JobOptions, Load, Queue, Readiness, SubmitError, Ticket, Update};

/// Timeout of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asserts that `queue` keeps the contract, and drains it at the end. `request` creates a request of a few steps. The
/// queue must have no other jobs and room for some.
///
/// # Panics
/// If the queue breaks the contract.
pub async fn holds(queue: &dyn Queue, request: impl Fn() -> ImageRequest) {
    within("the model is ready", is_ready(queue)).await;
    each_job_is_answered_once(queue, &request).await;
    a_check_takes_nothing(queue, &request).await;
    a_dropped_ticket_is_a_cancelled_job(queue, &request).await;
    idle_work_is_done_and_counted_nowhere(queue, &request).await;
    a_drained_queue_takes_nothing(queue, &request).await;
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

async fn is_ready(queue: &dyn Queue) {
    let mut readiness = queue.readiness();
    let ready = readiness.wait_for(|readiness| matches!(readiness, Readiness::Ready(_))).await;
    assert!(ready.is_ok(), "readiness is told as long as the queue is there");
}

async fn is_empty(queue: &dyn Queue) {
    let mut load = queue.load();
    let empty = load.wait_for(|load| load.waiting == 0 && load.running == 0).await;
    assert!(empty.is_ok(), "the load is told as long as the queue is there");
}

async fn submitted(queue: &dyn Queue, requests: Vec<ImageRequest>) -> Vec<Ticket> {
    let count = requests.len();
    let tickets = within("an answer to a submission", queue.submit_all(requests, JobOptions::default())).await;
    let tickets = tickets.unwrap_or_else(|err| panic!("jobs are taken: {err}"));
    assert_eq!(tickets.len(), count, "a ticket a request");
    tickets
}

async fn each_job_is_answered_once(queue: &dyn Queue, request: &impl Fn() -> ImageRequest) {
    for mut ticket in submitted(queue, vec![request(), request()]).await {
        let (mut steps, mut answers) = (0, 0);
        while let Some(update) = within("news of a job", ticket.next()).await {
            match update {
                Update::Stepped(_) => steps += 1,
                Update::Done(outcome) => {
                    let generated = outcome.unwrap_or_else(|err| panic!("a picture is made: {err}"));
                    assert_eq!(generated.steps.len(), steps, "each step is reported once");
                    answers += 1;
                }
                _ => {}
            }
        }
        assert_eq!(answers, 1);
        assert!(ticket.next().await.is_none(), "nothing comes after the answer");
        assert_eq!(ticket.position(), None);
    }
    within("an empty queue", is_empty(queue)).await;
}

async fn a_check_takes_nothing(queue: &dyn Queue, request: &impl Fn() -> ImageRequest) {
    let checked = within("an answer to a check", queue.check(vec![request()], JobOptions::default())).await;
    assert_eq!(checked, Ok(()));
    assert_eq!(*queue.load().borrow(), Load::default());
}

async fn a_dropped_ticket_is_a_cancelled_job(queue: &dyn Queue, request: &impl Fn() -> ImageRequest) {
    drop(submitted(queue, vec![request(); 3]).await);
    within("an empty queue after the tickets are dropped", is_empty(queue)).await;
}

async fn idle_work_is_done_and_counted_nowhere(queue: &dyn Queue, request: &impl Fn() -> ImageRequest) {
    let ticket = queue.submit_idle(request(), JobOptions::default());
    let outcome = within("idle work", ticket.finished()).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(*queue.load().borrow(), Load::default());
}

async fn a_drained_queue_takes_nothing(queue: &dyn Queue, request: &impl Fn() -> ImageRequest) {
    let last = submitted(queue, vec![request()]).await;
    within("the drain", queue.drain(PATIENCE)).await;
    for ticket in last {
        assert!(within("the answer of a job that was taken before", ticket.finished()).await.is_ok());
    }
    let refused = within("an answer to a submission", queue.submit_all(vec![request()], JobOptions::default())).await;
    assert!(matches!(refused, Err(SubmitError::ShuttingDown)), "{refused:?}");
    let checked = within("an answer to a check", queue.check(vec![request()], JobOptions::default())).await;
    assert_eq!(checked, Err(SubmitError::ShuttingDown));
}
