//! Which jobs are accepted and which are refused.

use diffusion::RequestMemory;

use super::*;
use crate::backoff::Backoff;
use crate::booked_job::JobId;
use crate::config::JobOptions;
use crate::policy;
use crate::testing::{TICK, books, cost};

const CONFIG: SchedulerConfig = SchedulerConfig {
    max_batch: 2,
    max_waiting: 3,
    max_backlog: Some(Duration::from_secs(30)),
    memory_budget: Some(10),
    max_deadline: None,
    priorities: true,
    shared_processor: false,
    calibration: Duration::ZERO,
    backoff: Backoff { first: Duration::ZERO, most: Duration::ZERO },
};

fn jobs(ids: std::ops::Range<JobId>, steps: usize, deadline: Option<u32>) -> Vec<Job> {
    let options = JobOptions { deadline: deadline.map(|ticks| TICK * ticks), ..JobOptions::default() };
    ids.map(|id| Job::new(id, cost(64, steps), options, Duration::ZERO)).collect()
}

#[test]
fn a_group_is_taken_whole_or_not_at_all() {
    let mut state = books(CONFIG, 1);
    state.submit(jobs(0..2, 1, None)).unwrap();
    let refused = state.submit(jobs(2..4, 1, None));
    assert!(matches!(refused, Err(SubmitError::QueueFull { waiting: 2, .. })), "one of the two would fit");
    state.submit(jobs(4..5, 1, None)).unwrap();
    assert_eq!(state.load().waiting, 3);
}

#[test]
fn an_empty_line_takes_a_group_of_any_size() {
    let mut state = books(CONFIG, 1);
    state.submit(jobs(0..10, 9, None)).unwrap();
    assert!(state.submit(jobs(10..11, 1, None)).is_err());
}

fn place(state: &mut State, jobs: Vec<Job>) -> Duration {
    match state.submit(jobs).unwrap_err() {
        SubmitError::QueueFull { place_in, .. } => place_in,
        other => panic!("{other}"),
    }
}

#[test]
fn a_full_line_tells_when_there_is_a_place_in_it() {
    let mut state = books(CONFIG, 1);
    // Encoding, a step, decoding: 1 + 1 + 4 s each.
    state.submit(jobs(0..3, 1, None)).unwrap();
    assert_eq!(place(&mut state, jobs(3..4, 1, None)), Duration::ZERO, "the first is about to be taken up");
    assert_eq!(place(&mut state, jobs(3..5, 1, None)), TICK * 6, "the second after the first");
    assert_eq!(place(&mut state, jobs(3..9, 1, None)), TICK * 12, "an empty line takes any number");
    let long: Vec<_> = jobs(3..4, 30, None);
    assert_eq!(place(&mut books_with(&[1, 1, 1]), long), TICK * 12, "30 s are not enough for 53");
    // The excess over the 30 s of backlog is done sooner.
    assert_eq!(place(&mut books_with(&[9, 9]), jobs(3..4, 1, None)), TICK * 4);

    let mut state = books(CONFIG, 1);
    state.submit(jobs(0..3, 1, None)).unwrap();
    for _ in 0..2 {
        let encoding = policy::assign(&state, Duration::ZERO);
        state.assigned(&encoding);
        let [(0, crate::turn::Assignment { turn, .. })] = &encoding[..] else { panic!("{encoding:?}") };
        crate::testing::done(&mut state, 0, turn.clone(), &[]);
    }
    state.submit(jobs(3..4, 1, None)).unwrap();
    // One job runs, encoded and with its step done.
    assert_eq!(place(&mut state, jobs(4..5, 1, None)), TICK * 4);
}

/// Books with queued jobs of these step counts.
fn books_with(steps: &[usize]) -> State {
    let mut state = books(CONFIG, 1);
    let jobs = steps.iter().enumerate().map(|(id, &steps)| jobs(id as JobId..id as JobId + 1, steps, None));
    state.submit(jobs.flatten().collect()).unwrap();
    state
}

