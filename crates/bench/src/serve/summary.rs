//! Figures of all requests of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::scrape::Scrape;

/// The outcome of one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    /// Index of the request's kind in the load file.
    pub(super) kind: usize,
    /// Time from its arrival to its answer.
    pub(super) seconds: f64,
    /// Time in the queue, as reported by the server.
    pub(super) queue_seconds: Option<f64>,
    /// Block runs that the step cache computed and reused, if there was one.
    pub(super) computed: usize,
    pub(super) reused: usize,
    /// The error status, or why there is no status; `None` for a picture.
    pub(super) failure: Option<String>,
}

impl Sample {
    /// The sample of a request that made its picture.
    pub(super) fn ok(kind: usize, seconds: f64, queue_ms: Option<f64>, body: Option<Value>) -> Self {
        let runs = |key| {
            let runs = |data: &Value| data["cache"]["runs"].as_array().cloned().unwrap_or_default();
            let data = body.as_ref().and_then(|body| body["data"].as_array()).cloned().unwrap_or_default();
            data.iter().flat_map(runs).filter_map(|run| run[key].as_u64()).sum::<u64>() as usize
        };
        let (computed, reused) = (runs("computed_steps"), runs("reused_steps"));
        Sample { kind, seconds, queue_seconds: queue_ms.map(|ms| ms / 1e3), computed, reused, failure: None }
    }

    /// The sample of a request without a picture.
    pub(super) fn failed(kind: usize, seconds: f64, failure: String) -> Self {
        Sample { kind, seconds, queue_seconds: None, computed: 0, reused: 0, failure: Some(failure) }
    }
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Time from the first request to the last answer.
    pub(super) seconds: f64,
    /// Pictures per second.
    pub(super) throughput: f64,
    pub(super) latency: Option<Spread>,
    pub(super) queue: Option<Spread>,
    /// Mean number of pictures that stepped together, as reported by the server.
    pub(super) mean_batch: Option<f64>,
    /// The share of cacheable block runs that were reused.
    pub(super) reuse: Option<f64>,
    /// Number of failed requests by reason.
    pub(super) failures: BTreeMap<String, usize>,
    /// Latency by the index of the request's kind in the load file.
    pub(super) by_kind: BTreeMap<usize, Spread>,
    pub(super) requests: Vec<Sample>,
}

/// Distribution of times, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(seconds: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted = Vec::from_iter(seconds);
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // The smallest value that `percent` per cent of the values do not exceed.
        let percentile = |percent: usize| sorted[(count * percent).div_ceil(100).max(1) - 1];
        let max = *sorted.last()?;
        let mean = sorted.iter().sum::<f64>() / count as f64;
        Some(Spread { count, mean, p50: percentile(50), p99: percentile(99), max })
    }
}

impl Summary {
    pub(super) fn new(requests: Vec<Sample>, took: Duration, counted: &Scrape) -> Self {
        let pictures = || requests.iter().filter(|sample| sample.failure.is_none());
        let mut failures = BTreeMap::new();
        for failure in requests.iter().filter_map(|sample| sample.failure.clone()) {
            *failures.entry(failure).or_default() += 1;
        }
        let (computed, reused) = pictures().fold((0, 0), |sum, one| (sum.0 + one.computed, sum.1 + one.reused));
        let kinds: std::collections::BTreeSet<usize> = requests.iter().map(|sample| sample.kind).collect();
        let of_kind = |kind| pictures().filter(move |sample| sample.kind == kind).map(|sample| sample.seconds);
        Summary {
            seconds: took.as_secs_f64(),
            throughput: pictures().count() as f64 / took.as_secs_f64(),
            latency: Spread::of(pictures().map(|sample| sample.seconds)),
            queue: Spread::of(pictures().filter_map(|sample| sample.queue_seconds)),
            mean_batch: counted.mean("latentd_batch_size"),
            reuse: (computed + reused > 0).then(|| reused as f64 / (computed + reused) as f64),
            failures,
            by_kind: kinds.into_iter().filter_map(|kind| Some((kind, Spread::of(of_kind(kind))?))).collect(),
            requests,
        }
    }

    /// Number of requests without a picture.
    pub(super) fn failed(&self) -> usize {
        self.failures.values().sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pictures = self.requests.len() - self.failed();
        writeln!(f, "{pictures} pictures in {:.1} s: {:.2} a second", self.seconds, self.throughput)?;
        for (failure, count) in &self.failures {
            writeln!(f, "{count} requests failed: {failure}")?;
        }
        writeln!(f, "{:12} {:>8} {:>8} {:>8} {:>8}   (seconds)", "", "mean", "p50", "p99", "max")?;
        let mut line = |name: &str, spread: &Spread| {
            let Spread { mean, p50, p99, max, .. } = spread;
            writeln!(f, "{name:12} {mean:8.3} {p50:8.3} {p99:8.3} {max:8.3}")
        };
        for (name, spread) in [("latency", &self.latency), ("in line", &self.queue)] {
            spread.iter().try_for_each(|spread| line(name, spread))?;
        }
        if self.by_kind.len() > 1 {
            for (kind, spread) in &self.by_kind {
                line(&format!("request {}", kind + 1), spread)?;
            }
        }
        if let Some(mean) = self.mean_batch {
            writeln!(f, "{mean:.2} pictures stepped together")?;
        }
        if let Some(reuse) = self.reuse {
            writeln!(f, "{:.1} % of the cached blocks' runs were reused", 100.0 * reuse)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread = Spread::of((1..=200).map(f64::from)).unwrap();
        assert_eq!((spread.count, spread.mean, spread.p50, spread.p99, spread.max), (200, 100.5, 100.0, 198.0, 200.0));
        assert_eq!(Spread::of([3.0].into_iter()).unwrap().p99, 3.0);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn failures_are_counted_and_not_averaged() {
        let run = |computed, reused| json!({"computed_steps": computed, "reused_steps": reused});
        let body = json!({"data": [{"cache": {"runs": [run(6, 4), run(9, 1)]}}]});
        let samples = vec![
            Sample::ok(0, 2.0, Some(500.0), Some(body)),
            Sample::ok(1, 4.0, None, Some(json!({"data": [{}]}))),
            Sample::failed(0, 9.0, "429".into()),
        ];
        let counted = Scrape::parse("latentd_batch_size_sum 12\nlatentd_batch_size_count 8\n");
        let summary = Summary::new(samples, Duration::from_secs(4), &counted);
        assert_eq!((summary.throughput, summary.failed(), summary.failures["429"]), (0.5, 1, 1));
        assert_eq!((summary.latency.unwrap().mean, summary.queue.unwrap().mean), (3.0, 0.5));
        assert_eq!((summary.mean_batch, summary.reuse), (Some(1.5), Some(0.25)));
        assert_eq!(summary.by_kind.values().map(|spread| spread.mean).collect::<Vec<_>>(), [2.0, 4.0]);
        let text = summary.to_string();
        for words in ["2 pictures in 4.0 s: 0.50 a second", "1 requests failed: 429", "1.50 pictures", "25.0 %"] {
            assert!(text.contains(words), "no `{words}` in {text}");
        }
    }
}
