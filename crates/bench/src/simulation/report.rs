//! The figures of a run.

use std::fmt;

use super::engine::Served;

/// Figures of one run, in seconds unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    /// Mean time from arrival to picture.
    pub(crate) mean: f64,
    /// Median time from arrival to picture.
    pub p50: f64,
    /// 99th percentile of the time from arrival to picture.
    pub p99: f64,
    /// Longest wait of a request, relative to its time on an idle device.
    pub(crate) worst_wait: f64,
    /// Requests per second, from the first arrival to the last picture.
    pub(crate) throughput: f64,
}

pub(super) fn report(served: &[Served]) -> Report {
    let mut latencies: Vec<f64> = served.iter().map(|one| (one.finished - one.arrived).as_secs_f64()).collect();
    latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)];
    let wait = |one: &Served| (one.finished - one.arrived).as_secs_f64() / one.alone.as_secs_f64() - 1.0;
    let end = served.iter().map(|one| one.finished).max().unwrap_or_default();
    Report {
        mean: latencies.iter().sum::<f64>() / latencies.len() as f64,
        p50: quantile(0.5),
        p99: quantile(0.99),
        worst_wait: served.iter().map(wait).fold(0.0, f64::max),
        throughput: served.len() as f64 / end.as_secs_f64(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { mean, p50, p99, worst_wait, throughput } = self;
        write!(f, "{mean:9.2} {p50:9.2} {p99:9.2} {worst_wait:11.2} {throughput:11.3}")
    }
}
