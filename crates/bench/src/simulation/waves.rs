//! The policy of static waves: requests of equal shape and steps begin and end together, in order of arrival. This is
//! vllm-omni's default mode with batches of more than one request.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::Contender;
use super::trace::Arrival;
use scheduler::{JobId, Turn, WorkerId};

/// Numbers of tokens, passes and steps.
type Shape = (usize, usize, usize);

pub(super) struct Waves {
    most: usize,
    line: VecDeque<(JobId, Shape)>,
    /// The remaining turns of each device's wave.
    waves: Vec<VecDeque<Turn>>,
    busy: Vec<bool>,
}

impl Waves {
    pub(super) fn new(n_devices: usize, most: usize) -> Self {
        Waves { most, line: VecDeque::new(), waves: vec![VecDeque::new(); n_devices], busy: vec![false; n_devices] }
    }
}

impl Contender for Waves {
    fn arrive(&mut self, id: usize, arrival: &Arrival, _now: Duration) {
        let cost = &arrival.cost;
        self.line.push_back((id as JobId, (cost.tokens, cost.passes, cost.steps)));
    }

    fn assign(&mut self, _now: Duration) -> Vec<(WorkerId, Turn)> {
        let mut turns = Vec::new();
        for (worker, wave) in self.waves.iter_mut().enumerate().filter(|(worker, _)| !self.busy[*worker]) {
            if wave.is_empty() {
                *wave = next_wave(&mut self.line, self.most);
            }
            turns.extend(wave.pop_front().map(|turn| (worker, turn)));
        }
        turns.iter().for_each(|(worker, _)| self.busy[*worker] = true);
        turns
    }

    fn turned(&mut self, worker: WorkerId, _turn: &Turn, _shares: &[f64], _took: Duration) {
        self.busy[worker] = false;
    }
}

/// The turns of the next wave: the head of the queue, and the requests behind it up to the first with another shape.
fn next_wave(line: &mut VecDeque<(JobId, Shape)>, most: usize) -> VecDeque<Turn> {
    let Some(&(_, shape)) = line.front() else { return VecDeque::new() };
    let n_alike = line.iter().take(most).take_while(|(_, other)| *other == shape).count();
    let ids: Vec<_> = line.drain(..n_alike).map(|(id, _)| id).collect();
    let encodings = ids.iter().map(|&id| Turn::Encode(id));
    let steps = std::iter::repeat_n(Turn::Step(ids.clone()), shape.2);
    encodings.chain(steps).chain(ids.iter().map(|&id| Turn::Decode(id))).collect()
}
