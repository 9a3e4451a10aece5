//! The policy of vllm-omni 0.30's step mode (`diffusion/sched/base_scheduler.py`). Requests of equal shape step
//! together, and join and leave between steps. The queue is served in order, and a head of another shape than the
//! running requests blocks it. Encoding and decoding run between steps.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::Contender;
use super::trace::Arrival;
use scheduler::{JobId, Turn, WorkerId};

#[derive(Clone, Copy)]
struct Request {
    id: JobId,
    /// Numbers of tokens and passes.
    shape: (usize, usize),
    steps_left: usize,
}

pub(super) struct VllmOmni {
    /// Maximum batch size, `max_num_seqs`.
    most: usize,
    line: VecDeque<Request>,
    running: Vec<Vec<Request>>,
    busy: Vec<bool>,
}

impl VllmOmni {
    pub(super) fn new(n_devices: usize, most: usize) -> Self {
        VllmOmni { most, line: VecDeque::new(), running: vec![Vec::new(); n_devices], busy: vec![false; n_devices] }
    }
}

impl Contender for VllmOmni {
    fn arrive(&mut self, id: usize, arrival: &Arrival, _now: Duration) {
        let cost = &arrival.cost;
        let request = Request { id: id as JobId, shape: (cost.tokens, cost.passes), steps_left: cost.steps };
        self.line.push_back(request);
    }

    fn assign(&mut self, _now: Duration) -> Vec<(WorkerId, Turn)> {
        let mut turns = Vec::new();
        for (worker, running) in self.running.iter_mut().enumerate().filter(|(worker, _)| !self.busy[*worker]) {
            turns.extend(next_turn(running, &mut self.line, self.most).map(|turn| (worker, turn)));
        }
        turns.iter().for_each(|(worker, _)| self.busy[*worker] = true);
        turns
    }

    fn turned(&mut self, worker: WorkerId, turn: &Turn, _shares: &[f64], _took: Duration) {
        self.busy[worker] = false;
        match turn {
            Turn::Encode(_) | Turn::Preview(_) => {}
            Turn::Step(_) => self.running[worker].iter_mut().for_each(|request| request.steps_left -= 1),
            Turn::Decode(id) => self.running[worker].retain(|request| request.id != *id),
        }
    }
}

fn next_turn(running: &mut Vec<Request>, line: &mut VecDeque<Request>, most: usize) -> Option<Turn> {
    if let Some(finished) = running.iter().find(|request| request.steps_left == 0) {
        return Some(Turn::Decode(finished.id));
    }
    let fits = |head: &Request| running.first().is_none_or(|first| first.shape == head.shape);
    if running.len() < most && line.front().is_some_and(fits) {
        let head = line.pop_front()?;
        running.push(head);
        return Some(Turn::Encode(head.id));
    }
    (!running.is_empty()).then(|| Turn::Step(running.iter().map(|request| request.id).collect()))
}
