//! Measures the round trip of a step whose pipeline does no work: from the worker to the event loop and back. This is
//! how long a device is idle between two steps.
//!
//!     cargo run --release -p scheduler --features test-util --example round_trip

use std::error::Error;
use std::time::Instant;

use scheduler::fake::{FakePipeline, request};
use scheduler::{JobOptions, Readiness, Scheduler, SchedulerConfig, Update};

/// Steps of a job: the maximum of a request.
const STEPS: usize = 1000;
const ROUNDS: usize = 9;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for jobs in [1, 8] {
        let config = SchedulerConfig { max_waiting: usize::MAX, ..SchedulerConfig::default() };
        let scheduler = Scheduler::spawn(config, vec![FakePipeline::default().factory()]);
        scheduler.readiness().wait_for(|readiness| matches!(readiness, Readiness::Ready(_))).await?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let tickets = scheduler.submit_all(vec![request(64, STEPS); jobs], JobOptions::default()).await?;
            for mut ticket in tickets {
                while let Some(update) = ticket.next().await {
                    if let Update::Done(outcome) = update {
                        outcome?;
                    }
                }
            }
            rounds.push(begun.elapsed().as_secs_f64() * 1e6 / STEPS as f64);
        }
        rounds.sort_by(f64::total_cmp);
        let (least, median) = (rounds[0], rounds[ROUNDS / 2]);
        println!("{jobs} picture(s) that step together: {median:.1} us a step, {least:.1} at best");
    }
    Ok(())
}
