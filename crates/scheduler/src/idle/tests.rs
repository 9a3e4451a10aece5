//! Idle work in the books: what preempts it, and which counts exclude it.

use diffusion::{RequestCost, RequestMemory};

use super::*;
use crate::config::{JobOptions, SchedulerConfig};
use crate::health::Next;
use crate::policy;
use crate::testing::{TICK, books, cost, done};

const BUDGET: SchedulerConfig = SchedulerConfig {
    max_batch: 32,
    max_waiting: 256,
    max_backlog: None,
    memory_budget: Some(10),
    max_deadline: None,
    priorities: true,
    shared_processor: false,
    calibration: Duration::ZERO,
    backoff: crate::Backoff { first: Duration::ZERO, most: Duration::ZERO },
};

fn job(id: JobId, steps: usize) -> Job {
    Job::new(id, cost(16, steps), JobOptions::default(), Duration::ZERO)
}

/// A job whose state takes `state` bytes, and whose step takes `step` bytes.
fn sized(id: JobId, state: u64, step: u64) -> Job {
    let memory = RequestMemory { state, step, ..RequestMemory::default() };
    Job { cost: RequestCost { memory, ..cost(16, 2) }, ..job(id, 2) }
}

/// Books of workers that have rested long enough, with queued idle work of two steps.
fn resting(config: SchedulerConfig, n_workers: usize) -> State {
    let mut state = books(config, n_workers);
    state.advance(TICK);
    assert_eq!(state.submit_idle(job(100, 2)), Ok(None));
    state
}

/// Assigns and prints the next turn of each worker; `~` marks idle work.
fn turns(state: &mut State) -> String {
    let mut assignments = policy::assign(state, state.now);
    assert_eq!(state.make_room(&mut assignments), [] as [u64; 0]);
    state.assigned(&assignments);
    let idle = state.assign_idle(state.now);
    state.assigned_idle(&idle);
    let word = |prefix: &str, assignments: Vec<(WorkerId, Assignment)>| {
        let words = assignments.into_iter().map(|(worker, Assignment { drop, turn })| {
            let drop: String = drop.iter().map(|id| format!("-{id} ")).collect();
            format!("{prefix}{worker}: {drop}{}", turn.map(|turn| format!("{turn:?}")).unwrap_or_default())
        });
        words.collect::<Vec<_>>()
    };
    [word("", assignments), word("~", idle)].concat().join(", ")
}

/// Ends the worker's turn of idle work. Returns whether it was the last.
fn idled(state: &mut State, worker: WorkerId) -> bool {
    assert!(state.lanes[worker].idle.is_at_work);
    state.turned(worker);
    state.idled(worker)
}

#[test]
fn idle_work_is_done_turn_by_turn_once_a_worker_has_rested() {
    let mut state = books(SchedulerConfig::default(), 1);
    state.submit_idle(job(100, 2)).unwrap();
    assert_eq!((turns(&mut state).as_str(), state.next_alarm(state.now)), ("", Some(PAUSE)));
    state.advance(PAUSE);
    for (turn, is_last) in
        [("Encode(100)", false), ("Step([100])", false), ("Step([100])", false), ("Decode(100)", true)]
    {
        assert_eq!(turns(&mut state), format!("~0: {turn}"));
        assert_eq!(idled(&mut state, 0), is_last);
    }
    assert_eq!((turns(&mut state).as_str(), state.next_alarm(state.now)), ("", None));
}

