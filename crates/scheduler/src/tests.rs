//! The scheduler as a whole, with its threads, on a pipeline that only counts.

use std::sync::atomic::Ordering;
use std::time::Duration;

use diffusion::{ImageRequest, PipelineError, StepReport};
use tokio::sync::mpsc;

use crate::fake::{FakePipeline, Gate, colour, request};
use crate::{JobError, Load, Outcome, Readiness, Scheduler, SchedulerConfig, SubmitError, Ticket, Update};

const CONFIG: SchedulerConfig = SchedulerConfig { max_batch: 2, max_waiting: 4 };

async fn ready(scheduler: &Scheduler) {
    let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
    scheduler.readiness().wait_for(is_ready).await.unwrap();
}

async fn start(pipeline: &FakePipeline) -> Scheduler {
    let scheduler = Scheduler::spawn(CONFIG, vec![pipeline.factory()]);
    ready(&scheduler).await;
    scheduler
}

fn gated() -> FakePipeline {
    FakePipeline { gate: Gate::closed(), ..FakePipeline::default() }
}

fn prompted(prompt: &str) -> ImageRequest {
    ImageRequest { prompt: prompt.into(), ..request(64, 3) }
}

async fn becomes(scheduler: &Scheduler, expected: Readiness) {
    let mut readiness = scheduler.readiness();
    let became = readiness.wait_for(|readiness| *readiness == expected);
    tokio::time::timeout(Duration::from_secs(10), became).await.expect("the readiness stays as it is").unwrap();
}

async fn load_becomes(scheduler: &Scheduler, waiting: usize, running: usize) {
    let mut load = scheduler.load();
    let became = load.wait_for(|load| *load == Load { waiting, running });
    tokio::time::timeout(Duration::from_secs(10), became).await.expect("the load stays as it is").unwrap();
}

async fn answer(ticket: Ticket) -> Outcome {
    tokio::time::timeout(Duration::from_secs(10), ticket.finished()).await.expect("nobody waits for ever")
}

async fn after_step(ticket: &mut Ticket, step_index: usize) {
    let is_it = |update: &Update| matches!(update, Update::Stepped(report) if report.step_index == step_index);
    while !is_it(&ticket.next().await.unwrap()) {}
}

fn pipeline_error(outcome: Outcome) -> PipelineError {
    match outcome.unwrap_err() {
        JobError::Pipeline(err) => err,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_job_reports_every_step_and_ends_in_its_picture() {
    let scheduler = start(&FakePipeline::default()).await;
    let mut job = request(16, 3);
    job.params.seed = 0x0203;
    let mut ticket = scheduler.submit(job).await.unwrap();

    assert_eq!(ticket.next().await, Some(Update::Started));
    let mut steps = Vec::<StepReport>::new();
    let generated = loop {
        match ticket.next().await.unwrap() {
            Update::Stepped(report) => steps.push(report),
            Update::Done(outcome) => break outcome.unwrap(),
            Update::Started => panic!("started twice"),
        }
    };
    assert_eq!(steps.iter().map(|report| report.step_index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(generated.steps, steps);
    assert_eq!(generated.prompt_tokens, 2);
    assert_eq!(generated.image.pixels[..3], colour(0x0203));
    assert_eq!(ticket.next().await, None, "nothing comes after the answer");
}

#[tokio::test]
async fn time_is_booked_to_its_stage() {
    let (step_delay, decode_delay) = (Duration::from_millis(5), Duration::from_millis(20));
    let scheduler = start(&FakePipeline { step_delay, decode_delay, ..FakePipeline::default() }).await;
    let timings = scheduler.submit(request(16, 4)).await.unwrap().finished().await.unwrap().timings;
    assert!(timings.denoise >= 4 * step_delay && timings.decode >= decode_delay, "{timings:?}");
    assert!(timings.encode < step_delay, "{timings:?}");
}

#[tokio::test]
async fn jobs_submitted_together_step_together() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 3), request(48, 3)]).await.unwrap();
    for ticket in tickets {
        answer(ticket).await.unwrap();
    }
    assert_eq!(pipeline.probe.batch_sizes(), [2, 2, 2]);
}

#[tokio::test]
async fn a_dropped_ticket_cancels_within_one_step() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let mut ticket = scheduler.submit(request(16, 1000)).await.unwrap();
    pipeline.gate.allow(3);
    after_step(&mut ticket, 2).await;

    drop(ticket);
    load_becomes(&scheduler, 0, 0).await;
    pipeline.gate.open();
    pipeline.probe.emptied().await;
    let steps = pipeline.probe.batch_sizes().len();
    assert!(steps <= 4, "three steps were taken before the drop, then {}", steps - 3);
}

