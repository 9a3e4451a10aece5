//! The policy that serves requests in order of arrival, one at a time.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::Contender;
use super::trace::Arrival;
use scheduler::{JobId, Turn, WorkerId};

pub(super) struct Fifo {
    line: VecDeque<(JobId, usize)>,
    /// The next turn of each device for its current request, and the steps left.
    next: Vec<Option<(Turn, usize)>>,
    busy: Vec<bool>,
}

impl Fifo {
    pub(super) fn new(n_devices: usize) -> Self {
        Fifo { line: VecDeque::new(), next: vec![None; n_devices], busy: vec![false; n_devices] }
    }
}

impl Contender for Fifo {
    fn arrive(&mut self, id: usize, arrival: &Arrival, _now: Duration) {
        self.line.push_back((id as JobId, arrival.cost.steps));
    }

    fn assign(&mut self, _now: Duration) -> Vec<(WorkerId, Turn)> {
        let mut turns = Vec::new();
        for (worker, next) in self.next.iter_mut().enumerate().filter(|(worker, _)| !self.busy[*worker]) {
            if next.is_none() {
                *next = self.line.pop_front().map(|(id, steps)| (Turn::Encode(id), steps));
            }
            turns.extend(next.clone().map(|(turn, _)| (worker, turn)));
        }
        turns.iter().for_each(|(worker, _)| self.busy[*worker] = true);
        turns
    }

    fn turned(&mut self, worker: WorkerId, _turn: &Turn, _shares: &[f64], _took: Duration) {
        self.busy[worker] = false;
        let next = self.next[worker].take();
        self.next[worker] = next.and_then(|(turn, steps_left)| match turn {
            Turn::Decode(_) | Turn::Preview(_) => None,
            Turn::Encode(id) => Some((Turn::Step(vec![id]), steps_left)),
            Turn::Step(ids) if steps_left == 1 => Some((Turn::Decode(ids[0]), 0)),
            step => Some((step, steps_left - 1)),
        });
    }
}
