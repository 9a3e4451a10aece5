//! What fails, and whom it fails.

use super::*;

#[tokio::test]
async fn a_refused_request_fails_alone() {
    let scheduler = start(&FakePipeline::default()).await;
    let requests = vec![prompted("invalid in prepare"), request(16, 2), prompted("fail in decode")];
    let mut outcomes = Vec::new();
    for ticket in scheduler.submit_all(requests, JobOptions::default()).await.unwrap() {
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
    let batch = vec![prompted("fail in step"), request(64, 4), request(64, 9)];
    let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
    let later = answer(tickets.pop().unwrap());
    for ticket in tickets {
        assert!(matches!(pipeline_error(answer(ticket).await), PipelineError::Model(_)));
    }
    assert!(later.await.is_ok(), "it waited while the batch failed");
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_step_that_runs_out_of_memory_fails_its_largest_job_and_is_taken_again_without_it() {
    let pipeline = FakePipeline { memory: Some(30), ..gated() };
    let scheduler = start(&pipeline).await;
    // Their 16 and 16 tokens are too many together; the step of one is enough.
    let mut tickets = scheduler.submit_all(vec![request(64, 3), request(64, 3)], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    let younger = tickets.pop().unwrap();
    assert_eq!(pipeline_error(answer(younger).await), PipelineError::OutOfMemory);
    let generated = answer(tickets.pop().unwrap()).await.unwrap();
    assert_eq!(generated.steps.iter().map(|report| report.step_index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(pipeline.probe.batch_sizes(), [2, 1, 1, 1]);
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn running_out_of_memory_while_preparing_or_decoding_fails_one_job() {
    for stage in ["prepare", "decode"] {
        let pipeline = FakePipeline::default();
        let scheduler = start(&pipeline).await;
        let batch = vec![prompted(&format!("oom in {stage}")), request(64, 9)];
        let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
        assert!(answer(tickets.pop().unwrap()).await.is_ok(), "{stage}");
        assert_eq!(pipeline_error(answer(tickets.pop().unwrap()).await), PipelineError::OutOfMemory, "{stage}");
        let expected = if stage == "prepare" { 1 } else { 2 };
        assert_eq!(pipeline.probe.prompted(&format!("oom in {stage}")), expected, "a decoding is tried twice");
        pipeline.probe.emptied().await;
    }
}

#[tokio::test]
async fn a_panic_is_answered_and_the_worker_loads_its_model_again() {
    for stage in ["prepare", "step", "decode"] {
        let pipeline = FakePipeline::default();
        let scheduler = start(&pipeline).await;
        let batch = vec![prompted(&format!("panic in {stage}")), request(64, 9), request(64, 20)];
        let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
        let waiting = tickets.pop().unwrap();
        assert_eq!(answer(tickets.remove(0)).await, Err(JobError::Crashed), "{stage}");
        assert!(answer(waiting).await.is_ok(), "a job in line survives a panic in {stage}");
        assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 2);
        pipeline.probe.emptied().await;
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
    let jobs = vec![prompted("panic in step"), request(64, 9), request(64, 9)];
    for ticket in scheduler.submit_all(jobs, JobOptions::default()).await.unwrap() {
        assert_eq!(answer(ticket).await, Err(JobError::Crashed));
    }
    becomes(&scheduler, Readiness::Failed("the disk is gone".into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_on_two_workers_are_each_answered_once() {
    let pipeline = FakePipeline::default();
    let config = SchedulerConfig { max_batch: 3, max_waiting: 200, ..SchedulerConfig::default() };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory(), pipeline.factory()]);
    ready(&scheduler).await;
    let prompts = ["a cat", "panic in step", "a dog", "oom in step", "invalid in prepare", "a hat", "panic in decode"];
    let mut tickets = Vec::new();
    for (i, prompt) in prompts.iter().cycle().take(140).enumerate() {
        // A crash may leave no worker for a moment.
        let ticket = loop {
            match scheduler
                .submit(ImageRequest { prompt: (*prompt).into(), ..request(16, 1 + i % 5) }, JobOptions::default())
                .await
            {
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
