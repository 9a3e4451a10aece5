//! The metrics of `GET /metrics`: every metric is named here, once.
//!
//! Names, base units and labels follow Prometheus's rules, by its own Rust library (`prometheus-client`; the older
//! `prometheus` crate is not the project's own and has no OpenMetrics). Labels are bounded: routes instead of paths,
//! the served model's name instead of the requested one, and values that are spelled out in this program.

mod audits;
mod labels;
mod process;
mod record;
mod register;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use record::Answered;

use audits::AuditFamilies;
use labels::{
    BlockRunLabels, EndpointLabels, LookupLabels, ReasonLabels, RequestLabels, StageLabels, StepLabels, WorkerLabels,
};
use process::Process;
use register::{HistogramFamily, family, named, seconds, timed, with_unit};

/// The metrics of a server and its scheduler; a cheap clone.
///
/// The scheduler's metrics arrive through [`Metrics::observer`], the HTTP ones through the
/// [`AppState`](crate::AppState) that was given the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

/// Text formats of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// Prometheus's own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0, which also names the units.
    OpenMetrics,
}

impl Exposition {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => prometheus_text::CONTENT_TYPE,
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

const BATCH_SIZES: [f64; 11] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0];
/// Areas of squares with sides from 128 to 4096.
const PIXELS: [f64; 8] =
    [16_384.0, 65_536.0, 262_144.0, 589_824.0, 1_048_576.0, 2_359_296.0, 4_194_304.0, 16_777_216.0];
const STEPS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 12.0, 20.0, 28.0, 40.0, 50.0, 75.0, 100.0, 1000.0];
/// Buckets are dense in the range of usual thresholds.
const DIFFS: [f64; 14] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.24, 0.3, 0.5, 1.0];

struct Families {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: HistogramFamily<EndpointLabels>,
    time_to_first_partial: Histogram,
    rejected: Family<ReasonLabels, Counter>,
    waiting: Gauge,
    running: Gauge,
    busy_workers: Gauge,
    predicted_drain: Gauge<f64, AtomicU64>,
    queue_duration: Histogram,
    stage_duration: HistogramFamily<StageLabels>,
    step_duration: HistogramFamily<StepLabels>,
    batch_size: Histogram,
    images: Counter,
    image_pixels: Histogram,
    inference_steps: Histogram,
    failed: Family<ReasonLabels, Counter>,
    cancelled: Counter,
    interrupt_duration: Histogram,
    restarted: Counter,
    worker_crashes: Counter,
    block_runs: Family<BlockRunLabels, Counter>,
    residual_diff: Histogram,
    encoding_cache_lookups: Family<LookupLabels, Counter>,
    encoding_cache_size: Family<WorkerLabels, Gauge>,
    audits: AuditFamilies,
}

