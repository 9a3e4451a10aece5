//! How long turns really take.

use std::time::Duration;

use super::scenario::Device;
use super::trace::Arrival;

/// Steps at the beginning and between two computed ones, of a request with a step cache.
const WARM_UP: usize = 8;
const REUSED_IN_A_ROW: usize = 2;

/// A step that plans skip.
const SKIPPED: Duration = Duration::from_micros(500);

impl Device {
    pub(super) fn encode_time(&self) -> Duration {
        Duration::from_secs_f64(self.encode)
    }

    /// A picture, or a preview that is drawn like it.
    pub(super) fn decode_time(&self, arrival: &Arrival) -> Duration {
        Duration::from_secs_f64(self.decode_per_token * arrival.cost.tokens as f64)
    }

    /// A step of requests, each with the number of steps behind it.
    pub(super) fn step_time<'a>(&self, batch: impl Iterator<Item = (&'a Arrival, usize)>) -> Duration {
        let load: f64 = batch.map(|(arrival, taken)| load(arrival, taken)).sum();
        if load > 0.0 { Duration::from_secs_f64(self.seconds(load)) } else { SKIPPED }
    }

    /// How long a request takes on a device of its own.
    pub(super) fn alone(&self, arrival: &Arrival) -> Duration {
        let steps = (0..arrival.cost.steps).map(|taken| self.step_time([(arrival, taken)].into_iter()));
        let pictures = 1 + arrival.cost.previews_due(arrival.cost.steps);
        self.encode_time() + steps.sum::<Duration>() + self.decode_time(arrival) * pictures as u32
    }

    /// Beyond the last point the last slope goes on.
    pub(super) fn seconds(&self, load: f64) -> f64 {
        let after = self.step.partition_point(|point| point.0 <= load).clamp(1, self.step.len() - 1);
        let ((from, from_seconds), (to, to_seconds)) = (self.step[after - 1], self.step[after]);
        from_seconds + (to_seconds - from_seconds) * (load - from) / (to - from)
    }
}

/// The share of the blocks that a request computes after `taken` steps.
pub(super) fn share(arrival: &Arrival, taken: usize) -> f64 {
    let by_rules = || taken >= WARM_UP && (taken - WARM_UP) % (REUSED_IN_A_ROW + 1) != REUSED_IN_A_ROW;
    let reused = arrival.plan.map_or_else(by_rules, |plan| !plan.computes(taken));
    if reused { arrival.cost.least_share } else { 1.0 }
}

fn load(arrival: &Arrival, taken: usize) -> f64 {
    arrival.load * share(arrival, taken)
}
