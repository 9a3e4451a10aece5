//! A job's life: its updates, its company, its cancellation.

use super::*;

#[tokio::test]
async fn a_job_reports_every_step_and_ends_in_its_picture() {
    let scheduler = start(&FakePipeline::default()).await;
    let mut job = request(16, 3);
    job.params.seed = 0x0203;
    let mut ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();

    assert!(matches!(ticket.next().await, Some(Update::Started { .. })));
    assert_eq!(ticket.position(), None);
    let mut steps = Vec::<StepReport>::new();
    let generated = loop {
        match ticket.next().await.unwrap() {
            Update::Stepped(report) => steps.push(report),
            Update::Done(outcome) => break outcome.unwrap(),
            Update::Started { .. } => panic!("started twice"),
            Update::Restarted => panic!("nothing failed"),
            Update::Preview { .. } => panic!("no previews were asked for"),
        }
    };
    assert_eq!(steps.iter().map(|report| report.step_index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(generated.steps, steps);
    assert_eq!(generated.prompt_tokens, 2);
    assert_eq!(generated.image.pixels[..3], colour(0x0203));
    assert_eq!(ticket.next().await, None, "nothing comes after the answer");
}

#[tokio::test]
async fn an_observer_sees_everything_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (pipeline, notes) = (FakePipeline::default(), seen.clone());
    let observer: Observer = Arc::new(move |observation: &Observation<'_>| {
        let note = match observation {
            Observation::Submitted { jobs } => format!("submitted {jobs}"),
            Observation::Refused(err) => format!("refused: {err}"),
            Observation::Started { .. } => "started".into(),
            Observation::Encoded { .. } => "encoded".into(),
            Observation::Stepped { batch, tokens, reports, .. } => {
                format!("stepped {batch} {tokens} {}", reports.len())
            }
            Observation::Previewed { .. } => "previewed".into(),
            Observation::Decoded { .. } => "decoded".into(),
            Observation::Answered { outcome, .. } => format!("answered {}", outcome.is_ok()),
            Observation::Cancelled => "cancelled".into(),
            Observation::Crashed => "crashed".into(),
            Observation::Interrupted { .. } => "interrupted".into(),
            Observation::Preempted { .. } => "preempted".into(),
            Observation::Restarted => "restarted".into(),
            Observation::Load { .. } => return,
        };
        notes.lock().unwrap().push(note);
    });
    let scheduler =
        Scheduler::spawn(SpawnOptions { config: CONFIG, observer: Some(observer) }, vec![pipeline.factory()]);
    ready(&scheduler).await;
    answer(scheduler.submit(request(64, 2), JobOptions::default()).await.unwrap()).await.unwrap();
    let crashing = scheduler.submit(prompted("panic in step"), JobOptions::default()).await.unwrap();
    answer(crashing).await.unwrap_err();
    ready(&scheduler).await;
    pipeline.gate.allow(1);
    let mut leaving = scheduler.submit(request(64, 3), JobOptions::default()).await.unwrap();
    after_step(&mut leaving, 0).await;
    drop(leaving);
    // The next step has begun, and waits at the gate.
    while seen.lock().unwrap().last().is_none_or(|last| last != "interrupted") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scheduler.drain(Duration::from_secs(9)).await;
    scheduler.submit(request(64, 1), JobOptions::default()).await.unwrap_err();
    let seen = seen.lock().unwrap().clone();
    pipeline.gate.open();
    let expected = [
        "submitted 1, started, encoded, stepped 1 16 1, stepped 1 16 1, decoded, answered true",
        "submitted 1, started, encoded, crashed, restarted, started, encoded, crashed, answered false",
        "submitted 1, started, encoded, stepped 1 16 1, cancelled, interrupted",
        "refused: the server is shutting down",
    ];
    assert_eq!(seen.join(", "), expected.join(", "));
}

#[tokio::test]
async fn time_is_booked_to_its_stage() {
    let (step_delay, decode_delay) = (Duration::from_millis(5), Duration::from_millis(20));
    let scheduler = start(&FakePipeline { step_delay, decode_delay, ..FakePipeline::default() }).await;
    let timings =
        scheduler.submit(request(16, 4), JobOptions::default()).await.unwrap().finished().await.unwrap().timings;
    assert!(timings.denoise >= 4 * step_delay && timings.decode >= decode_delay, "{timings:?}");
    assert!(timings.encode < step_delay, "{timings:?}");
}

#[tokio::test]
async fn jobs_submitted_together_step_together() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    let tickets = scheduler.submit_all(vec![request(16, 3), request(48, 3)], JobOptions::default()).await.unwrap();
    for ticket in tickets {
        answer(ticket).await.unwrap();
    }
    assert_eq!(pipeline.probe.batch_sizes(), [2, 2, 2]);
}

#[tokio::test]
async fn a_dropped_ticket_cancels_within_one_step() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let mut ticket = scheduler.submit(request(16, 1000), JobOptions::default()).await.unwrap();
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
    let mut tickets = scheduler.submit_all(vec![request(16, 3), request(16, 3)], JobOptions::default()).await.unwrap();
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
    let running = scheduler.submit_all(vec![request(16, 1), request(16, 1)], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    let waiting = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap();
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
    let mut submission = Box::pin(scheduler.submit(request(16, 5), JobOptions::default()));
    // One poll sends the job; the event loop accepts it while nobody polls the reply.
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
async fn a_ticket_knows_its_place_in_line() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let _running = scheduler.submit_all(vec![request(16, 5); 2], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    let long = scheduler.submit(request(16, 9), JobOptions::default()).await.unwrap();
    let short = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap();
    let urgent = JobOptions { priority: 3, ..JobOptions::default() };
    let urgent = scheduler.submit(request(16, 9), urgent).await.unwrap();
    load_becomes(&scheduler, 3, 2).await;
    assert_eq!([&long, &short, &urgent].map(Ticket::position), [Some(2), Some(1), Some(0)]);
    pipeline.gate.open();
    let positions = [answer(long).await, answer(short).await, answer(urgent).await];
    assert_eq!(positions.map(|outcome| outcome.unwrap().position), [0, 0, 0], "of the time of submission");
}
