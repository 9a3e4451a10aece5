//! The true duration of turns on the simulated device.

use std::time::Duration;

use super::scenario::Device;
use super::trace::Arrival;

/// Computed steps at the beginning of a request with a step cache, and reused steps between two computed ones
/// afterwards.
const WARM_UP: usize = 8;
const REUSED_IN_A_ROW: usize = 2;

/// Time of a step that the plans of all its requests skip.
const SKIPPED: Duration = Duration::from_micros(500);

impl Device {
    pub(super) fn encode_time(&self) -> Duration {
        Duration::from_secs_f64(self.encode)
    }

    /// Time to decode a picture, or a preview, which is decoded in the same way.
    pub(super) fn decode_time(&self, arrival: &Arrival) -> Duration {
        Duration::from_secs_f64(self.decode_per_token * arrival.cost.tokens as f64)
    }

    /// Time of a step of `batch`. Each request comes with the number of steps it has taken.
    pub(super) fn step_time<'a>(&self, batch: impl Iterator<Item = (&'a Arrival, usize)>) -> Duration {
        let load: f64 = batch.map(|(arrival, taken)| load(arrival, taken)).sum();
        if load > 0.0 { Duration::from_secs_f64(self.seconds(load)) } else { SKIPPED }
    }

    /// Time of a request on a device of its own.
    pub(super) fn alone(&self, arrival: &Arrival) -> Duration {
        let steps = (0..arrival.cost.steps).map(|taken| self.step_time([(arrival, taken)].into_iter()));
        let pictures = 1 + arrival.cost.previews_due(arrival.cost.steps);
        self.encode_time() + steps.sum::<Duration>() + self.decode_time(arrival) * pictures as u32
    }

    /// Time of a step with this load: linear between the points of the curve, with the last slope beyond the last
    /// point.
    pub(super) fn seconds(&self, load: f64) -> f64 {
        let after = self.step.partition_point(|point| point.0 <= load).clamp(1, self.step.len() - 1);
        let ((from, from_seconds), (to, to_seconds)) = (self.step[after - 1], self.step[after]);
        from_seconds + (to_seconds - from_seconds) * (load - from) / (to - from)
    }
}

/// The share of the blocks that a request computes in the step after `taken` steps.
pub(super) fn share(arrival: &Arrival, taken: usize) -> f64 {
    let by_rules = || taken >= WARM_UP && (taken - WARM_UP) % (REUSED_IN_A_ROW + 1) != REUSED_IN_A_ROW;
    let reused = arrival.plan.map_or_else(by_rules, |plan| !plan.computes(taken));
    if reused { arrival.cost.least_share } else { 1.0 }
}

fn load(arrival: &Arrival, taken: usize) -> f64 {
    arrival.load * share(arrival, taken)
}
