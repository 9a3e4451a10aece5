//! Traces of requests that arrive at random.

use std::time::Duration;

use diffusion::{ImageSize, KnownSteps, RequestCost, RequestMemory, Work};

use super::scenario::{Mix, Scenario};

/// A request and its arrival time.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    /// The cost that the scheduler gets.
    pub(super) cost: RequestCost,
    /// The true load of a step that computes everything, on the device's curve.
    pub(super) load: f64,
    /// The steps that it computes, if it follows a plan. The scheduler may not know them.
    pub(super) plan: Option<KnownSteps>,
}

/// The requests of a scenario. They arrive independently, at a rate for which one request at a time would keep the
/// devices busy for the share `load` of the time.
pub(super) fn arrivals(scenario: &Scenario, load: f64) -> Vec<Arrival> {
    let mut random = SplitMix(scenario.seed);
    let weights: f64 = scenario.mix.iter().map(|mix| mix.weight).sum();
    let alone = |mix: &Mix| scenario.device.alone(&arrival(mix, Duration::ZERO)).as_secs_f64() * mix.weight / weights;
    let mean_gap = scenario.mix.iter().map(alone).sum::<f64>() / load / scenario.devices as f64;

    let mut now = 0.0;
    let one = |_| {
        now -= mean_gap * (1.0 - random.uniform()).ln();
        let mut left = random.uniform() * weights;
        let mix = scenario.mix.iter().find(|mix| {
            left -= mix.weight;
            left < 0.0
        });
        let mix = mix.or(scenario.mix.last()).expect("a scenario has a mix. This is a bug.");
        arrival(mix, Duration::from_secs_f64(now))
    };
    (0..scenario.requests).map(one).collect()
}

fn arrival(mix: &Mix, at: Duration) -> Arrival {
    let tokens = ImageSize { width: mix.side, height: mix.side }.image_seq_len();
    let kind = mix.steps as u64 + u64::from(mix.least_share < 1.0) * 1000;
    let Mix { passes, steps, least_share, .. } = *mix;
    let cost = RequestCost { least_share, kind, ..cost(tokens, passes, steps) };
    let load = cost.work.step;
    // On the simulated device, a reused step has this share of the load.
    let work = Work { reused_step: load * least_share, ..cost.work };
    Arrival { at, cost: RequestCost { work, ..cost }, load, plan: None }
}

/// The cost of a request without a cache, with its work counted in tokens.
pub(super) fn cost(tokens: usize, passes: usize, steps: usize) -> RequestCost {
    let (picture, step) = (tokens as f64, (tokens * passes) as f64);
    let work = Work { encode: 1.0, step, reused_step: step, preview: picture, decode: picture, fit: 0.0 };
    RequestCost {
        tokens,
        passes,
        steps,
        previews: None,
        work,
        memory: RequestMemory::default(),
        least_share: 1.0,
        known: None,
        kind: 0,
    }
}

/// Steele, Lea and Flood's SplitMix64, which gives the same numbers on every machine.
struct SplitMix(u64);

impl SplitMix {
    /// A uniform random number in 0..1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
