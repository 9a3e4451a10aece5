//! A simulator: plays arrival traces against latentd's policy and others, on a device modelled as a curve of step
//! times. It has no clock and no threads, so that every run gives the same result.

mod device;
mod engine;
mod fifo;
mod latentd;
mod report;
mod scenario;
#[cfg(test)]
mod tests;
mod trace;
mod vllm_omni;
mod waves;

use std::fmt;

use engine::Contender;
pub(crate) use report::Report;
pub(crate) use scenario::Scenario;

/// A scheduling policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// latentd's own policy.
    Latentd,
    /// First come, first served, one at a time.
    Fifo,
    /// First come, first served, in waves of up to this many equal requests that begin and end together.
    Waves(usize),
    /// vllm-omni's step mode: up to this many requests of equal shape step together, first come, first served. A
    /// request of another shape at the head of the queue blocks it.
    VllmOmni(usize),
}

/// The policies that latentd's is compared with.
pub(crate) const RIVALS: [Policy; 5] =
    [Policy::Fifo, Policy::Waves(4), Policy::Waves(16), Policy::VllmOmni(4), Policy::VllmOmni(16)];

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Latentd => f.pad("latentd"),
            Policy::Fifo => f.pad("one at a time"),
            Policy::Waves(most) => f.pad(&format!("waves of {most}")),
            Policy::VllmOmni(most) => f.pad(&format!("vllm-omni, {most}")),
        }
    }
}

/// Plays a scenario's trace at `load`, the share of the time for which one request at a time would keep the devices
/// busy.
pub(crate) fn simulate(scenario: &Scenario, policy: Policy, load: f64) -> Report {
    let arrivals = trace::arrivals(scenario, load);
    let n_devices = scenario.devices;
    let mut contender: Box<dyn Contender> = match policy {
        Policy::Latentd => Box::new(latentd::Latentd::new(scenario)),
        Policy::Fifo => Box::new(fifo::Fifo::new(n_devices)),
        Policy::Waves(most) => Box::new(waves::Waves::new(n_devices, most)),
        Policy::VllmOmni(most) => Box::new(vllm_omni::VllmOmni::new(n_devices, most)),
    };
    report::report(&engine::play(scenario, &arrivals, contender.as_mut()))
}
