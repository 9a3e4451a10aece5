//! Tests of the whole scheduler with its threads, on a fake pipeline.

mod bounds;
mod chaos;
mod contract;
mod faults;
mod idle;
mod interrupts;
mod jobs;
mod lifetime;
mod previews;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diffusion::{ImageRequest, PipelineError, StepReport};
use tokio::sync::mpsc;

use crate::fake::{FakePipeline, Gate, colour, request};
use crate::{
    Backoff, JobError, JobOptions, Load, Observation, Observer, Outcome, Readiness, Scheduler, SchedulerConfig,
    SpawnOptions, SubmitError, Ticket, Update,
};

const CONFIG: SchedulerConfig = SchedulerConfig {
    max_batch: 2,
    max_waiting: 4,
    max_backlog: None,
    memory_budget: None,
    max_deadline: None,
    priorities: true,
    shared_processor: false,
    calibration: Duration::ZERO,
    backoff: Backoff { first: Duration::from_millis(1), most: Duration::from_millis(4) },
};

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