impl Default for Metrics {
    #[allow(clippy::too_many_lines, reason = "a table: each metric once")]
    fn default() -> Self {
        let mut registry = Registry::default();
        // These names are standard, without the program's prefix.
        registry.register_collector(Box::new(Process));
        let own = registry.sub_registry_with_prefix("latentd");
        own.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Metrics(Arc::new(Families {
            requests: named(own, "requests", "Requests by how they were answered", Family::default()),
            request_duration: timed(
                own,
                "request_duration",
                "From a request's arrival to the answer with its pictures; those without pictures are not counted",
                family(seconds),
            ),
            time_to_first_partial: timed(
                own,
                "time_to_first_partial",
                "From a request's arrival to the first preview in its stream",
                seconds(),
            ),
            rejected: named(own, "rejected", "Refused submissions of pictures", Family::default()),
            waiting: named(own, "requests_waiting", "Queued pictures", Gauge::default()),
            running: named(own, "requests_running", "Pictures that a worker has started", Gauge::default()),
            busy_workers: named(
                own,
                "workers_busy",
                "Workers busy with requested pictures, those with an interrupted turn that has not ended included",
                Gauge::default(),
            ),
            predicted_drain: timed(
                own,
                "predicted_drain",
                "Estimated time until all accepted pictures are done, from observed steps",
                Gauge::default(),
            ),
            queue_duration: timed(own, "queue_duration", "Time of a picture in the queue", seconds()),
            stage_duration: timed(
                own,
                "stage_duration",
                "One turn of a stage: a prompt encoded, a batch stepped, a preview drawn, a picture decoded, its file written",
                family(seconds),
            ),
            step_duration: timed(
                own,
                "step_duration",
                "A denoising step of a batch, by whether its transformer blocks were computed, reused or mixed",
                family(seconds),
            ),
            batch_size: named(own, "batch_size", "Pictures of a denoising step", Histogram::new(BATCH_SIZES)),
            images: named(own, "images", "Finished pictures", Counter::default()),
            image_pixels: with_unit(
                own,
                "image",
                Unit::Other("pixels".into()),
                "Pixels of a finished picture",
                Histogram::new(PIXELS),
            ),
            inference_steps: named(own, "inference_steps", "Steps of a finished picture", Histogram::new(STEPS)),
            failed: named(own, "failed", "Accepted pictures that failed", Family::default()),
            cancelled: named(
                own,
                "cancelled",
                "Cancelled pictures: their client left, or another one of their request failed",
                Counter::default(),
            ),
            interrupt_duration: timed(
                own,
                "interrupt_duration",
                "Time that a worker went on with a turn after all its pictures were cancelled",
                seconds(),
            ),
            restarted: named(
                own,
                "restarted",
                "Pictures made again from their start: their worker failed, or had too little memory",
                Counter::default(),
            ),
            worker_crashes: named(
                own,
                "worker_crashes",
                "Panics, failed trials, failed loads and losses of workers",
                Counter::default(),
            ),
            block_runs: named(
                own,
                "cache_block_runs",
                "Runs of cacheable transformer blocks, one a step, guidance branch and segment of a picture",
                Family::default(),
            ),
            residual_diff: named(
                own,
                "cache_residual_diff",
                "Relative change of the first blocks' residual, where it was measured",
                Histogram::new(DIFFS),
            ),
            encoding_cache_lookups: named(
                own,
                "encoding_cache_lookups",
                "Encodings that pictures needed, of prompts, by the vision tower and by the VAE, by whether they were \
                 kept from an earlier picture",
                Family::default(),
            ),
            encoding_cache_size: with_unit(
                own,
                "encoding_cache",
                Unit::Bytes,
                "Encodings of prompts and pictures that a worker keeps",
                Family::default(),
            ),
            audits: AuditFamilies::new(own),
            registry,
        }))
    }
}

impl Metrics {
    /// Renders the present values of all metrics.
    pub(crate) fn render(&self, exposition: Exposition) -> String {
        let mut out = String::new();
        let written = match exposition {
            Exposition::Prometheus => prometheus_text::encode(&mut out, &self.0.registry),
            Exposition::OpenMetrics => text::encode(&mut out, &self.0.registry),
        };
        written.expect("a string takes everything. This is a bug.");
        out
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names after `# KEYWORD` in `text`.
    fn named_by<'a>(text: &'a str, keyword: &str) -> BTreeSet<&'a str> {
        let prefix = format!("# {keyword} ");
        text.lines().filter_map(|line| line.strip_prefix(&prefix)?.split(' ').next()).collect()
    }

    #[test]
    fn every_metric_has_its_help_type_and_unit() {
        let text = Metrics::default().render(Exposition::OpenMetrics);
        let names = named_by(&text, "TYPE");
        assert_eq!(names, named_by(&text, "HELP"));
        let is_ours = |name: &&str| name.starts_with("latentd_") || name.starts_with("process_");
        assert!(names.iter().all(is_ours), "{names:?}");
        let units = ["_seconds", "_bytes", "_pixels", "_db"];
        let with_unit = names.iter().copied().filter(|name| units.iter().any(|unit| name.ends_with(unit)));
        assert_eq!(named_by(&text, "UNIT"), with_unit.collect());
    }

    #[test]
    fn the_program_and_its_process_are_told() {
        let text = Metrics::default().render(Exposition::Prometheus);
        assert!(text.contains(concat!("\nlatentd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")));
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {text}")).parse::<f64>().unwrap()
        };
        // A test process uses more than a megabyte and started after 2020.
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_start_time_seconds") > 1.577e9);
    }
}
