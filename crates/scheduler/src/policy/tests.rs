//! Simulated queues, one word per turn, and invariants of all queues.

use std::time::Duration;

use diffusion::{PreviewMethod, PreviewTimes, Previews, RequestCost, RequestMemory};

use super::*;
use crate::booked_job::JobId;
use crate::calibration::Calibration;
use crate::config::{JobOptions, SchedulerConfig};
use crate::health::Next;
use crate::testing::{TICK, books, cost};

fn letter(id: JobId) -> char {
    (b'a' + id as u8) as char
}

/// An external event before a round.
#[expect(clippy::large_enum_variant, reason = "a few of them, in tests")]
enum Outside {
    Submit(Job),
    Cancel(JobId),
    /// The turn in progress for this job runs out of memory.
    Fails(JobId),
}
use Outside::{Cancel, Fails, Submit};

fn job(id: JobId, cost: RequestCost, round: u32) -> Job {
    Job::new(id, cost, JobOptions::default(), TICK * round)
}

/// Memory of a request that needs it for its state alone.
fn state_of(bytes: u64) -> RequestMemory {
    RequestMemory { state: bytes, ..RequestMemory::default() }
}

/// The word of a turn: `+a` encodes, `ab` steps both, `a?` draws a preview, `a!` decodes, `-a` drops.
fn word(assignment: &Assignment) -> String {
    let dropped = assignment.drop.iter().map(|&id| format!("-{}", letter(id)));
    let turn = match &assignment.turn {
        Some(Turn::Encode(id)) => format!("+{}", letter(*id)),
        Some(Turn::Step(ids)) => ids.iter().map(|&id| letter(id)).collect(),
        Some(Turn::Preview(id)) => format!("{}?", letter(*id)),
        Some(Turn::Decode(id)) => format!("{}!", letter(*id)),
        None => String::new(),
    };
    dropped.chain([turn]).collect()
}

/// Simulates the books in rounds of a second: each assigned turn ends within its round. Words of several workers in one
/// round are joined by `|`.
fn play(mut state: State, outside: Vec<(u32, Outside)>) -> String {
    let mut outside = outside.into_iter().peekable();
    let mut rounds = Vec::new();
    for round in 0.. {
        assert!(round < 100, "this goes on for ever: {rounds:?}");
        let mut failing = Vec::new();
        state.advance(TICK * round);
        while let Some((_, event)) = outside.next_if(|(at, _)| *at == round) {
            match event {
                Submit(job) => state.submit(vec![job]).unwrap(),
                Cancel(id) => state.cancel(id),
                Fails(id) => failing.push(id),
            }
        }
        let assignments = assign(&state, TICK * round);
        if assignments.is_empty() && outside.peek().is_none() {
            break;
        }
        state.assigned(&assignments);
        let mut words = vec![String::new(); state.lanes.len()];
        for (worker, assignment) in assignments {
            words[worker] = word(&assignment);
            crate::testing::done(&mut state, worker, assignment.turn, &failing);
        }
        rounds.push(words.join("|"));
    }
    rounds.join(" ")
}

/// Books of one worker, whose steps are full at 64 tokens, with queued small pictures of these step counts.
fn line(max_batch: usize, steps: &[usize]) -> State {
    let mut state = books(SchedulerConfig { max_batch, ..SchedulerConfig::default() }, 1);
    let jobs = steps.iter().enumerate().map(|(id, &steps)| job(id as JobId, cost(16, steps), 0));
    state.submit(jobs.collect()).unwrap();
    state
}

#[test]
fn jobs_join_between_steps_and_leave_when_done() {
    // Least work first, as far as places allow.
    assert_eq!(play(line(2, &[1, 3, 2]), vec![]), "+a +c ac a! +b cb c! b b b!");
}

#[test]
fn one_place_serves_one_at_a_time() {
    assert_eq!(play(line(1, &[2, 1]), vec![]), "+b b b! +a a a a!");
}

#[test]
fn a_step_is_filled_up_to_the_token_budget() {
    // Nine tenths of the best throughput are reached at 57.6 tokens: four times 16.
    assert_eq!(play(line(9, &[1; 5]), vec![]), "+a +b +c +d abcd a! b! c! d! +e e e!");
}

#[test]
fn a_short_job_goes_before_a_long_one_that_runs() {
    let mut state = line(9, &[]);
    state.submit(vec![job(0, cost(64, 5), 0)]).unwrap();
    let outside = vec![(3, Submit(job(1, cost(64, 1), 3)))];
    assert_eq!(play(state, outside), "+a a a +b b b! a a a a!");
}