#[test]
fn a_full_line_has_everything_in_hand_to_do() {
    let mut state = books(CONFIG, 2);
    state.submit(jobs(0..3, 1, None)).unwrap();
    assert_eq!(state.predicted_drain(), TICK * 9, "two workers share it");
    state.submit(jobs(4..5, 90, None)).unwrap_err();
}

#[test]
fn small_pictures_take_as_long_as_their_places_allow() {
    let mut state = books(CONFIG, 1);
    let small = |id| Job::new(id, cost(16, 10), JobOptions::default(), Duration::ZERO);
    state.submit((0..3).map(small).collect()).unwrap();
    // Each takes 1 + 10 + 1 s alone, and two step at a time; full steps would take less.
    assert_eq!(state.predicted_drain(), TICK * 18);
}

#[test]
fn a_deadline_is_kept_by_what_goes_before() {
    let mut state = books(CONFIG, 1);
    state.submit(jobs(0..1, 10, None)).unwrap();
    // 15 s of work go before a longer job, none before a shorter one.
    let late = |deadline| {
        let (predicted, alone) = (TICK * 31, TICK * 16);
        SubmitError::TooLate { predicted, alone, deadline: TICK * deadline }
    };
    let mut roomy = books(SchedulerConfig { max_backlog: None, ..CONFIG }, 1);
    roomy.submit(jobs(0..1, 10, None)).unwrap();
    assert_eq!(roomy.submit(jobs(1..2, 11, Some(30))), Err(late(30)));
    assert_eq!(roomy.submit(jobs(1..2, 11, Some(31))), Ok(()));
    assert_eq!(state.submit(jobs(1..2, 9, Some(14))), Ok(()));
    assert_eq!(roomy.waiting.len(), 2);
}

#[test]
fn a_turn_under_way_is_waited_for() {
    let mut state = books(SchedulerConfig { max_backlog: None, memory_budget: None, ..CONFIG }, 1);
    state.cost.observe_step(640.0, TICK * 10);
    let huge = Job::new(0, cost(640, 10), JobOptions::default(), Duration::ZERO);
    state.submit(vec![huge]).unwrap();
    for _ in 0..2 {
        let turns = policy::assign(&state, Duration::ZERO);
        state.assigned(&turns);
        if matches!(turns[0].1.turn, Some(crate::turn::Turn::Encode(_))) {
            crate::testing::done(&mut state, 0, turns[0].1.turn.clone(), &[]);
        }
    }
    state.advance(TICK * 4);
    // 6 of the 10 s of the large job's step are left, and the small job takes 3 s.
    let small = |deadline: u32| {
        let options = JobOptions { deadline: Some(TICK * deadline), ..JobOptions::default() };
        vec![Job::new(1, cost(16, 1), options, TICK * 4)]
    };
    let late = SubmitError::TooLate { predicted: TICK * 9, alone: TICK * 3, deadline: TICK * 8 };
    assert_eq!(state.submit(small(8)), Err(late));
    state.cancel(0);
    assert_eq!(state.submit(small(3)), Ok(()), "nobody waits for the large one");
}

#[test]
fn a_size_that_was_never_seen_is_refused_only_where_it_is_sure_to_be_late() {
    let huge = |deadline: u32| {
        let options = JobOptions { deadline: Some(TICK * deadline), ..JobOptions::default() };
        // Sixteen times the measured size: a step is expected to take 32 s and takes at least 8 s; 1 s before, 1 s
        // after.
        let mut cost = cost(2048, 10);
        cost.work.decode = 16.0;
        vec![Job::new(1, cost, options, Duration::ZERO)]
    };
    let mut state = books(SchedulerConfig { memory_budget: None, ..CONFIG }, 1);
    let refused = SubmitError::NeverInTime { predicted: TICK * 322, deadline: TICK * 81 };
    assert_eq!(state.submit(huge(81)), Err(refused));
    assert_eq!(state.submit(huge(82)), Ok(()));
    state.ended(1);
    state.cost.observe_step(2048.0, TICK * 32);
    assert!(matches!(state.submit(huge(321)), Err(SubmitError::NeverInTime { .. })), "it was seen");
    assert_eq!(state.submit(huge(322)), Ok(()));
}

