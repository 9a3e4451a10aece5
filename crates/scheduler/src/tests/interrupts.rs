//! Turns that no client waits for end at once. Uninterrupted, these pipelines would run for an hour.

use diffusion::{PreviewMethod, PreviewTimes, Previews};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

pub(super) type Notes = Arc<Mutex<Vec<String>>>;

/// Notes turns, answers and the number of busy workers, one line per change.
fn notes() -> (Notes, Observer) {
    let notes = Notes::default();
    let observer = {
        let notes = notes.clone();
        move |observation: &Observation<'_>| {
            let note = match observation {
                Observation::Encoded { .. } => "encoded".into(),
                Observation::Stepped { .. } => "stepped".into(),
                Observation::Previewed { .. } => "previewed".into(),
                Observation::Decoded { .. } => "decoded".into(),
                Observation::Cancelled => "cancelled".into(),
                Observation::Interrupted { .. } => "interrupted".into(),
                Observation::Preempted { .. } => "preempted".into(),
                Observation::Crashed => "crashed".into(),
                Observation::Restarted => "restarted".into(),
                Observation::Answered { outcome, .. } => format!("answered {}", outcome.is_ok()),
                Observation::Load { running, busy_workers, .. } => format!("{running} in {busy_workers}"),
                Observation::Submitted { .. } | Observation::Refused(_) | Observation::Started { .. } => return,
            };
            let mut notes = notes.lock().unwrap();
            if notes.last() != Some(&note) {
                notes.push(note);
            }
        }
    };
    (notes, Arc::new(observer))
}

pub(super) async fn observed(pipeline: &FakePipeline, max_batch: usize) -> (Scheduler, Notes) {
    let (notes, observer) = notes();
    let config = SchedulerConfig { max_batch, ..CONFIG };
    let scheduler = Scheduler::spawn(SpawnOptions { config, observer: Some(observer) }, vec![pipeline.factory()]);
    ready(&scheduler).await;
    notes.lock().unwrap().clear();
    (scheduler, notes)
}

/// Waits until `what` was noted. Returns the notes from there on.
pub(super) async fn noted(notes: &Notes, what: &str) -> Vec<String> {
    for _ in 0..10_000 {
        let so_far = notes.lock().unwrap().clone();
        if let Some(from) = so_far.iter().position(|note| note == what) {
            return so_far[from..].to_vec();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what} in {:?}", notes.lock().unwrap());
}

/// Waits until a turn was interrupted and the worker is idle. Returns the notes from `first` on.
async fn until_idle(notes: &Notes, first: &str) -> Vec<String> {
    noted(notes, "interrupted").await;
    while notes.lock().unwrap().last().is_none_or(|last| last != "0 in 0") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    noted(notes, first).await
}

/// A request that takes an hour in its first step, its first preview or its decoding.
fn endless(stage: &str) -> (FakePipeline, ImageRequest) {
    let pipeline = FakePipeline::default();
    let pipeline = match stage {
        "step" => FakePipeline { step_delay: HOUR, ..pipeline },
        "preview" => FakePipeline { preview_delay: HOUR, ..pipeline },
        _ => FakePipeline { decode_delay: HOUR, ..pipeline },
    };
    let previews = Previews { times: PreviewTimes::Interval(1), method: PreviewMethod::Vae };
    let job = ImageRequest { previews: (stage == "preview").then_some(previews), ..request(64, 2) };
    (pipeline, job)
}

#[tokio::test]
async fn cancelling_the_only_job_of_a_turn_ends_it_whatever_the_stage() {
    for (stage, before) in [("step", 2), ("preview", 3), ("decode", 4)] {
        let (pipeline, job) = endless(stage);
        let (scheduler, notes) = observed(&pipeline, 2).await;
        let ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();
        // The number of calls up to the stage: the encoding, the steps, and the stage's own.
        while pipeline.probe.calls.load(Ordering::SeqCst) < before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(ticket);
        let after = until_idle(&notes, "cancelled").await;
        // The worker counts as busy until it is back. Its half-done work is reported as neither step nor picture.
        assert_eq!(after[..3], ["cancelled", "0 in 1", "interrupted"], "{stage}: {after:?}");
        let done = ["stepped", "previewed", "decoded"];
        assert!(!after.iter().any(|note| done.contains(&note.as_str())), "{stage}: {after:?}");
        pipeline.probe.emptied().await;
    }
}

#[tokio::test]
async fn the_worker_of_an_interrupted_turn_serves_the_next_job() {
    let pipeline = gated();
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let ticket = scheduler.submit(request(16, 2), JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 1).await;
    drop(ticket);
    until_idle(&notes, "cancelled").await;
    pipeline.gate.open();
    let next = scheduler.submit(request(16, 2), JobOptions::default()).await.unwrap();
    assert_eq!(answer(next).await.unwrap().steps.len(), 2);
    assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 1, "nothing was loaded again");
}

