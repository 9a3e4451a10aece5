//! Books in which a turn takes a second, for tests.

use std::time::Duration;

use diffusion::{KnownSteps, RequestCost, RequestMemory, StepReport, Work};

use crate::booked_job::{Job, JobId, WorkerId};
use crate::calibration::Calibration;
use crate::config::SchedulerConfig;
use crate::state::State;
use crate::turn::Turn;

/// Time of an encoding, a step of up to 64 tokens, and the decoding or a preview of 16 tokens.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Cost of a request without guidance, cache or memory. Its work is counted in tokens.
pub(crate) fn cost(tokens: usize, steps: usize) -> RequestCost {
    let picture = tokens as f64;
    let work = Work { encode: 1.0, step: picture, reused_step: picture, preview: picture, decode: picture, fit: 0.0 };
    RequestCost {
        tokens,
        passes: 1,
        steps,
        previews: None,
        work,
        memory: RequestMemory::default(),
        least_share: 1.0,
        known: None,
        kind: 0,
    }
}

/// Books of workers that are ready. Steps are full at 64 tokens.
pub(crate) fn books(config: SchedulerConfig, n_workers: usize) -> State {
    let mut state = State::new(config, n_workers);
    let steps = vec![(16.0, 1.0), (64.0, 1.0), (128.0, 2.0)];
    let decode = vec![(16.0, 1.0), (64.0, 4.0)];
    state.cost.calibrate(&Calibration { steps, encode: vec![(1.0, 1.0)], decode, ..Calibration::default() });
    (0..n_workers).for_each(|worker| state.loaded(worker, None));
    state
}

/// The same cost with a plan that computes these steps; the others take no time.
pub(crate) fn planned(cost: RequestCost, computed: &[bool]) -> RequestCost {
    let work = Work { reused_step: 0.0, ..cost.work };
    RequestCost { work, least_share: 0.0, known: KnownSteps::new(computed.iter().copied()), ..cost }
}

/// The report of a step that went as predicted.
pub(crate) fn report(job: &Job) -> StepReport {
    let step_index = job.steps_taken();
    let is_computed = job.cost.known.is_none_or(|known| known.computes(step_index));
    let computed_share = if is_computed { 1.0 } else { job.cost.least_share };
    StepReport { step_index, runs: Vec::new(), computed_share, also_computed: 0 }
}

/// Records a finished turn in the books as the event loop does, with the predicted duration. Turns of `failing` jobs
/// run out of memory. Returns the jobs that ended.
pub(crate) fn done(state: &mut State, worker: WorkerId, turn: Option<Turn>, failing: &[JobId]) -> Vec<JobId> {
    let jobs = state.turned(worker);
    if jobs.iter().any(|job| failing.contains(&job.id)) {
        if let Some(Turn::Preview(id)) = turn {
            state.previewed(id, None);
            return Vec::new();
        }
        let ended: Vec<_> = state.ran_out(worker, &jobs).into_iter().collect();
        ended.iter().for_each(|&id| state.cancel(id));
        return ended;
    }
    match turn {
        Some(Turn::Encode(id)) => state.encoded(id, 1.0, TICK),
        Some(Turn::Preview(id)) => state.previewed(id, Some(TICK.mul_f64(jobs[0].cost.work.preview / 16.0))),
        Some(Turn::Step(_)) => {
            let reports: Vec<_> = jobs.iter().map(report).collect();
            let loads = jobs.iter().zip(&reports).map(|(job, report)| job.cost.step_work(report.computed_share));
            let took = Duration::from_secs_f64(state.cost.step(loads.sum()));
            state.stepped(&jobs, &reports, took);
            state.went_well(worker, false);
        }
        Some(Turn::Decode(id)) => {
            state.decoded(id, TICK.mul_f64(jobs[0].cost.tokens as f64 / 16.0));
            state.went_well(worker, true);
            return vec![id];
        }
        None => {}
    }
    Vec::new()
}
