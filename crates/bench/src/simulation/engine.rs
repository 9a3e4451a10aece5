//! The event loop of the simulation: arrivals, ends of turns, and the policy's next turns.

use std::time::Duration;

use super::device;
use super::scenario::Scenario;
use super::trace::Arrival;
use scheduler::{JobId, Turn, WorkerId};

/// Offset between the id of a request and the id of its audit, which does the request again.
pub(super) const AGAIN: JobId = 1 << 32;

/// A policy under test. A request's id is its index in the trace.
pub(super) trait Contender {
    /// Called when time passes.
    fn advance(&mut self, _now: Duration) {}

    fn arrive(&mut self, id: usize, arrival: &Arrival, now: Duration);

    /// The next turn of each idle device that has work.
    fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)>;

    /// Time of the next call of [`Contender::advance`] if nothing happens before.
    fn alarm(&self, _now: Duration) -> Option<Duration> {
        None
    }

    /// The next audit turns. An idle device does a request again and computes all of it.
    fn assign_idle(&mut self, _now: Duration) -> Vec<(WorkerId, Turn)> {
        Vec::new()
    }

    /// The devices whose audit turn must be interrupted.
    fn preempted(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    /// Called at the end of an audit turn.
    fn idled(&mut self, _worker: WorkerId, _was_interrupted: bool) {}

    /// Called at the end of a turn. `shares` is the computed share of the blocks of each request of a step.
    fn turned(&mut self, worker: WorkerId, turn: &Turn, shares: &[f64], took: Duration);
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    pub(super) arrived: Duration,
    pub(super) finished: Duration,
    /// Time that it would have taken on a device of its own.
    pub(super) alone: Duration,
}

/// A turn in progress.
struct AtWork {
    turn: Turn,
    begun: Duration,
    ends: Duration,
    idle: Option<IdleTurn>,
}

/// The additional state of an audit turn.
#[derive(Clone, Copy, Default)]
struct IdleTurn {
    was_interrupted: bool,
}

/// Number of parts of a turn. A device checks for an interrupt after each part, like a small model after each block.
const PARTS: u32 = 12;

/// Plays a trace. Returns the outcome of each request in the order of the trace.
pub(super) fn play(scenario: &Scenario, arrivals: &[Arrival], contender: &mut dyn Contender) -> Vec<Served> {
    play_by(scenario, arrivals, contender, usize::MAX)
}

/// Plays a trace with a limited number of clients. Each client sends the trace's next request, not before its arrival
/// time, after its previous one was answered.
pub(super) fn play_by(
    scenario: &Scenario,
    arrivals: &[Arrival],
    contender: &mut dyn Contender,
    clients: usize,
) -> Vec<Served> {
    let mut at_work: Vec<Option<AtWork>> = (0..scenario.devices).map(|_| None).collect();
    let mut taken = vec![0; arrivals.len()];
    let mut finished = vec![Duration::ZERO; arrivals.len()];
    let mut arrived = Vec::with_capacity(arrivals.len());
    let mut answered = 0;
    let mut now = Duration::ZERO;
    loop {
        for (worker, turn) in contender.assign(now) {
            let took = duration(scenario, arrivals, &taken, &turn);
            assert!(at_work[worker].is_none(), "two turns at once");
            at_work[worker] = Some(AtWork { turn, begun: now, ends: now + took, idle: None });
        }
        for (worker, turn) in contender.assign_idle(now) {
            let took = uncached_duration(scenario, arrivals, &turn);
            assert!(at_work[worker].is_none(), "two turns at once");
            at_work[worker] = Some(AtWork { turn, begun: now, ends: now + took, idle: Some(IdleTurn::default()) });
        }
        for worker in contender.preempted() {
            at_work[worker].as_mut().expect("it is at work. This is a bug.").interrupt(now);
        }
        let ends = at_work.iter().enumerate().filter_map(|(worker, work)| Some((work.as_ref()?.ends, worker))).min();
        let arrival = arrivals.get(arrived.len()).filter(|_| arrived.len() - answered < clients);
        let next = ends.map(|(ends, _)| ends).into_iter().chain(arrival.map(|arrival| arrival.at.max(now))).min();
        if let Some(alarm) = contender.alarm(now).filter(|alarm| next.is_none_or(|next| *alarm < next)) {
            now = alarm;
            contender.advance(now);
            continue;
        }
        match (ends, arrival) {
            (Some((ends, worker)), arrival) if arrival.is_none_or(|arrival| ends <= arrival.at.max(now)) => {
                now = ends;
                contender.advance(now);
                let AtWork { turn, begun, idle, .. } = at_work[worker].take().expect("found above. This is a bug.");
                if let Some(idle) = idle {
                    contender.idled(worker, idle.was_interrupted);
                    continue;
                }
                answered += usize::from(matches!(turn, Turn::Decode(_)));
                let shares = end(arrivals, &mut taken, &mut finished, &turn, now);
                contender.turned(worker, &turn, &shares, now - begun);
            }
            (_, Some(arrival)) => {
                now = arrival.at.max(now);
                contender.advance(now);
                contender.arrive(arrived.len(), arrival, now);
                arrived.push(now);
            }
            (_, None) => break,
        }
    }
    let served = |(id, arrival): (usize, &Arrival)| {
        assert!(finished[id] > Duration::ZERO, "request {id} was never finished");
        Served { arrived: arrived[id], finished: finished[id], alone: scenario.device.alone(arrival) }
    };
    arrivals.iter().enumerate().map(served).collect()
}