#[tokio::test]
async fn cancelling_one_leaves_its_mates_alone() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let mut tickets = scheduler.submit_all(vec![request(16, 3), request(16, 3)]).await.unwrap();
    pipeline.gate.allow(1);
    after_step(&mut tickets[0], 0).await;
    let kept = tickets.remove(1);
    drop(tickets);
    load_becomes(&scheduler, 0, 1).await;
    pipeline.gate.open();
    assert_eq!(answer(kept).await.unwrap().steps.len(), 3);
    assert_eq!(pipeline.probe.batch_sizes()[2..], [1]);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_before_it_starts() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let running = scheduler.submit_all(vec![request(16, 1), request(16, 1)]).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    let waiting = scheduler.submit(request(16, 1)).await.unwrap();
    load_becomes(&scheduler, 1, 2).await;
    drop(waiting);
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    for ticket in running {
        answer(ticket).await.unwrap();
    }
    assert_eq!(pipeline.probe.batch_sizes(), [2]);
}

#[tokio::test]
async fn a_submission_given_up_before_its_reply_leaves_nothing_behind() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let mut submission = Box::pin(scheduler.submit(request(16, 5)));
    // One poll sends the job; the loop takes it while nobody looks at the reply.
    std::future::poll_fn(|cx| {
        assert!(submission.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    load_becomes(&scheduler, 0, 1).await;
    drop(submission);
    load_becomes(&scheduler, 0, 0).await;
    pipeline.gate.open();
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_refused_request_fails_alone() {
    let scheduler = start(&FakePipeline::default()).await;
    let requests = vec![prompted("invalid in prepare"), request(16, 2), prompted("fail in decode")];
    let mut outcomes = Vec::new();
    for ticket in scheduler.submit_all(requests).await.unwrap() {
        outcomes.push(answer(ticket).await);
    }
    let [invalid, fine, failed] = outcomes.try_into().unwrap();
    assert!(matches!(pipeline_error(invalid), PipelineError::Invalid(err) if err.field == "prompt"));
    assert_eq!(fine.unwrap().steps.len(), 2);
    assert!(matches!(pipeline_error(failed), PipelineError::Model(_)));
}

#[tokio::test]
async fn a_failed_step_fails_its_batch_and_nobody_else() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    let batch = vec![prompted("oom in step"), request(16, 9), request(16, 2)];
    let mut tickets = scheduler.submit_all(batch).await.unwrap();
    let later = answer(tickets.pop().unwrap());
    for ticket in tickets {
        assert_eq!(pipeline_error(answer(ticket).await), PipelineError::OutOfMemory);
    }
    assert!(later.await.is_ok(), "it waited while the batch failed");
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_panic_is_answered_and_the_worker_loads_its_model_again() {
    for stage in ["prepare", "step", "decode"] {
        let pipeline = FakePipeline::default();
        let scheduler = start(&pipeline).await;
        let batch = vec![prompted(&format!("panic in {stage}")), request(16, 9), request(16, 1)];
        let mut tickets = scheduler.submit_all(batch).await.unwrap();
        let waiting = tickets.pop().unwrap();
        assert_eq!(answer(tickets.remove(0)).await, Err(JobError::Crashed), "{stage}");
        assert!(answer(waiting).await.is_ok(), "a job in line survives a panic in {stage}");
        assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 2);
        pipeline.probe.emptied().await;
    }
}

#[tokio::test]
async fn nothing_is_taken_while_the_model_loads() {
    let (go, gate) = std::sync::mpsc::channel();
    let factory = move || gate.recv().map(|()| FakePipeline::default());
    let scheduler = Scheduler::spawn(CONFIG, vec![factory]);
    assert_eq!(*scheduler.readiness().borrow(), Readiness::Loading);
    assert_eq!(scheduler.submit(request(16, 1)).await.unwrap_err(), SubmitError::Loading);
    go.send(()).unwrap();
    ready(&scheduler).await;
    assert!(answer(scheduler.submit(request(16, 1)).await.unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_model_that_does_not_load_is_said_and_refuses() {
    let failing = || Err::<FakePipeline, _>("no such folder");
    let panicking = || -> Result<FakePipeline, &str> { panic!("while loading") };
    let failed = [
        (Scheduler::spawn(CONFIG, vec![failing]), "no such folder"),
        (Scheduler::spawn(CONFIG, vec![panicking]), "its thread panicked"),
    ];
    for (scheduler, reason) in failed {
        becomes(&scheduler, Readiness::Failed(reason.into())).await;
        assert_eq!(scheduler.submit(request(16, 1)).await.unwrap_err(), SubmitError::Failed(reason.into()));
    }
}

#[tokio::test]
async fn a_worker_that_cannot_come_back_answers_everything() {
    let loads = std::sync::atomic::AtomicUsize::new(0);
    let once = move || match loads.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(FakePipeline::default()),
        _ => Err("the disk is gone"),
    };
    let scheduler = Scheduler::spawn(CONFIG, vec![once]);
    ready(&scheduler).await;
    let jobs = vec![prompted("panic in step"), request(16, 9), request(16, 9)];
    for ticket in scheduler.submit_all(jobs).await.unwrap() {
        assert_eq!(answer(ticket).await, Err(JobError::Crashed));
    }
    becomes(&scheduler, Readiness::Failed("the disk is gone".into())).await;
}

#[tokio::test]
async fn a_full_line_refuses_with_a_prediction() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let _running = scheduler.submit_all(vec![request(16, 1), request(16, 1)]).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    let _waiting = scheduler.submit_all(vec![request(16, 1); 4]).await.unwrap();
    let refused = scheduler.submit(request(16, 1)).await.unwrap_err();
    assert_eq!(refused, SubmitError::QueueFull { waiting: 4, predicted_drain: Duration::ZERO });
    assert_eq!(*scheduler.load().borrow(), Load { waiting: 4, running: 2 });
    pipeline.gate.open();
}

#[tokio::test]
async fn draining_finishes_what_was_taken_and_takes_no_more() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 2); 4]).await.unwrap();
    let drained = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.drain(Duration::from_secs(600)).await }
    });
    becomes(&scheduler, Readiness::Draining).await;
    assert_eq!(scheduler.submit(request(16, 1)).await.unwrap_err(), SubmitError::ShuttingDown);
    assert!(!drained.is_finished());
    pipeline.gate.open();
    drained.await.unwrap();
    assert_eq!(*scheduler.load().borrow(), Load::default());
    for ticket in tickets {
        assert!(answer(ticket).await.is_ok());
    }
}

