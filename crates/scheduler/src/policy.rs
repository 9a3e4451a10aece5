//! Which jobs take which turn on which worker: a pure function of the books.
//!
//! First come, first served, up to `max_batch` running jobs a worker. Encoding, stepping and
//! decoding are turns of their own: a finished job is decoded first (its client waits for
//! nothing else), then free places are filled from the line, then everything that runs takes
//! a step together, whatever its size. So between two steps of a job lie at most `max_batch`
//! decodings and as many encodings, those that fail left out.

use std::collections::vec_deque;

use crate::state::{Job, JobId, Lane, LaneStatus, Needs, State, WorkerId};

/// One turn of one worker: what to drop first, then what to do.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) drop: Vec<JobId>,
    pub(crate) turn: Option<Turn>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    Encode(JobId),
    Step(Vec<JobId>),
    Decode(JobId),
}

/// The next turn of each idle worker that has something to do.
pub(crate) fn assign(state: &State) -> Vec<(WorkerId, Assignment)> {
    let mut idle: Vec<_> = state.lanes.iter().enumerate().filter(|(_, lane)| lane.status == LaneStatus::Idle).collect();
    idle.sort_by_key(|(_, lane)| lane.running.len());

    let mut line = state.waiting.iter();
    let mut assignments = Vec::new();
    for (worker, lane) in idle {
        let turn = decode(lane).or_else(|| encode(lane, &mut line, state.config.max_batch)).or_else(|| step(lane));
        if turn.is_some() || !lane.cancelled.is_empty() {
            assignments.push((worker, Assignment { drop: lane.cancelled.clone(), turn }));
        }
    }
    assignments
}

fn decode(lane: &Lane) -> Option<Turn> {
    lane.running.iter().find(|job| job.needs == Needs::Decode).map(|job| Turn::Decode(job.id))
}

fn encode(lane: &Lane, line: &mut vec_deque::Iter<'_, Job>, max_batch: usize) -> Option<Turn> {
    if lane.running.len() >= max_batch {
        return None;
    }
    line.next().map(|job| Turn::Encode(job.id))
}

