//! Helpers that register metrics: names, units, and shared buckets.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// Buckets in seconds, from a cached step of a small model to a queue of many minutes.
const SECONDS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1000.0,
];

pub(super) type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

pub(super) fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

pub(super) fn family<L: Clone + Eq + std::hash::Hash>(make: fn() -> Histogram) -> HistogramFamily<L> {
    Family::new_with_constructor(make)
}

/// Registers `metric` and returns it; the library adds `_total` to a counter's name.
pub(super) fn named<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

pub(super) fn timed<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    with_unit(registry, name, Unit::Seconds, help, metric)
}

/// Registers `metric` with a unit, which the library appends to its name.
pub(super) fn with_unit<M: Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    unit: Unit,
    help: &str,
    metric: M,
) -> M {
    registry.register_with_unit(name, help, unit, metric.clone());
    metric
}