#[test]
fn what_turns_out_too_large_for_its_deadline_is_given_up_after_a_step() {
    for (deadline, given_up) in [(160, &[1][..]), (200, &[])] {
        let mut state = books(SchedulerConfig { memory_budget: None, ..CONFIG }, 1);
        let options = JobOptions { deadline: Some(TICK * deadline), ..JobOptions::default() };
        let mut cost = cost(2048, 10);
        cost.work.decode = 16.0;
        state.submit(vec![Job::new(1, cost, options, Duration::ZERO)]).unwrap();
        let mut now = Duration::ZERO;
        // The encoding, and a step that takes the expected 32 s rather than the 8 s of the lower bound.
        for took in [1, 32] {
            let turns = policy::assign(&state, now);
            state.assigned(&turns);
            now += TICK * took;
            assert_eq!(state.expired(now), [] as [u64; 0]);
            crate::testing::done(&mut state, 0, turns[0].1.turn.clone(), &[]);
            state.advance(now);
        }
        // At least half of the remaining 9 steps and 1 s of decoding is certain.
        assert_eq!(state.expired(now), given_up);
        let turns = policy::assign(&state, now);
        state.assigned(&turns);
        assert_eq!(state.expired(now + TICK * 30), given_up, "a step under way is no time lost");
    }
}

#[test]
fn mates_go_before_one_another_too() {
    let mut state = books(SchedulerConfig { max_backlog: None, ..CONFIG }, 1);
    assert!(state.submit(jobs(0..2, 1, Some(11))).is_err(), "the second ends after 12 s");
    assert_eq!(state.submit(jobs(0..2, 1, Some(12))), Ok(()));
}

#[test]
fn the_schedulers_own_deadline_holds_for_all() {
    let mut state = books(SchedulerConfig { max_deadline: Some(TICK * 9), ..CONFIG }, 1);
    let refused = |deadline| SubmitError::NeverInTime { predicted: TICK * 10, deadline: TICK * deadline };
    assert_eq!(state.submit(jobs(0..1, 5, None)), Err(refused(9)));
    assert_eq!(state.submit(jobs(0..1, 5, Some(20))), Err(refused(9)));
    assert_eq!(state.submit(jobs(0..1, 5, Some(8))), Err(refused(8)));
}

#[test]
fn what_is_free_of_a_device_is_a_budget_where_the_operator_gives_none() {
    let unbounded = SchedulerConfig { memory_budget: None, ..CONFIG };
    let job = || {
        let mut jobs = jobs(0..1, 1, None);
        jobs[0].cost.memory = RequestMemory { state: 8, encode: 1, step: 2, decode: 3 };
        jobs
    };
    for (config, free, budget) in [
        (unbounded, [Some(10), Some(9)], Some(10)),
        // A stage may hold a quarter more than its estimate, here 13 in all.
        (unbounded, [Some(10), Some(12)], Some(12)),
        (unbounded, [Some(10), Some(13)], None),
        (unbounded, [Some(10), None], None),
        (SchedulerConfig { memory_budget: Some(11), ..CONFIG }, [Some(10); 2], None),
    ] {
        let mut state = books(config, 2);
        (0..2).for_each(|worker| state.lanes[worker].free = free[worker]);
        let expected = budget.map_or(Ok(()), |budget| Err(SubmitError::TooLarge { bytes: 13, budget }));
        assert_eq!(state.submit(job()), expected, "{free:?}");
    }
    let mut state = books(unbounded, 2);
    (0..2).for_each(|worker| state.lanes[worker].free = Some(10));
    state.lanes[0].free = Some(20);
    state.lanes[0].status = LaneStatus::Lost;
    assert_eq!(state.submit(job()), Err(SubmitError::TooLarge { bytes: 13, budget: 10 }), "that worker is gone");
}

#[test]
fn a_job_over_the_memory_budget_is_never_taken() {
    let mut state = books(CONFIG, 1);
    let mut jobs = jobs(0..2, 1, None);
    jobs[1].cost.memory = RequestMemory { state: 8, encode: 1, step: 2, decode: 3 };
    assert_eq!(state.submit(jobs), Err(SubmitError::TooLarge { bytes: 11, budget: 10 }));
}