fn step(lane: &Lane) -> Option<Turn> {
    let ids: Vec<_> = lane.running.iter().filter(|job| job.needs == Needs::Step).map(|job| job.id).collect();
    (!ids.is_empty()).then_some(Turn::Step(ids))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::SchedulerConfig;
    use crate::fake::request;

    const NOW: Duration = Duration::ZERO;

    fn letter(id: JobId) -> char {
        (b'a' + id as u8) as char
    }

    /// Enters a finished turn into the books, as the event loop does.
    fn done(state: &mut State, worker: WorkerId, turn: Option<Turn>) {
        state.turned(worker);
        match turn {
            Some(Turn::Encode(id)) => state.encoded(id),
            Some(Turn::Step(ids)) => state.stepped(&ids, Duration::from_millis(1)),
            Some(Turn::Decode(id)) => state.ended(id),
            None => {}
        }
    }

    fn state(max_batch: usize, n_workers: usize, steps: &[usize]) -> State {
        let mut state = State::new(SchedulerConfig { max_batch, max_waiting: 64 }, n_workers);
        let job = |(id, &steps)| Job::new(id as JobId, &request(64, steps), NOW);
        assert!(state.submit(steps.iter().enumerate().map(job).collect()));
        (0..n_workers).for_each(|worker| state.loaded(worker));
        state
    }

    /// Plays the line out, one word a turn: `+a` encodes, `ab` steps both, `a!` decodes, `-a` drops.
    /// Turns of several workers in the same round are joined by `|`.
    fn play(mut state: State) -> String {
        let mut rounds = Vec::new();
        loop {
            assert!(rounds.len() < 100, "this goes on for ever: {rounds:?}");
            let assignments = assign(&state);
            if assignments.is_empty() {
                return rounds.join(" ");
            }
            state.assigned(&assignments);
            let mut words = vec![String::new(); state.lanes.len()];
            for (worker, Assignment { drop, turn }) in assignments {
                let dropped: String = drop.iter().map(|&id| format!("-{}", letter(id))).collect();
                words[worker] = dropped
                    + &match &turn {
                        Some(Turn::Encode(id)) => format!("+{}", letter(*id)),
                        Some(Turn::Step(ids)) => ids.iter().map(|&id| letter(id)).collect(),
                        Some(Turn::Decode(id)) => format!("{}!", letter(*id)),
                        None => String::new(),
                    };
                done(&mut state, worker, turn);
            }
            rounds.push(words.join("|"));
        }
    }

    #[test]
    fn jobs_join_between_steps_and_leave_when_done() {
        assert_eq!(play(state(2, 1, &[1, 3, 2])), "+a +b ab a! +c bc bc b! c!");
    }

    #[test]
    fn one_place_serves_one_at_a_time() {
        assert_eq!(play(state(1, 1, &[2, 1])), "+a a a a! +b b b!");
    }

    #[test]
    fn workers_share_one_line() {
        assert_eq!(play(state(2, 2, &[2, 1, 1])), "+a|+b +c|b ac|b! c!| a| a!|");
    }

    #[test]
    fn sizes_and_guidance_step_together() {
        let mut state = state(3, 1, &[1]);
        let mut guided = request(32, 1);
        guided.negative_prompt = Some(" ".into());
        guided.params.true_cfg_scale = 4.0;
        state.submit(vec![Job::new(1, &guided, NOW), Job::new(2, &request(128, 1), NOW)]);
        assert_eq!(play(state), "+a +b +c abc a! b! c!");
    }

    #[test]
    fn a_cancelled_job_is_dropped_at_the_next_turn() {
        let mut state = state(2, 1, &[9, 1]);
        for _ in 0..3 {
            let mut assignments = assign(&state);
            state.assigned(&assignments);
            let (worker, Assignment { turn, .. }) = assignments.remove(0);
            if matches!(turn, Some(Turn::Step(_))) {
                state.cancel(0); // while it is being stepped
            }
            done(&mut state, worker, turn);
        }
        assert_eq!(play(state), "-ab!");
    }

    #[test]
    fn a_worker_with_nothing_else_to_do_still_drops() {
        let mut state = state(1, 1, &[9]);
        let assignments = assign(&state);
        state.assigned(&assignments);
        state.cancel(0);
        state.turned(0);
        assert_eq!(play(state), "-a");
    }

    #[test]
    fn a_cancelled_job_leaves_the_line() {
        let mut state = state(1, 1, &[1, 1, 1]);
        state.cancel(1);
        assert_eq!(play(state), "+a a a! +c c c!");
    }

    #[test]
    fn only_an_idle_worker_is_given_a_turn() {
        let mut state = state(1, 2, &[1, 1]);
        assert_eq!(state.emptied(0, LaneStatus::Lost), []);
        assert_eq!(play(state), "|+a |a |a! |+b |b |b!");
    }

    /// What can happen to the books from outside.
    #[derive(Clone, Debug)]
    enum Move {
        Submit { n: usize, steps: usize },
        Cancel(usize),
        FinishTurn(usize),
        Crash(usize),
    }

    fn any_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            2 => (1..4_usize, 1..5_usize).prop_map(|(n, steps)| Move::Submit { n, steps }),
            1 => (0..40_usize).prop_map(Move::Cancel),
            8 => (0..3_usize).prop_map(Move::FinishTurn),
            1 => (0..3_usize).prop_map(Move::Crash),
        ]
    }

    proptest! {
        /// Every accepted job ends once, in a decode, a cancellation or a crash; places are kept; the
        /// line is served in order.
        #[test]
        fn every_job_ends_once_whatever_happens(moves in prop::collection::vec(any_move(), 0..200)) {
            let (max_batch, n_workers) = (3, 3);
            let mut state = state(max_batch, n_workers, &[]);
            let mut at_work: Vec<Option<Option<Turn>>> = (0..n_workers).map(|_| None).collect();
            let (mut accepted, mut ended, mut taken_up) = (Vec::new(), Vec::new(), Vec::new());
            let finish = (0..2000).map(|i| Move::FinishTurn(i % n_workers));
            for (i, one) in moves.into_iter().chain(finish).enumerate() {
                match one {
                    Move::Submit { n, steps } => {
                        let ids = (0..n).map(|k| (i * 10 + k) as JobId);
                        let jobs = ids.clone().map(|id| Job::new(id, &request(64, steps), NOW)).collect();
                        if state.submit(jobs) {
                            accepted.extend(ids);
                        }
                    }
                    Move::Cancel(nth) => {
                        if let Some(&id) = accepted.get(nth).filter(|id| !ended.contains(*id)) {
                            state.cancel(id);
                            ended.push(id);
                        }
                    }
                    Move::FinishTurn(worker) => {
                        if let Some(turn) = at_work[worker].take() {
                            // The answer to a job that was cancelled during its decode goes nowhere.
                            if let Some(Turn::Decode(id)) = turn
                                && !ended.contains(&id)
                            {
                                ended.push(id);
                            }
                            done(&mut state, worker, turn);
                        }
                    }
                    Move::Crash(worker) => {
                        at_work[worker] = None;
                        ended.extend(state.emptied(worker, LaneStatus::Loading));
                        state.loaded(worker);
                    }
                }
                let assignments = assign(&state);
                state.assigned(&assignments);
                for (worker, assignment) in assignments {
                    prop_assert!(at_work[worker].is_none(), "two turns at once");
                    if let Some(Turn::Encode(id)) = assignment.turn {
                        taken_up.push(id);
                    }
                    at_work[worker] = Some(assignment.turn);
                }
                prop_assert!(state.lanes.iter().all(|lane| lane.running.len() <= max_batch));
            }
            prop_assert!(taken_up.is_sorted(), "the line is served in order: {taken_up:?}");
            ended.sort_unstable();
            prop_assert_eq!(ended, accepted);
        }
    }
}