#[test]
fn a_job_that_comes_has_the_worker_and_idle_work_goes_on_after_it() {
    let mut state = resting(SchedulerConfig::default(), 1);
    turns(&mut state);
    idled(&mut state, 0);
    assert_eq!(turns(&mut state), "~0: Step([100])");
    assert_eq!(state.preempted(), [] as [usize; 0]);
    state.submit(vec![job(1, 1)]).unwrap();
    assert_eq!(state.preempted(), [0]);
    // The interrupted turn is over and had no effect.
    state.turned(0);
    for turn in [Turn::Encode(1), Turn::Step(vec![1]), Turn::Decode(1)] {
        assert_eq!(turns(&mut state), format!("0: {turn:?}"));
        state.advance(state.now + TICK);
        done(&mut state, 0, Some(turn), &[]);
    }
    assert_eq!(turns(&mut state), "", "the client may come again");
    assert_eq!(state.next_alarm(state.now), Some(state.now + PAUSE));
    state.advance(state.now + PAUSE);
    for (turn, is_last) in [("Step([100])", false), ("Step([100])", false), ("Decode(100)", true)] {
        assert_eq!(turns(&mut state), format!("~0: {turn}"));
        assert_eq!(idled(&mut state, 0), is_last);
    }
}

#[test]
fn idle_work_counts_nowhere() {
    let config = SchedulerConfig { max_waiting: 1, ..SchedulerConfig::default() };
    let mut state = resting(config, 1);
    let counted = |state: &State| (state.load(), state.busy_workers(), state.predicted_drain(), state.line(state.now));
    let nothing = counted(&books(config, 1));
    assert_eq!(counted(&state), nothing);
    assert_eq!(turns(&mut state), "~0: Encode(100)");
    assert_eq!(counted(&state), nothing, "at work");
    let options = JobOptions { deadline: Some(TICK * 3), ..JobOptions::default() };
    assert_eq!(state.submit(vec![Job::new(1, cost(16, 1), options, state.now)]), Ok(()), "three turns of a second");
}

#[test]
fn a_worker_without_jobs_takes_it_up_beside_one_that_has_some() {
    let mut state = resting(SchedulerConfig::default(), 2);
    state.submit(vec![job(1, 9)]).unwrap();
    assert_eq!(turns(&mut state), "0: Encode(1), ~1: Encode(100)");
    assert_eq!(state.preempted(), [] as [usize; 0]);
    state.submit(vec![job(2, 9)]).unwrap();
    assert_eq!(state.preempted(), [1]);
    let mut state = resting(SchedulerConfig { shared_processor: true, ..SchedulerConfig::default() }, 2);
    assert_eq!(turns(&mut state), "~0: Encode(100)");
    state.submit(vec![job(1, 9)]).unwrap();
    assert_eq!(turns(&mut state), "1: Encode(1)");
    assert_eq!(state.preempted(), [0], "they compute on one processor");
    state.turned(0);
    assert_eq!(turns(&mut state), "");
}

#[test]
fn the_oldest_gives_way() {
    let mut state = books(SchedulerConfig::default(), 1);
    for id in 0..MOST_WAITING as JobId {
        assert_eq!(state.submit_idle(job(id, 1)), Ok(None));
    }
    assert_eq!(state.submit_idle(job(99, 1)), Ok(Some(0)));
    assert_eq!(state.idle.len(), MOST_WAITING);
}

#[test]
fn its_state_is_dropped_where_a_job_needs_the_memory() {
    // The idle work's state of 4 bytes, beside a job's state of 4 or 5 bytes and a step of 2, of 10 bytes in all.
    for (state_of_job, drops) in [(4, false), (5, true)] {
        let mut state = books(BUDGET, 1);
        state.advance(TICK);
        state.submit_idle(sized(100, 4, 1)).unwrap();
        turns(&mut state);
        idled(&mut state, 0);
        state.submit(vec![sized(1, state_of_job, 2)]).unwrap();
        let drop = if drops { "-100 " } else { "" };
        assert_eq!(turns(&mut state), format!("0: {drop}Encode(1)"));
        assert_eq!(state.lanes[0].idle.held.is_none(), drops);
        let again = state.idle.front().map(|idle| (idle.job.needs, idle.job.steps_left));
        assert_eq!(again, drops.then_some((Needs::Encode, 2)), "it begins again");
    }
}