impl AtWork {
    /// Ends an audit turn after the part that is running at `now`.
    fn interrupt(&mut self, now: Duration) {
        let Some(idle) = self.idle.as_mut().filter(|idle| !idle.was_interrupted) else { return };
        idle.was_interrupted = true;
        let part = (self.ends - self.begun) / PARTS;
        let done = (now - self.begun).as_nanos() / part.as_nanos().max(1);
        self.ends = self.ends.min(self.begun + part * (done as u32 + 1));
    }
}

/// Duration of an audit turn.
fn uncached_duration(scenario: &Scenario, arrivals: &[Arrival], turn: &Turn) -> Duration {
    let of = |id: &JobId| &arrivals[(id - AGAIN) as usize];
    match turn {
        Turn::Encode(_) => scenario.device.encode_time(),
        Turn::Step(ids) => Duration::from_secs_f64(scenario.device.seconds(ids.iter().map(|id| of(id).load).sum())),
        Turn::Preview(id) | Turn::Decode(id) => scenario.device.decode_time(of(id)),
    }
}

fn duration(scenario: &Scenario, arrivals: &[Arrival], taken: &[usize], turn: &Turn) -> Duration {
    match turn {
        Turn::Encode(_) => scenario.device.encode_time(),
        Turn::Step(ids) => {
            scenario.device.step_time(ids.iter().map(|&id| (&arrivals[id as usize], taken[id as usize])))
        }
        Turn::Preview(id) | Turn::Decode(id) => scenario.device.decode_time(&arrivals[*id as usize]),
    }
}

/// Records the end of a turn. Returns the share of the blocks that each request of a step computed.
fn end(arrivals: &[Arrival], taken: &mut [usize], finished: &mut [Duration], turn: &Turn, now: Duration) -> Vec<f64> {
    match turn {
        Turn::Encode(_) | Turn::Preview(_) => Vec::new(),
        Turn::Step(ids) => {
            let step = |&id: &u64| {
                let id = id as usize;
                taken[id] += 1;
                assert!(taken[id] <= arrivals[id].cost.steps, "request {id} took a step too many");
                device::share(&arrivals[id], taken[id] - 1)
            };
            ids.iter().map(step).collect()
        }
        Turn::Decode(id) => {
            let id = *id as usize;
            assert_eq!(taken[id], arrivals[id].cost.steps, "request {id} was decoded before its time");
            finished[id] = now;
            Vec::new()
        }
    }
}
