//! Faults, and the jobs that they affect.

use std::sync::atomic::AtomicUsize;

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
async fn a_failed_step_fails_the_job_that_it_was_and_its_mates_run_again() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    let batch = vec![prompted("fail in step"), request(64, 4), request(64, 9)];
    let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
    let failing = tickets.remove(0);
    for ticket in tickets {
        assert!(answer(ticket).await.is_ok());
    }
    assert!(matches!(pipeline_error(answer(failing).await), PipelineError::Model(_)));
    assert_eq!(pipeline.probe.prompted("fail in step"), 2, "with its mate, and alone");
    assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 1);
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_step_that_runs_out_of_memory_is_taken_again_with_less_company() {
    let pipeline = FakePipeline { memory: Some(30), ..gated() };
    let scheduler = start(&pipeline).await;
    // 16 and 16 tokens together are too many; a step of one job is not.
    let tickets = scheduler.submit_all(vec![request(64, 3), request(64, 3)], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    for ticket in tickets {
        let generated = answer(ticket).await.unwrap();
        assert_eq!(generated.steps.iter().map(|report| report.step_index).collect::<Vec<_>>(), [0, 1, 2]);
    }
    assert_eq!(pipeline.probe.batch_sizes(), [2, 1, 1, 1, 1, 1, 1], "each from where it was");
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_step_that_runs_out_of_memory_alone_fails() {
    let pipeline = FakePipeline { memory: Some(30), ..gated() };
    let scheduler = start(&pipeline).await;
    let mut tickets = scheduler.submit_all(vec![request(64, 3), request(128, 3)], JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    // With the small job, alone beside it, and alone once it is gone.
    assert_eq!(pipeline_error(answer(tickets.pop().unwrap()).await), PipelineError::OutOfMemory);
    assert!(answer(tickets.pop().unwrap()).await.is_ok());
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn batching_comes_back_after_a_request_that_was_too_large() {
    let pipeline = FakePipeline { memory: Some(100), ..gated() };
    let scheduler = start(&pipeline).await;
    // 16 and 256 tokens: the bound is what the two needed, less an eighth; then one of 4 and one of 256.
    let too_large = vec![request(64, 2), request(256, 2)];
    let tickets = scheduler.submit_all(too_large, JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    let outcomes = [answer(tickets.into_iter().next_back().unwrap()).await];
    assert!(outcomes.iter().all(Result::is_err));
    for _ in 0..3 {
        let tickets = scheduler.submit_all(vec![request(64, 40); 2], JobOptions::default()).await.unwrap();
        for ticket in tickets {
            assert!(answer(ticket).await.is_ok());
        }
    }
    assert_eq!(pipeline.probe.batch_sizes().last(), Some(&2), "two step together again");
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
async fn a_second_panic_is_answered_and_mates_run_again() {
    for stage in ["prepare", "step", "decode"] {
        let pipeline = FakePipeline::default();
        let scheduler = start(&pipeline).await;
        let prompt = format!("panic in {stage}");
        let mut mate = request(64, 9);
        mate.params.seed = 0x0203;
        let batch = vec![prompted(&prompt), mate, request(64, 20)];
        let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
        let panicking = tickets.remove(0);
        let reason = "the prompt asked for a panic".to_owned();
        assert_eq!(answer(panicking).await, Err(JobError::CrashesModel(reason)), "{stage}");
        let mate = answer(tickets.remove(0)).await.unwrap();
        assert_eq!((mate.steps.len(), &mate.image.pixels[..3]), (9, &colour(0x0203)[..]), "{stage}");
        assert_eq!(mate.prompt_tokens, 2, "it was encoded again");
        assert!(answer(tickets.remove(0)).await.is_ok(), "a job in line survives a panic in {stage}");
        assert_eq!(pipeline.probe.prompted(&prompt), 2);
        assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 3);
        pipeline.probe.emptied().await;
    }
}

#[tokio::test]
async fn a_lost_device_is_set_up_anew_and_its_jobs_run_again() {
    for stage in ["prepare", "step", "decode"] {
        let pipeline = FakePipeline::default();
        let scheduler = start(&pipeline).await;
        let batch = vec![prompted(&format!("lost in {stage}")), request(64, 9)];
        let mut tickets = scheduler.submit_all(batch, JobOptions::default()).await.unwrap();
        let reason = "the device is lost: the prompt asked for it".to_owned();
        assert_eq!(answer(tickets.remove(0)).await, Err(JobError::CrashesModel(reason)), "{stage}: the second time");
        assert_eq!(answer(tickets.remove(0)).await.unwrap().steps.len(), 9, "{stage}");
        assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 3, "{stage}: at once, not after three failures");
        pipeline.probe.emptied().await;
    }
}

/// The job's updates up to its answer, in words.
async fn news(mut ticket: Ticket) -> Vec<String> {
    let mut news = Vec::new();
    while let Some(update) = ticket.next().await {
        news.push(match update {
            Update::Started { .. } => "started".into(),
            Update::Stepped(report) => format!("step {}", report.step_index),
            Update::Restarted => "restarted".into(),
            Update::Preview { index, image } => format!("preview {index} after {}", image.pixels[2]),
            Update::Done(outcome) => format!("done {}", outcome.is_ok()),
        });
    }
    news
}

#[tokio::test]
async fn a_job_that_runs_again_tells_its_steps_anew_and_each_preview_once() {
    use diffusion::{PreviewMethod, PreviewTimes, Previews};
    // The job is encoded, stepped and previewed, and then its second step panics.
    let pipeline = FakePipeline { panics: Arc::new([3].into()), ..FakePipeline::default() };
    let scheduler = start(&pipeline).await;
    let previews = Some(Previews { method: PreviewMethod::Latent2Rgb, times: PreviewTimes::Interval(1) });
    let job = ImageRequest { previews, ..request(64, 3) };
    let ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();
    let expected = [
        "started",
        "step 0",
        "preview 0 after 1",
        "restarted",
        "started",
        "step 0",
        "step 1",
        "preview 1 after 2",
        "step 2",
        "done true",
    ];
    assert_eq!(news(ticket).await, expected);
}

#[tokio::test]
async fn a_job_that_runs_again_is_in_line_meanwhile() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let pipeline = FakePipeline { panics: Arc::new([1].into()), ..FakePipeline::default() };
    let factory = pipeline.factory();
    let scheduler = Scheduler::spawn(CONFIG, vec![move || gate.recv().map(|()| factory().unwrap())]);
    go.send(()).unwrap();
    ready(&scheduler).await;
    let ticket = scheduler.submit(request(64, 3), JobOptions::default()).await.unwrap();
    becomes(&scheduler, Readiness::Loading).await;
    load_becomes(&scheduler, 1, 0).await;
    assert_eq!(ticket.position(), Some(0));
    go.send(()).unwrap();
    assert_eq!(answer(ticket).await.unwrap().steps.len(), 3);
}

#[tokio::test]
async fn a_worker_that_cannot_come_back_answers_everything() {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = loads.clone();
    let once = move || match counted.fetch_add(1, Ordering::SeqCst) {
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
    assert_eq!(loads.load(Ordering::SeqCst), 5, "four tries to come back");
}

#[tokio::test]
async fn a_model_that_comes_back_at_the_third_try_goes_on() {
    let loads = AtomicUsize::new(0);
    let twice = move || match loads.fetch_add(1, Ordering::SeqCst) {
        1 => Err("the device is busy"),
        2 => panic!("while loading"),
        _ => Ok(FakePipeline::default()),
    };
    let scheduler = Scheduler::spawn(CONFIG, vec![twice]);
    ready(&scheduler).await;
    let jobs = vec![prompted("panic in step"), request(64, 9)];
    let mut tickets = scheduler.submit_all(jobs, JobOptions::default()).await.unwrap();
    assert!(answer(tickets.pop().unwrap()).await.is_ok());
    answer(tickets.pop().unwrap()).await.unwrap_err();
}

/// A factory whose pipelines fail in every step from life `from_life` on.
fn broken(from_life: usize, pipeline: &FakePipeline) -> impl Fn() -> Result<FakePipeline, PipelineError> + use<> {
    let (lives, pipeline) = (AtomicUsize::new(0), pipeline.clone());
    move || {
        let is_broken = lives.fetch_add(1, Ordering::SeqCst) >= from_life;
        pipeline.probe.loads.fetch_add(1, Ordering::SeqCst);
        Ok(FakePipeline { fails: is_broken, ..pipeline.clone() })
    }
}

#[tokio::test]
async fn a_device_that_fails_again_and_again_is_loaded_again_then_lost() {
    let pipeline = FakePipeline::default();
    let scheduler = Scheduler::spawn(CONFIG, vec![broken(0, &pipeline)]);
    ready(&scheduler).await;
    let tickets = scheduler.submit_all(vec![request(16, 1); 3], JobOptions::default()).await.unwrap();
    for ticket in tickets {
        answer(ticket).await.unwrap_err();
    }
    becomes(&scheduler, Readiness::Failed("the model failed: the device is broken".into())).await;
    assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 5, "the first, and four tries to come back");
}

#[tokio::test]
async fn requests_that_always_fail_do_not_cost_a_worker() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    for _ in 0..6 {
        let ticket = scheduler.submit(prompted("fail in step"), JobOptions::default()).await.unwrap();
        assert!(matches!(pipeline_error(answer(ticket).await), PipelineError::Model(_)));
    }
    assert!(answer(scheduler.submit(request(64, 3), JobOptions::default()).await.unwrap()).await.is_ok());
    assert_eq!(pipeline.probe.loads.load(Ordering::SeqCst), 1, "it passed its trials");
}

#[tokio::test]
async fn a_worker_that_fails_at_once_does_not_attract_all_work() {
    // One worker fails at once; the other works normally.
    let slow = FakePipeline { step_delay: Duration::from_millis(20), ..FakePipeline::default() };
    let config = SchedulerConfig { max_batch: 1, max_waiting: 99, ..SchedulerConfig::default() };
    let config = SchedulerConfig { calibration: Duration::ZERO, ..config };
    let fine = broken(usize::MAX, &slow);
    let failing = broken(0, &FakePipeline::default());
    let either: [Box<dyn Fn() -> Result<FakePipeline, PipelineError> + Send>; 2] = [Box::new(failing), Box::new(fine)];
    let scheduler = Scheduler::spawn(config, either.into());
    ready(&scheduler).await;
    let tickets = scheduler.submit_all(vec![request(16, 1); 30], JobOptions::default()).await.unwrap();
    for ticket in tickets {
        assert!(answer(ticket).await.is_ok(), "what failed on the one is made by the other");
    }
}

#[tokio::test]
async fn the_end_of_the_event_loop_is_told() {
    let observer: Observer = Arc::new(|observation: &Observation<'_>| {
        assert!(!matches!(observation, Observation::Submitted { .. }), "the observer has a bug");
    });
    let options = SpawnOptions { config: CONFIG, observer: Some(observer) };
    let scheduler = Scheduler::spawn(options, vec![FakePipeline::default().factory()]);
    ready(&scheduler).await;
    assert!(tokio::time::timeout(Duration::from_millis(1), scheduler.ended()).await.is_err());
    let refused = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err();
    assert!(matches!(refused, SubmitError::ShuttingDown | SubmitError::Failed(_)), "{refused}");
    tokio::time::timeout(Duration::from_secs(10), scheduler.ended()).await.expect("it has ended");
    let mut readiness = scheduler.readiness();
    let failed = readiness.wait_for(|readiness| matches!(readiness, Readiness::Failed(_)));
    tokio::time::timeout(Duration::from_secs(10), failed).await.expect("it is told").unwrap();
    let refused = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Failed(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_on_two_workers_are_each_answered_once() {
    let pipeline = FakePipeline::default();
    let config = SchedulerConfig { max_batch: 3, max_waiting: 200, ..CONFIG };
    let scheduler = Scheduler::spawn(config, vec![pipeline.factory(), pipeline.factory()]);
    ready(&scheduler).await;
    let prompts = ["a cat", "panic in step", "a dog", "oom in step", "invalid in prepare", "a hat", "panic in decode"];
    let mut tickets = Vec::new();
    for (i, prompt) in prompts.iter().cycle().take(140).enumerate() {
        // After a crash there may be no worker for a moment.
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