#[tokio::test]
async fn a_turn_with_a_living_job_goes_on() {
    let pipeline = gated();
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let mut tickets = scheduler.submit_all(vec![request(16, 2); 2], JobOptions::default()).await.unwrap();
    while pipeline.probe.batch_sizes() != [2] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(tickets.pop());
    load_becomes(&scheduler, 0, 1).await;
    pipeline.gate.open();
    assert_eq!(answer(tickets.remove(0)).await.unwrap().steps.len(), 2);
    assert!(!notes.lock().unwrap().iter().any(|note| note == "interrupted"), "{notes:?}");
}

#[tokio::test]
async fn a_turn_ends_with_the_last_of_its_jobs() {
    let pipeline = gated();
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let tickets = scheduler.submit_all(vec![request(16, 2); 2], JobOptions::default()).await.unwrap();
    while pipeline.probe.batch_sizes() != [2] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(tickets);
    until_idle(&notes, "cancelled").await;
    pipeline.probe.emptied().await;
    assert_eq!(pipeline.probe.batch_sizes(), [2]);
}

#[tokio::test]
async fn a_deadline_that_passes_during_a_step_ends_it() {
    let (pipeline, job) = endless("step");
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let soon = JobOptions { deadline: Some(Duration::from_secs(1)), ..JobOptions::default() };
    let ticket = scheduler.submit(job, soon).await.unwrap();
    assert_eq!(answer(ticket).await, Err(JobError::TooLate));
    let after = until_idle(&notes, "answered false").await;
    assert_eq!(after[..3], ["answered false", "0 in 1", "interrupted"], "{after:?}");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_what_runs() {
    let (pipeline, job) = endless("step");
    let (scheduler, notes) = observed(&pipeline, 1).await;
    let tickets = scheduler.submit_all(vec![job; 3], JobOptions::default()).await.unwrap();
    while pipeline.probe.batch_sizes().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scheduler.drain(Duration::from_millis(20)).await;
    for ticket in tickets {
        assert_eq!(answer(ticket).await, Err(JobError::ShuttingDown));
    }
    until_idle(&notes, "answered false").await;
    pipeline.probe.emptied().await;
}

/// The end of the runtime drops the event loop, whatever the workers do: a step, or the calibration.
#[test]
fn the_end_of_the_event_loop_ends_every_worker() {
    for calibration in [Duration::ZERO, HOUR] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (pipeline, job) = endless("step");
        // Dropped with its worker's thread.
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let factory = pipeline.factory();
        let config = SchedulerConfig { calibration, ..CONFIG };
        let factory = move || (factory(), &alive).0;
        let (scheduler, ticket) = runtime.block_on(async {
            let scheduler = Scheduler::spawn(config, vec![factory]);
            let mut ticket = None;
            if calibration.is_zero() {
                ready(&scheduler).await;
                ticket = Some(scheduler.submit(job, JobOptions::default()).await.unwrap());
            }
            while pipeline.probe.batch_sizes().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (scheduler, ticket)
        });
        drop(runtime);
        let ended = ended.recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected), "the thread goes on");
        drop((scheduler, ticket));
    }
}