#[tokio::test]
async fn a_cancelled_job_does_not_hold_up_draining() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    drop(scheduler.submit(request(16, 2)).await.unwrap());
    let drained = tokio::time::timeout(Duration::from_secs(10), scheduler.drain(Duration::from_secs(600)));
    drained.await.expect("nobody waits for the job");
    pipeline.gate.open();
}

#[tokio::test]
async fn a_drain_that_takes_too_long_answers_the_rest() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 2); 4]).await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    scheduler.drain(Duration::from_secs(30)).await;
    assert_eq!(begun.elapsed().as_secs(), 30);
    for ticket in tickets {
        assert_eq!(answer(ticket).await, Err(JobError::ShuttingDown));
    }
    pipeline.gate.open();
}

#[tokio::test]
async fn workers_end_with_the_last_handle_and_ticket() {
    // `alive` lives as long as its worker's thread.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let pipeline = FakePipeline::default();
    let factory = pipeline.factory();
    let scheduler = Scheduler::spawn(CONFIG, vec![move || (factory(), &alive).0]);
    ready(&scheduler).await;
    let ticket = scheduler.submit(request(16, 3)).await.unwrap();
    drop(scheduler);
    assert!(answer(ticket).await.is_ok(), "a ticket outlives the handle");
    let ended = tokio::time::timeout(Duration::from_secs(10), ended.recv()).await;
    assert_eq!(ended.expect("the thread goes on"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_on_two_workers_are_each_answered_once() {
    let pipeline = FakePipeline::default();
    let config = SchedulerConfig { max_batch: 3, max_waiting: 200 };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory(), pipeline.factory()]);
    ready(&scheduler).await;
    let prompts = ["a cat", "panic in step", "a dog", "oom in step", "invalid in prepare", "a hat", "panic in decode"];
    let mut tickets = Vec::new();
    for (i, prompt) in prompts.iter().cycle().take(140).enumerate() {
        // A crash may leave no worker for a moment.
        let ticket = loop {
            match scheduler.submit(ImageRequest { prompt: (*prompt).into(), ..request(16, 1 + i % 5) }).await {
                Ok(ticket) => break ticket,
                Err(SubmitError::Loading) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        };
        // Every fifth client leaves.
        if i % 5 != 0 {
            tickets.push(ticket);
        }
    }
    for mut ticket in tickets {
        let mut answers = 0;
        while let Some(update) = ticket.next().await {
            answers += usize::from(matches!(update, Update::Done(_)));
        }
        assert_eq!(answers, 1);
        assert!(ticket.updates.recv().await.is_none(), "nothing was sent after the answer");
    }
    load_becomes(&scheduler, 0, 0).await;
    pipeline.probe.emptied().await;
}
