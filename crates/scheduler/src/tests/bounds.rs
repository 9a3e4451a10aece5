//! Refused jobs, and jobs that are given up.

use super::*;

#[tokio::test]
async fn a_job_over_the_memory_budget_is_refused_and_others_wait_for_each_other() {
    let pipeline = gated();
    let config = SchedulerConfig { max_batch: 9, max_waiting: 9, memory_budget: Some(32), ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory()]);
    ready(&scheduler).await;
    let refused = scheduler.submit(request(128, 1), JobOptions::default()).await.unwrap_err();
    assert_eq!(refused, SubmitError::TooLarge { bytes: 64, budget: 32 });
    let tickets = scheduler.submit_all(vec![request(64, 2); 3], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 1, 2).await;
    pipeline.gate.open();
    for ticket in tickets {
        assert!(answer(ticket).await.is_ok());
    }
}

fn within(seconds: u64) -> JobOptions {
    JobOptions { deadline: Some(Duration::from_secs(seconds)), ..JobOptions::default() }
}

#[tokio::test]
async fn a_deadline_that_cannot_be_kept_is_refused() {
    let pipeline = FakePipeline { step_delay: Duration::from_millis(10), ..FakePipeline::default() };
    let (calibration, max_deadline) = (Duration::from_secs(9), Some(Duration::from_secs(2)));
    let config = SchedulerConfig { calibration, max_deadline, ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory()]);
    ready(&scheduler).await;
    for (options, bound) in [(within(1), 1), (JobOptions::default(), 2)] {
        let refused = scheduler.submit(request(16, 1000), options).await.unwrap_err();
        let SubmitError::NeverInTime { predicted, deadline } = refused else { panic!("{refused}") };
        assert!(predicted.as_secs() >= 10 && deadline.as_secs() == bound, "{predicted:?} {deadline:?}");
    }
    assert!(answer(scheduler.submit(request(16, 1), within(1)).await.unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_deadline_that_passes_is_answered() {
    let pipeline = gated();
    let scheduler = Scheduler::spawn(CONFIG, vec![pipeline.factory()]);
    ready(&scheduler).await;
    // Nothing was measured, so any request may still be in time.
    let begun = tokio::time::Instant::now();
    let ticket = scheduler.submit(request(16, 1000), within(5)).await.unwrap();
    tokio::time::pause();
    assert_eq!(ticket.finished().await, Err(JobError::TooLate));
    assert_eq!(begun.elapsed().as_secs(), 5);
    tokio::time::resume();
    pipeline.gate.open();
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_backlog_that_would_take_too_long_is_not_taken() {
    let pipeline = gated();
    let config = SchedulerConfig { max_backlog: Some(Duration::from_secs(10)), ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory()]);
    ready(&scheduler).await;
    // An empty queue accepts anything.
    let _long = scheduler.submit_all(vec![request(16, 200); 3], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 1, 2).await;
    let refused = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err();
    assert!(matches!(refused, SubmitError::QueueFull { waiting: 1, place_in } if place_in.as_secs() >= 10));
    pipeline.gate.open();
}

#[tokio::test]
async fn a_full_line_refuses_with_a_prediction() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let _running = scheduler.submit_all(vec![request(16, 1), request(16, 1)], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    let _waiting = scheduler.submit_all(vec![request(16, 1); 4], JobOptions::default()).await.unwrap();
    let refused = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err();
    let SubmitError::QueueFull { waiting: 4, place_in } = refused else { panic!("{refused}") };
    assert!(place_in > Duration::ZERO);
    assert_eq!(*scheduler.load().borrow(), Load { waiting: 4, running: 2 });
    pipeline.gate.open();
}
