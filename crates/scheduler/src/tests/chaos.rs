//! Every job is answered exactly once whatever happens, on real threads.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

/// A job, and whether its client leaves.
#[derive(Clone, Debug)]
struct Sent {
    side: usize,
    steps: usize,
    options: JobOptions,
    leaves: bool,
}

/// The parameters of a run.
#[derive(Clone, Debug)]
struct Plan {
    jobs: Vec<Sent>,
    n_workers: usize,
    /// The calls of the pipelines that panic.
    panics: BTreeSet<usize>,
    /// Tokens that a step has memory for.
    memory: usize,
    /// Whether the server stops before all jobs are done.
    stops: bool,
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let options = (-1..=1_i8, 0..3_u64, prop::option::weighted(0.2, 0..3_u64)).prop_map(|(priority, owner, ms)| {
        let deadline = ms.map(Duration::from_millis);
        JobOptions { priority, owner, deadline, ..JobOptions::default() }
    });
    let sent = (1..8_usize, 1..6_usize, options, prop::bool::weighted(0.2));
    let sent = sent.prop_map(|(side, steps, options, leaves)| Sent { side: side * 16, steps, options, leaves });
    let jobs = prop::collection::vec(sent, 1..40);
    let panics = prop::collection::btree_set(0..150_usize, 0..6);
    (jobs, 1..4_usize, panics, 30..100_usize, prop::bool::weighted(0.2))
        .prop_map(|(jobs, n_workers, panics, memory, stops)| Plan { jobs, n_workers, panics, memory, stops })
}

/// Number of jobs accepted, answered and given up, as an observer saw it.
#[derive(Default)]
struct Counts([AtomicUsize; 3]);

impl Counts {
    fn observer(self: &Arc<Self>) -> Observer {
        let counts = self.clone();
        Arc::new(move |observation: &Observation<'_>| {
            let (which, n) = match observation {
                Observation::Submitted { jobs } => (0, *jobs),
                Observation::Answered { .. } => (1, 1),
                Observation::Cancelled => (2, 1),
                _ => return,
            };
            counts.0[which].fetch_add(n, Ordering::SeqCst);
        })
    }
}

/// Submits a job, waiting while no worker has its model. `None` if it is refused.
async fn submit(scheduler: &Scheduler, sent: &Sent) -> Option<Ticket> {
    loop {
        match scheduler.submit(request(sent.side, sent.steps), sent.options).await {
            Ok(ticket) => return Some(ticket),
            Err(SubmitError::Loading) => tokio::task::yield_now().await,
            Err(_) => return None,
        }
    }
}

async fn run(plan: Plan) {
    let panics = Arc::new(plan.panics);
    let pipeline = FakePipeline { memory: Some(plan.memory), panics, ..FakePipeline::default() };
    let counts = Arc::<Counts>::default();
    let config = SchedulerConfig { max_batch: 3, max_waiting: 20, memory_budget: Some(120), ..CONFIG };
    let options = SpawnOptions { config, observer: Some(counts.observer()) };
    let factories = (0..plan.n_workers).map(|_| pipeline.factory()).collect();
    let scheduler = Scheduler::spawn(options, factories);
    ready(&scheduler).await;
    let mut tickets = Vec::new();
    for sent in &plan.jobs {
        tickets.extend(submit(&scheduler, sent).await.filter(|_| !sent.leaves));
    }
    if plan.stops {
        scheduler.drain(Duration::from_millis(1)).await;
    }
    for mut ticket in tickets {
        let mut answers = 0;
        while let Some(update) = tokio::time::timeout(Duration::from_secs(10), ticket.next()).await.unwrap() {
            answers += usize::from(matches!(update, Update::Done(_)));
        }
        assert_eq!(answers, 1);
        assert!(ticket.updates.recv().await.is_none(), "nothing was sent after the answer");
    }
    load_becomes(&scheduler, 0, 0).await;
    pipeline.probe.emptied().await;
    let [taken, answered, given_up] = [0, 1, 2].map(|which: usize| counts.0[which].load(Ordering::SeqCst));
    assert_eq!(taken, answered + given_up);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_job_is_answered_once_on_real_threads(plan in any_plan()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(plan));
    }
}