#[test]
fn what_is_dropped_again_and_again_is_given_up() {
    let mut state = books(BUDGET, 1);
    state.submit_idle(sized(100, 9, 1)).unwrap();
    for (id, expected) in [(1, vec![]), (2, vec![]), (3, vec![100])] {
        state.advance(state.now + TICK);
        assert_eq!(turns(&mut state), "~0: Encode(100)");
        idled(&mut state, 0);
        state.submit(vec![sized(id, 8, 1)]).unwrap();
        let mut assignments = policy::assign(&state, state.now);
        assert_eq!(state.make_room(&mut assignments), expected);
        assert_eq!(assignments[0].1.drop, [100]);
        state.assigned(&assignments);
        done(&mut state, 0, Some(Turn::Encode(id)), &[]);
        state.cancel(id);
        assert_eq!(turns(&mut state), format!("0: -{id} "));
        state.turned(0);
    }
    assert!(state.idle.is_empty());
}

#[test]
fn no_job_is_refused_memory_for_idle_work() {
    let mut state = books(BUDGET, 1);
    assert_eq!(state.submit_idle(sized(99, 9, 2)), Err(SubmitError::TooLarge { bytes: 11, budget: 10 }));
    state.advance(TICK);
    state.submit_idle(sized(100, 9, 1)).unwrap();
    turns(&mut state);
    idled(&mut state, 0);
    assert_eq!(state.submit(vec![sized(1, 9, 1)]), Ok(()));
    assert_eq!(turns(&mut state), "0: -100 Encode(1)");
}

#[test]
fn a_turn_that_runs_out_beside_idle_work_is_taken_again_without() {
    let mut state = resting(SchedulerConfig::default(), 1);
    turns(&mut state);
    idled(&mut state, 0);
    state.submit(vec![job(1, 1)]).unwrap();
    let mut again = |turn: &str, drop: &str| {
        assert_eq!(turns(&mut state), format!("0: {turn}"));
        let jobs = state.turned(0);
        assert_eq!(state.ran_out_beside_idle(0, &jobs), Some(None));
        assert_eq!(turns(&mut state), format!("0: {drop}{turn}"));
        assert_eq!(state.ran_out_beside_idle(0, &jobs), None, "nothing is held");
        state.lanes[0].memory
    };
    assert_eq!(again("Encode(1)", "-100 "), crate::memory::MemoryBound::default(), "no lesson for jobs");
    assert_eq!(state.idle.len(), 1);
}

#[test]
fn idle_work_that_crashes_a_worker_is_given_up_and_what_was_set_aside_begins_again() {
    for (is_at_work, expected) in [(true, Some(100)), (false, None)] {
        let mut state = resting(SchedulerConfig::default(), 1);
        turns(&mut state);
        if !is_at_work {
            idled(&mut state, 0);
            state.submit(vec![job(1, 1)]).unwrap();
            turns(&mut state);
        }
        assert_eq!(state.idle_lost(0), expected);
        state.pipeline_lost(0, Next::Load(Duration::ZERO), state.now);
        assert_eq!((state.idle.len(), state.lanes[0].idle.is_at_work), (usize::from(!is_at_work), false));
    }
}

#[test]
fn what_is_given_up_is_interrupted_and_its_state_dropped() {
    let mut state = resting(SchedulerConfig::default(), 1);
    turns(&mut state);
    idled(&mut state, 0);
    turns(&mut state);
    assert!(state.cancel_idle(100) && !state.cancel_idle(100));
    assert_eq!(state.preempted(), [0]);
    state.turned(0);
    assert!(!state.idled(0), "it is gone");
    assert_eq!(turns(&mut state), "0: -100 ");
    let mut state = resting(SchedulerConfig::default(), 1);
    turns(&mut state);
    state.submit_idle(job(101, 1)).unwrap();
    assert_eq!(state.cancel_all_idle(), [100, 101]);
    assert_eq!(state.preempted(), [0]);
}

#[test]
fn a_worker_that_failed_does_no_idle_work_until_it_may_work_again() {
    let mut state = resting(SchedulerConfig::default(), 1);
    let (now, backoff) = (state.now, state.config.backoff);
    state.lanes[0].health.failed(now, backoff);
    assert_eq!(turns(&mut state), "");
    state.advance(now + backoff.first);
    assert_eq!(turns(&mut state), "~0: Encode(100)");
}