#[test]
fn a_device_that_gains_nothing_from_company_takes_one_at_a_time() {
    let mut state = line(9, &[3, 2]);
    state.cost.calibrate(&Calibration { steps: vec![(16.0, 1.0)], ..Calibration::default() });
    assert_eq!(play(state, vec![]), "+b b b b! +a a a a a!");
}

#[test]
fn a_full_step_takes_in_what_costs_nothing() {
    let mut state = line(9, &[]);
    state.submit(vec![job(0, cost(128, 2), 0), job(1, cost(1, 900), 0)]).unwrap();
    assert!(play_some(state, 0..3).ends_with("ab"));
}

/// Simulates some rounds of a queue that is too long to finish.
fn play_some(mut state: State, rounds: std::ops::Range<u32>) -> String {
    let mut words = Vec::new();
    for round in rounds {
        let assignments = assign(&state, TICK * round);
        state.assigned(&assignments);
        for (worker, assignment) in assignments {
            words.push(word(&assignment));
            crate::testing::done(&mut state, worker, assignment.turn, &[]);
        }
    }
    words.join(" ")
}

#[test]
fn a_small_picture_has_a_large_one_for_company_while_it_can_afford_it() {
    let company = |large: usize, from| {
        let mut state = line(9, &[20]);
        state.submit(vec![job(1, cost(large, 20), 0)]).unwrap();
        play_some(state, from..from + 3)
    };
    // Alone 20 s, with company 20 * 2.25 s: 25 s longer, and 40 s are allowed.
    assert_eq!(company(128, 0), "+a +b ab");
    // With company 20 * 4.25 s.
    assert_eq!(company(256, 0), "+a a a");
    // Already later than company could make it.
    assert_eq!(company(256, 50), "+a +b ab");
}

#[test]
fn company_has_to_save_something() {
    let company = |tokens| {
        let mut state = line(9, &[20]);
        let steps = vec![(16.0, 1.2), (256.0, 16.2)];
        state.cost.calibrate(&Calibration { steps, ..Calibration::default() });
        state.submit(vec![job(1, cost(tokens, 20), 0)]).unwrap();
        play_some(state, 0..3)
    };
    // 2.4 s apart and 2.2 s together.
    assert_eq!(company(16), "+a +b ab");
    // 3.9 s apart and 3.7 s together.
    assert_eq!(company(40), "+a a a");
}

#[test]
fn a_deadline_is_not_missed_for_company() {
    let company = |deadline: u32| {
        let mut state = line(9, &[20]);
        state.submit(vec![job(1, cost(128, 20), 0)]).unwrap();
        state.waiting[0].deadline = Some(TICK * deadline);
        play_some(state, 0..3)
    };
    // The small picture is done after 22 s alone; company would add 1 s for the encoding and 20 * 1.25 s for the steps.
    assert_eq!(company(48), "+a +b ab");
    assert_eq!(company(47), "+a a +b", "after one of the 20 steps alone");
    assert_eq!(company(22), "+a a a");
    assert_eq!(company(21), "+a +b ab", "what is late anyway has nothing to lose");
}

#[test]
fn priority_goes_first_and_is_hardly_slowed_down() {
    let company = |tokens, priorities| {
        let mut state = line(9, &[]);
        let options = JobOptions { priority: 1, ..JobOptions::default() };
        state.config.priorities = priorities;
        state.submit(vec![job(0, cost(tokens, 1), 0), Job::new(1, cost(16, 5), options, Duration::ZERO)]).unwrap();
        play(state, vec![])
    };
    // 48 tokens take no longer than 16.
    assert_eq!(company(32, true), "+b +a ba a! b b b b b!");
    // 80 tokens take a quarter longer.
    assert_eq!(company(64, true), "+b b b b b b b! +a a a!");
    assert_eq!(company(64, false), "+b +a ba a! b b b b b!", "in its turn, as the one with less work");
}

#[test]
fn a_job_that_does_not_fit_into_memory_waits_and_others_pass_it() {
    let bytes = |bytes, tokens, steps| RequestCost { memory: state_of(bytes), ..cost(tokens, steps) };
    let mut state = line(9, &[]);
    state.config.memory_budget = Some(10);
    let jobs = [bytes(6, 16, 3), bytes(6, 16, 3), bytes(3, 16, 4)];
    state.submit((0..).zip(jobs).map(|(id, cost)| job(id, cost, 0)).collect()).unwrap();
    assert_eq!(play(state, vec![]), "+a +c ac ac ac a! +b cb c! b b b!");
}

