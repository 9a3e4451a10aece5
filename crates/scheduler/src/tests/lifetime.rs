//! Loading, draining and shutdown.

use super::*;

#[tokio::test]
async fn a_worker_measures_its_pipeline_before_it_takes_jobs() {
    let pipeline = FakePipeline { step_delay: Duration::from_millis(3), ..FakePipeline::default() };
    let config = SchedulerConfig { calibration: Duration::from_secs(9), ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory()]);
    ready(&scheduler).await;
    assert!(pipeline.probe.batch_sizes().len() > 10);
    assert_eq!(pipeline.probe.states.load(Ordering::SeqCst), 0);
    // 300 steps of 3 ms.
    let deadline = JobOptions { deadline: Some(Duration::from_millis(500)), ..JobOptions::default() };
    let refused = scheduler.submit(request(16, 300), deadline).await.unwrap_err();
    assert!(matches!(refused, SubmitError::NeverInTime { predicted, .. } if predicted.as_secs() < 3), "{refused}");
}

#[tokio::test]
async fn nothing_is_taken_while_the_model_loads() {
    let (go, gate) = std::sync::mpsc::channel();
    let factory = move || gate.recv().map(|()| FakePipeline::default());
    let scheduler = Scheduler::spawn(CONFIG, vec![factory]);
    assert_eq!(*scheduler.readiness().borrow(), Readiness::Loading);
    assert_eq!(scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err(), SubmitError::Loading);
    go.send(()).unwrap();
    ready(&scheduler).await;
    assert!(answer(scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap()).await.is_ok());
}

#[tokio::test]
async fn a_model_that_does_not_load_is_said_and_refuses() {
    let failing = || Err::<FakePipeline, _>("no such folder");
    let panicking = || -> Result<FakePipeline, &str> { panic!("while loading") };
    let failed = [
        (Scheduler::spawn(CONFIG, vec![failing]), "no such folder"),
        (Scheduler::spawn(CONFIG, vec![panicking]), "it panicked: while loading"),
    ];
    for (scheduler, reason) in failed {
        becomes(&scheduler, Readiness::Failed(reason.into())).await;
        assert_eq!(
            scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err(),
            SubmitError::Failed(reason.into())
        );
    }
}

#[tokio::test]
async fn draining_finishes_what_was_taken_and_takes_no_more() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 2); 4], JobOptions::default()).await.unwrap();
    let drained = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.drain(Duration::from_secs(600)).await }
    });
    becomes(&scheduler, Readiness::Draining).await;
    assert_eq!(scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err(), SubmitError::ShuttingDown);
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
    drop(scheduler.submit(request(16, 2), JobOptions::default()).await.unwrap());
    let drained = tokio::time::timeout(Duration::from_secs(10), scheduler.drain(Duration::from_secs(600)));
    drained.await.expect("nobody waits for the job");
    pipeline.gate.open();
}

#[tokio::test]
async fn a_drain_that_takes_too_long_answers_the_rest() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 2); 4], JobOptions::default()).await.unwrap();
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
    let ticket = scheduler.submit(request(16, 3), JobOptions::default()).await.unwrap();
    drop(scheduler);
    assert!(answer(ticket).await.is_ok(), "a ticket outlives the handle");
    let ended = tokio::time::timeout(Duration::from_secs(10), ended.recv()).await;
    assert_eq!(ended.expect("the thread goes on"), None);
}
