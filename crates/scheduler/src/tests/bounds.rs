//! What is not taken, and what is given up.

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

#[tokio::test]
async fn a_deadline_that_cannot_be_kept_is_refused_and_one_that_passes_is_answered() {
    let pipeline = gated();
    let config = SchedulerConfig { max_deadline: Some(Duration::from_secs(60)), ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory()]);
    ready(&scheduler).await;
    let within = |seconds| JobOptions { deadline: Some(Duration::from_secs(seconds)), ..JobOptions::default() };
    // A step takes 0.1 s, as long as none was observed.
    let refused = scheduler.submit(request(16, 100), within(1)).await.unwrap_err();
    let SubmitError::TooLate { predicted, deadline } = refused else { panic!("{refused}") };
    assert!((9..11).contains(&predicted.as_secs()) && deadline.as_secs() == 1, "{predicted:?} {deadline:?}");
    let refused = scheduler.submit(request(16, 1000), JobOptions::default()).await.unwrap_err();
    assert!(matches!(refused, SubmitError::TooLate { deadline, .. } if deadline.as_secs() == 60), "{refused}");

    let ticket = scheduler.submit(request(16, 20), within(5)).await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
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
    // An empty line takes anything.
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
