//! Idle work on real threads: its results, and how jobs preempt it.

use super::interrupts::{noted, observed};
use super::*;

const LATENTS: JobOptions = JobOptions { priority: 0, owner: 0, deadline: None, latents: true };
const HOUR: Duration = Duration::from_secs(3600);

/// Waits until the pipeline has begun this many steps.
async fn steps_begun(pipeline: &FakePipeline, steps: usize) {
    while pipeline.probe.batch_sizes().len() < steps {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_answer_has_the_latents_where_they_were_asked_for() {
    let scheduler = start(&FakePipeline::default()).await;
    let mut job = request(16, 3);
    job.params.seed = 7;
    for (options, expected) in [(LATENTS, Some(vec![7.0; 3])), (JobOptions::default(), None)] {
        let told = answer(scheduler.submit(job.clone(), options).await.unwrap()).await.unwrap();
        let idle = answer(scheduler.submit_idle(job.clone(), options)).await.unwrap();
        assert_eq!((told.latents, idle.latents), (expected.clone(), expected));
        assert_eq!((told.image, told.steps), (idle.image, idle.steps));
    }
}

#[tokio::test]
async fn a_job_interrupts_idle_work_which_then_goes_on_where_it_was() {
    let pipeline = gated();
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let idle = scheduler.submit_idle(request(16, 3), LATENTS);
    pipeline.gate.allow(1);
    // The second step waits at the gate.
    steps_begun(&pipeline, 2).await;
    assert_eq!(*scheduler.load().borrow(), Load::default(), "it is counted nowhere");
    let job = scheduler.submit(request(16, 2), JobOptions::default()).await.unwrap();
    noted(&notes, "preempted").await;
    pipeline.gate.open();
    answer(job).await.unwrap();
    let told = answer(idle).await.unwrap();
    assert_eq!(told.steps.iter().map(|step| step.step_index).collect::<Vec<_>>(), [0, 1, 2]);
    // One interrupted step and five others: no completed step is repeated.
    assert_eq!(pipeline.probe.batch_sizes().len(), 6);
    pipeline.probe.emptied().await;
    let notes = notes.lock().unwrap().clone();
    // The job is observed, and the idle work is not.
    let told: Vec<_> = notes.iter().filter(|note| !note.contains(" in ")).collect();
    assert_eq!(told, ["preempted", "encoded", "stepped", "stepped", "decoded", "answered true"]);
    assert!(!notes.contains(&"0 in 1".into()), "no worker is busy for idle work: {notes:?}");
}

#[tokio::test]
async fn a_decoding_that_nobody_waits_for_is_interrupted_and_taken_again() {
    let pipeline = FakePipeline { decode_delay: Duration::from_millis(100), ..FakePipeline::default() };
    let (scheduler, notes) = observed(&pipeline, 2).await;
    let idle = scheduler.submit_idle(request(16, 1), LATENTS);
    // Calls of the encoding, the step and the decoding.
    while pipeline.probe.calls.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let job = scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap();
    noted(&notes, "preempted").await;
    answer(job).await.unwrap();
    assert_eq!(answer(idle).await.unwrap().latents, Some(vec![0.0]));
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn a_stopping_server_drops_idle_work_at_once() {
    let pipeline = FakePipeline { step_delay: HOUR, ..FakePipeline::default() };
    let scheduler = start(&pipeline).await;
    let tickets = [0; 2].map(|_| scheduler.submit_idle(request(16, 3), LATENTS));
    steps_begun(&pipeline, 1).await;
    tokio::time::timeout(Duration::from_secs(10), scheduler.drain(HOUR)).await.expect("nobody waits for idle work");
    for ticket in tickets {
        assert_eq!(answer(ticket).await, Err(JobError::GaveWay));
    }
    assert_eq!(answer(scheduler.submit_idle(request(16, 3), LATENTS)).await, Err(JobError::GaveWay), "too late");
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn idle_work_that_nobody_wants_any_more_ends() {
    let pipeline = FakePipeline { step_delay: HOUR, ..FakePipeline::default() };
    let scheduler = start(&pipeline).await;
    let ticket = scheduler.submit_idle(request(16, 3), LATENTS);
    steps_begun(&pipeline, 1).await;
    drop(ticket);
    pipeline.probe.emptied().await;
}

#[tokio::test]
async fn idle_work_that_fails_or_panics_is_given_up_and_jobs_go_on() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    for (prompt, expected) in [
        ("nan in step", "not finite"),
        ("oom in decode", "out of device memory"),
        ("fail in decode", "the model failed"),
        ("panic in step", "crashed at this job"),
    ] {
        let err = answer(scheduler.submit_idle(prompted(prompt), LATENTS)).await.unwrap_err().to_string();
        assert!(err.contains(expected), "{prompt}: {err}");
        assert_eq!(pipeline.probe.prompted(prompt), 1, "{prompt}: it is not tried again");
        ready(&scheduler).await;
        answer(scheduler.submit(request(16, 2), JobOptions::default()).await.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_job_that_runs_out_of_memory_has_that_of_idle_work() {
    // A step has memory for one picture of 16 tokens; the fake ignores other held states.
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let idle = scheduler.submit_idle(request(16, 2), LATENTS);
    pipeline.gate.allow(1);
    steps_begun(&pipeline, 2).await;
    let job = scheduler.submit(prompted("oom in decode"), JobOptions::default()).await.unwrap();
    pipeline.gate.open();
    // Retried after the idle work's state is dropped, and failed once more as a job that is alone.
    assert_eq!(pipeline_error(answer(job).await), PipelineError::OutOfMemory);
    assert_eq!(pipeline.probe.prompted("oom in decode"), 2);
    assert_eq!(answer(idle).await.unwrap().steps.len(), 2, "it began again");
    assert_eq!(pipeline.probe.batch_sizes().len(), 2 + 3 + 2);
}