#[test]
fn memory_is_kept_for_a_job_that_is_behind() {
    let bytes = |bytes, steps| RequestCost { memory: state_of(bytes), ..cost(16, steps) };
    let mut state = line(9, &[]);
    state.config.memory_budget = Some(10);
    state.submit(vec![job(0, bytes(6, 30), 0)]).unwrap();
    // `b` takes 4 s alone, with encoding and decoding, and has waited 2.5 times that at 11 s. Its owner has no other
    // job.
    let other = JobOptions { owner: 9, ..JobOptions::default() };
    let mut outside = vec![(1, Submit(Job::new(1, bytes(6, 2), other, TICK)))];
    outside.extend((0..3).map(|i| (4 + 6 * i, Submit(job(2 + JobId::from(i), bytes(3, 3), 4 + 6 * i)))));
    let played = play(state, outside);
    let place = |word: &str| played.find(word).unwrap_or_else(|| panic!("no {word} in {played}"));
    assert!(place("+c") < place("+b") && place("+d") < place("+b"), "young jobs pass: {played}");
    assert!(place("+b") < place("+e"), "{played}");
}

/// Adds a preview, which takes as long as a decoding, after every `interval` steps.
fn previewed(cost: RequestCost, interval: usize) -> RequestCost {
    let times = PreviewTimes::Interval(interval);
    RequestCost { previews: Some(Previews { method: PreviewMethod::Vae, times }), ..cost }
}

#[test]
fn a_preview_is_a_turn_of_its_own_before_the_next_step() {
    let mut state = line(2, &[]);
    state.submit(vec![job(0, previewed(cost(16, 4), 2), 0), job(1, cost(16, 3), 0)]).unwrap();
    assert_eq!(play(state, vec![]), "+b +a ba ba a? ba b! a a!");
}

#[test]
fn a_preview_waits_while_others_go_first() {
    let mut state = line(9, &[]);
    state.submit(vec![job(0, previewed(cost(64, 5), 1), 0)]).unwrap();
    // A short job arrives during a step after which a preview is due.
    let outside = vec![(2, Submit(job(1, cost(64, 1), 2)))];
    assert_eq!(play(state, outside), "+a a +b b b! a? a a? a a? a a? a a!");
}

#[test]
fn previews_are_not_drawn_for_company_that_cannot_wait_for_them() {
    let company = |deadline: u32| {
        let mut state = line(9, &[]);
        state.submit(vec![job(0, cost(16, 4), 0), job(1, previewed(cost(16, 8), 1), 0)]).unwrap();
        state.waiting[0].deadline = Some(TICK * deadline);
        play(state, vec![])
    };
    // 6 s alone, from the second round on; an encoding and three previews add four.
    let played = company(11);
    assert!(played.starts_with("+a +b ab b? ab"), "{played}");
    let played = company(8);
    assert!(played.starts_with("+a +b ab b? ab a a a!") || played.starts_with("+a +b ab a a a a!"), "{played}");
}

#[test]
fn a_preview_that_is_due_is_dropped_with_its_job_or_left_out() {
    let state = || {
        let mut state = line(1, &[]);
        state.submit(vec![job(0, previewed(cost(16, 2), 1), 0)]).unwrap();
        state
    };
    assert_eq!(play(state(), vec![(2, Cancel(0))]), "+a a -a");
    assert_eq!(play(state(), vec![(2, Fails(0))]), "+a a a? a a!", "nothing depends on one");
}

#[test]
fn the_memory_of_a_step_bounds_who_steps_together() {
    let memory = |step| RequestMemory { state: 1, step, ..RequestMemory::default() };
    let play_with = |budget, steps: &[u64]| {
        let mut state = line(9, &[]);
        state.config.memory_budget = Some(budget);
        let jobs = (0..).zip(steps).map(|(id, &step)| job(id, RequestCost { memory: memory(step), ..cost(16, 1) }, 0));
        state.submit(jobs.collect()).unwrap();
        play(state, vec![])
    };
    // Three states and the steps of two, or of three.
    assert_eq!(play_with(11, &[4, 4, 4]), "+a +b ab a! b! +c c c!");
    assert_eq!(play_with(15, &[4, 4, 4]), "+a +b +c abc a! b! c!");
    // Two jobs need their peaks at once only if they step together.
    assert_eq!(play_with(9, &[7, 7]), "+a a a! +b b b!");
}

#[test]
fn what_a_pipeline_keeps_leaves_less_for_jobs_and_always_room_for_one() {
    let play_with = |kept| {
        let mut state = line(9, &[]);
        state.config.memory_budget = Some(10);
        state.lanes[0].kept = kept;
        state
            .submit((0..2).map(|id| job(id, RequestCost { memory: state_of(4), ..cost(16, 1) }, 0)).collect())
            .unwrap();
        play(state, vec![])
    };
    assert_eq!(play_with(2), "+a +b ab a! b!");
    assert_eq!(play_with(3), "+a a a! +b b b!");
    assert_eq!(play_with(30), "+a a a! +b b b!");
}

