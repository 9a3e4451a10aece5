//! Predictions for requests whose computed steps are known. A computed step takes a second, any other none.

use std::time::Duration;

use diffusion::{KnownSteps, StepReport, Work};
use proptest::prelude::*;

use super::*;
use crate::booked_job::{Job, JobId, Needs};
use crate::config::{JobOptions, SchedulerConfig};
use crate::cost::Estimate;
use crate::policy;
use crate::refusal::SubmitError;
use crate::state::State;
use crate::testing::{TICK, books, cost, done, planned, report};
use crate::turn::Turn;

/// A job of 16 tokens: encoded in a second, and decoded in a second.
fn job(id: JobId, computed: &str, deadline: Option<u32>) -> Job {
    let computed: Vec<_> = computed.chars().map(|letter| letter == '1').collect();
    let options = JobOptions { deadline: deadline.map(|ticks| TICK * ticks), ..JobOptions::default() };
    Job::new(id, planned(cost(16, computed.len()), &computed), options, Duration::ZERO)
}

fn books_with(jobs: Vec<Job>) -> State {
    let mut state = books(SchedulerConfig::default(), 1);
    state.submit(jobs).unwrap();
    state
}

/// Assigns and returns the next turn of the only worker.
fn assigned(state: &mut State) -> Turn {
    let turns = policy::assign(state, Duration::ZERO);
    state.assigned(&turns);
    let [(0, assignment)] = &turns[..] else { panic!("{turns:?}") };
    assignment.turn.clone().unwrap()
}

/// Predicted seconds of the only job by each function, and of everything in hand.
fn foreseen(state: &State) -> [f64; 4] {
    let job = state.jobs().next().unwrap();
    let alone = [Estimate::Expected, Estimate::AtLeast].map(|estimate| state.cost.alone(job, estimate));
    let times = [alone[0], alone[1], state.cost.whole_and_left(job).1, state.predicted_drain()];
    times.map(|time| (time.as_secs_f64() * 1e6).round() / 1e6)
}

#[test]
fn what_is_left_falls_by_each_computed_step_and_by_no_other() {
    let mut state = books_with(vec![job(0, "10010011", None)]);
    assert_eq!(foreseen(&state), [6.0; 4], "encoding, four steps, decoding");
    let encoding = assigned(&mut state);
    done(&mut state, 0, Some(encoding), &[]);
    for left in [4.0, 4.0, 4.0, 3.0, 3.0, 3.0, 2.0, 1.0] {
        let step = assigned(&mut state);
        assert_eq!(step, Turn::Step(vec![0]));
        done(&mut state, 0, Some(step), &[]);
        assert_eq!(foreseen(&state), [left; 4]);
        assert_eq!(state.cost.whole_and_left(state.jobs().next().unwrap()).0, TICK * 6);
    }
    assert_eq!(assigned(&mut state), Turn::Decode(0));
}

#[test]
fn where_a_guard_adds_steps_they_are_foreseen_from_then_on() {
    let mut state = books_with(vec![job(0, "10001000", None)]);
    let encoding = assigned(&mut state);
    done(&mut state, 0, Some(encoding), &[]);
    // The first step is as planned. At the fifth the request leaves its course, and the three steps after it are
    // computed too.
    let added = [0, 0, 0, 0, 3, 2, 1, 0];
    let left = [2.0, 2.0, 2.0, 2.0, 4.0, 3.0, 2.0, 1.0];
    for (also_computed, left) in added.into_iter().zip(left) {
        assigned(&mut state);
        let jobs = state.turned(0);
        let reports = [StepReport { also_computed, ..report(&jobs[0]) }];
        state.stepped(&jobs, &reports, Duration::from_secs_f64(reports[0].computed_share));
        assert_eq!(foreseen(&state), [left; 4]);
    }
    let whole = state.cost.whole_and_left(state.jobs().next().unwrap()).0;
    assert_eq!(whole, TICK * 7, "it would take the same way again");
}

#[test]
fn a_deadline_is_held_against_the_steps_that_are_computed() {
    let mut state = books(SchedulerConfig::default(), 1);
    let refused = SubmitError::NeverInTime { predicted: TICK * 4, deadline: TICK * 3 };
    assert_eq!(state.submit(vec![job(0, "10000100", Some(3))]), Err(refused));
    assert_eq!(state.submit(vec![job(0, "10000100", Some(4))]), Ok(()));
    // The shortest job goes first, however many steps it has.
    state.submit(vec![job(1, "11", None), job(2, "100000000000", None)]).unwrap();
    assert_eq!(state.line(Duration::ZERO), [2, 0, 1]);
}

#[test]
fn steps_that_are_skipped_go_first_and_those_that_are_computed_together() {
    let mut state = books_with(vec![job(0, "1001", None), job(1, "11", None)]);
    let mut turns = Vec::new();
    while state.jobs().next().is_some() {
        let turn = assigned(&mut state);
        turns.push(turn.clone());
        done(&mut state, 0, Some(turn), &[]);
    }
    let steps: Vec<_> = turns.into_iter().filter(|turn| matches!(turn, Turn::Step(_))).collect();
    assert_eq!(
        steps,
        [vec![0, 1], vec![0], vec![0], vec![0, 1]].map(|mut ids: Vec<JobId>| {
            ids.sort_unstable();
            Turn::Step(ids)
        })
    );
}

#[test]
fn a_mask_of_a_cache_leaves_the_blocks_that_always_run() {
    let known = KnownSteps::new([true, false, false, true]);
    let work = Work { step: 64.0, reused_step: 16.0, ..cost(64, 4).work };
    let masked = RequestCost { known, least_share: 0.25, work, ..cost(64, 4) };
    let mut state = books(SchedulerConfig::default(), 1);
    state.submit(vec![Job::new(0, masked, JobOptions::default(), Duration::ZERO)]).unwrap();
    let job = *state.jobs().next().unwrap();
    let loads = (0..4).map(|taken| state.cost.load(&Job { steps_left: 4 - taken, needs: Needs::Step, ..job }));
    assert_eq!(loads.collect::<Vec<_>>(), [64.0, 16.0, 16.0, 64.0]);
    // Observations of other requests of its kind have no effect.
    state.cost.observe_share(&RequestCost { known: None, ..masked }, 0.3);
    assert_eq!((state.cost.load(&job), state.cost.mean_load(&job)), (64.0, 40.0));
}

proptest! {
    /// For any computed steps and any steps added by a guard, completed and remaining work add up to the whole at every
    /// step.
    #[test]
    fn what_is_left_is_what_is_to_be_computed(
        computed in prop::collection::vec(any::<bool>(), 1..40),
        off in prop::collection::vec(prop::option::weighted(0.2, 0..5_usize), 40),
    ) {
        let letters: String = computed.iter().map(|computed| if *computed { '1' } else { '0' }).collect();
        let mut state = books_with(vec![job(0, &letters, None)]);
        let encoding = assigned(&mut state);
        done(&mut state, 0, Some(encoding), &[]);
        let mut left = computed;
        for step in 0..left.len() {
            assigned(&mut state);
            let jobs = state.turned(0);
            let also_computed = off[step].unwrap_or(0).min(left.len() - step - 1);
            left[step + 1..][..also_computed].fill(true);
            let report = StepReport { also_computed, ..report(&jobs[0]) };
            state.stepped(&jobs, &[report], Duration::from_secs(1));
            let n_left = left[step + 1..].iter().filter(|computed| **computed).count() as f64;
            prop_assert_eq!(foreseen(&state), [n_left + 1.0; 4], "after {} steps", step + 1);
        }
    }
}
