//! Previews: when they come, and that nothing depends on them.

use diffusion::{PreviewMethod, PreviewTimes, Previews};

use super::*;

fn with_previews(prompt: &str, num_inference_steps: usize, times: PreviewTimes) -> ImageRequest {
    let previews = Some(Previews { method: PreviewMethod::Latent2Rgb, times });
    ImageRequest { prompt: prompt.into(), previews, ..request(16, num_inference_steps) }
}

/// The job's updates up to its answer, in words; for a preview its index and the number of completed steps.
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
async fn previews_come_between_the_steps_that_they_are_due_after() {
    let scheduler = start(&FakePipeline::default()).await;
    let job = with_previews("a cat", 6, PreviewTimes::Count(2));
    let ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();
    let expected = [
        "started",
        "step 0",
        "step 1",
        "preview 0 after 2",
        "step 2",
        "step 3",
        "preview 1 after 4",
        "step 4",
        "step 5",
        "done true",
    ];
    assert_eq!(news(ticket).await, expected);
}

#[tokio::test]
async fn each_job_of_a_step_has_previews_of_its_own() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let jobs = [PreviewTimes::Interval(1), PreviewTimes::Count(1)].map(|times| with_previews("a cat", 4, times));
    let mut tickets = scheduler.submit_all(jobs.into(), JobOptions::default()).await.unwrap();
    load_becomes(&scheduler, 0, 2).await;
    pipeline.gate.open();
    let previews = |news: Vec<String>| news.into_iter().filter(|word| word.starts_with("preview")).collect::<Vec<_>>();
    let (second, first) = (tickets.pop().unwrap(), tickets.pop().unwrap());
    assert_eq!(previews(news(first).await), ["preview 0 after 1", "preview 1 after 2", "preview 2 after 3"]);
    assert_eq!(previews(news(second).await), ["preview 0 after 2"]);
}

#[tokio::test]
async fn a_preview_that_fails_is_left_out() {
    let pipeline = FakePipeline::default();
    let scheduler = start(&pipeline).await;
    for prompt in ["oom in preview", "fail in preview"] {
        let job = with_previews(prompt, 3, PreviewTimes::Interval(1));
        let ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();
        assert_eq!(news(ticket).await, ["started", "step 0", "step 1", "step 2", "done true"]);
        assert_eq!(pipeline.probe.prompted(prompt), 2, "each was tried");
    }
}

#[tokio::test]
async fn a_cancelled_job_makes_none() {
    let pipeline = gated();
    let scheduler = start(&pipeline).await;
    let job = with_previews("a cat", 3, PreviewTimes::Interval(1));
    let ticket = scheduler.submit(job, JobOptions::default()).await.unwrap();
    while pipeline.probe.batch_sizes().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(ticket);
    load_becomes(&scheduler, 0, 0).await;
    pipeline.gate.open();
    pipeline.probe.emptied().await;
    // Runs a whole other job, so that a preview would have been drawn by now.
    answer(scheduler.submit(request(16, 1), JobOptions::default()).await.unwrap()).await.unwrap();
    let steps = pipeline.probe.batch_sizes().len();
    let calls = pipeline.probe.calls.load(Ordering::SeqCst);
    assert_eq!(calls, 2 + steps + 1, "two were prepared, one was decoded, and none previewed");
}

#[tokio::test]
async fn a_preview_does_not_count_as_part_of_a_step() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let observer: Observer = Arc::new(move |observation: &Observation<'_>| match observation {
        Observation::Stepped { took, .. } => notes.lock().unwrap().push(("step", *took)),
        Observation::Previewed { took } => notes.lock().unwrap().push(("preview", *took)),
        _ => {}
    });
    let delay = Duration::from_millis(300);
    let pipeline = FakePipeline { preview_delay: delay, ..FakePipeline::default() };
    let options = SpawnOptions { config: CONFIG, observer: Some(observer) };
    let scheduler = Scheduler::spawn(options, vec![pipeline.factory()]);
    ready(&scheduler).await;
    let job = with_previews("a cat", 2, PreviewTimes::Interval(1));
    let generated = answer(scheduler.submit(job, JobOptions::default()).await.unwrap()).await.unwrap();
    assert!(generated.timings.denoise < delay, "{:?}", generated.timings);
    let seen = seen.lock().unwrap();
    let [("step", first), ("preview", preview), ("step", second)] = seen[..] else { panic!("{seen:?}") };
    assert!(preview >= delay && first < delay && second < delay, "{seen:?}");
}