#[test]
fn a_job_is_taken_up_where_the_largest_decoding_has_room() {
    let memory = |decode| RequestMemory { state: 2, decode, ..RequestMemory::default() };
    let play_with = |budget| {
        let mut state = line(9, &[]);
        state.config.memory_budget = Some(budget);
        let jobs = [6, 1].map(|decode| RequestCost { memory: memory(decode), ..cost(16, 1) });
        state.submit((0..).zip(jobs).map(|(id, cost)| job(id, cost, 0)).collect()).unwrap();
        play(state, vec![])
    };
    assert_eq!(play_with(10), "+a +b ab a! b!");
    assert_eq!(play_with(9), "+a a a! +b b b!");
}

#[test]
fn a_cancelled_job_is_dropped_at_the_next_turn_and_leaves_the_line() {
    assert_eq!(play(line(2, &[9, 1]), vec![(3, Cancel(0))]), "+b +a ba -ab!");
    assert_eq!(play(line(1, &[9]), vec![(2, Cancel(0))]), "+a a -a");
    assert_eq!(play(line(1, &[1, 2, 3]), vec![(1, Cancel(1))]), "+a a a! +c c c c c!");
}

#[test]
fn workers_share_one_line_and_the_one_with_least_work_chooses_first() {
    let mut state = books(SchedulerConfig { max_batch: 2, ..SchedulerConfig::default() }, 2);
    state.submit((0..).zip([2, 1, 1]).map(|(id, steps)| job(id, cost(64, steps), 0)).collect()).unwrap();
    assert_eq!(play(state, vec![]), "+b|+c b|c b!|c! +a| a| a| a!|");
    // The worker of `a` would have room.
    let mut state = books(SchedulerConfig::default(), 2);
    state.submit(vec![job(0, cost(16, 3), 0)]).unwrap();
    assert_eq!(play(state, vec![(2, Submit(job(1, cost(16, 1), 2)))]), "+a| a| a|+b a|b a!|b!");
}

#[test]
fn only_an_idle_worker_is_given_a_turn() {
    let mut state = books(SchedulerConfig { max_batch: 1, ..SchedulerConfig::default() }, 2);
    state.submit(vec![job(0, cost(64, 1), 0), job(1, cost(64, 1), 0)]).unwrap();
    state.pipeline_lost(0, Next::Lose, Duration::ZERO);
    assert_eq!(play(state, vec![]), "|+a |a |a! |+b |b |b!");
}

#[test]
fn a_decoding_that_ran_out_of_memory_is_tried_again_once_nothing_else_is_held() {
    let outside = vec![(3, Fails(0)), (4, Submit(job(2, cost(16, 1), 4)))];
    // Until then, no job is started.
    assert_eq!(play(line(9, &[1, 3]), outside), "+a +b ab a! b b b! a! +c c c!");
}

#[test]
fn company_that_ran_out_of_memory_is_not_kept_again() {
    let memory = RequestMemory { state: 1, step: 4, ..RequestMemory::default() };
    let small = |id, round| Submit(job(id, RequestCost { memory, ..cost(16, 3) }, round));
    let outside = vec![(0, small(0, 0)), (0, small(1, 0)), (0, small(2, 0)), (3, Fails(2)), (4, small(3, 4))];
    // Three were too many: `c` steps alone, and no job joins the two that are left.
    assert_eq!(play(line(9, &[]), outside), "+a +b +c abc ab ab ab a! b! c c c c! +d d d d d!");
}

#[test]
fn a_second_decoding_that_runs_out_of_memory_is_the_last() {
    let outside = vec![(3, Fails(0)), (7, Fails(0))];
    assert_eq!(play(line(9, &[1, 3]), outside), "+a +b ab a! b b b! a! -a");
    assert_eq!(play(line(9, &[1]), vec![(2, Fails(0))]), "+a a a! -a", "there was nothing else from the first");
    // Two jobs wait for each other.
    let outside = vec![(3, Fails(0)), (4, Fails(1)), (5, Fails(0))];
    assert_eq!(play(line(9, &[1, 1]), outside), "+a +b ab a! b! a! -ab!");
}

#[test]
fn an_owner_of_many_jobs_does_not_shut_out_another() {
    let state = line(1, &[2, 2, 2, 2]);
    let other = JobOptions { owner: 9, ..JobOptions::default() };
    let outside = vec![(1, Submit(Job::new(4, cost(16, 2), other, TICK)))];
    // The owner of `a` is ahead by a whole job once `a` is done.
    assert_eq!(play(state, outside), "+a a a a! +e e e e! +b b b b! +c c c c! +d d d d!");
}
