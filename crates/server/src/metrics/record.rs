//! Records events in the metrics.

use std::sync::Arc;
use std::time::Duration;

use diffusion::{EncodingsUse, StepReport};
use scheduler::{Generated, JobError, Observation, Observer, SubmitError};

use super::Metrics;
use super::labels::{
    BlockRunLabels, EndpointLabels, LookupLabels, ReasonLabels, RequestLabels, StageLabels, StepLabels, WorkerLabels,
    decision, failure, refusal, step_decision,
};
use crate::audits::{AuditFindings, AuditMeasure};

/// The outcome of a request.
#[derive(Debug)]
pub(crate) struct Answered<'a> {
    /// The route's template.
    pub(crate) endpoint: &'a str,
    /// The first name of the served model.
    pub(crate) model: &'a str,
    /// `ok`, an error's code, or `client_left`.
    pub(crate) outcome: &'static str,
    /// Time from the request's arrival to an answer with pictures.
    pub(crate) pictures_after: Option<Duration>,
    /// Time from the request's arrival to its first preview, if it has one.
    pub(crate) first_partial_after: Option<Duration>,
}

impl Metrics {
    /// Returns an observer that records a scheduler's events.
    pub fn observer(&self) -> Observer {
        let metrics = self.clone();
        Arc::new(move |observation| metrics.observe(observation))
    }

    fn observe(&self, observation: &Observation<'_>) {
        let families = &*self.0;
        match *observation {
            // Counted once they are answered.
            Observation::Submitted { .. } => {}
            Observation::Refused(err) => self.refused(err),
            Observation::Started { queued } => families.queue_duration.observe(queued.as_secs_f64()),
            Observation::Encoded { worker, took, encodings } => {
                self.stage("encode", took);
                self.encodings(worker, encodings);
            }
            Observation::Stepped { batch, took, reports, .. } => self.stepped(batch, took, reports),
            Observation::Previewed { took } => self.stage("preview", took),
            Observation::Decoded { took } => self.stage("decode", took),
            Observation::Answered { outcome: Ok(generated), .. } => self.finished(generated),
            Observation::Answered { outcome: Err(err), .. } => self.failed(err),
            Observation::Cancelled => {
                families.cancelled.inc();
            }
            Observation::Interrupted { after } => families.interrupt_duration.observe(after.as_secs_f64()),
            Observation::Preempted { after } => families.audits.preemption.observe(after.as_secs_f64()),
            Observation::Restarted => {
                families.restarted.inc();
            }
            Observation::Crashed => {
                families.worker_crashes.inc();
            }
            Observation::Load { waiting, running, busy_workers, predicted_drain } => {
                families.busy_workers.set(busy_workers as i64);
                families.waiting.set(waiting as i64);
                families.running.set(running as i64);
                families.predicted_drain.set(predicted_drain.as_secs_f64());
            }
        }
    }

    /// Counts a refused submission. The scheduler's own refusals arrive through the observer.
    pub(crate) fn refused(&self, err: &SubmitError) {
        self.0.rejected.get_or_create(&ReasonLabels { reason: refusal(err) }).inc();
    }

    /// Records the time to write a picture's file.
    pub(crate) fn image_encoded(&self, took: Duration) {
        self.stage("image", took);
    }

    /// Records a request that was answered, or whose client left.
    pub(crate) fn answered(&self, answered: &Answered<'_>) {
        let (endpoint, model) = (answered.endpoint.to_owned(), answered.model.to_owned());
        if let Some(took) = answered.pictures_after {
            let labels = EndpointLabels { endpoint: endpoint.clone(), model: model.clone() };
            self.0.request_duration.get_or_create(&labels).observe(took.as_secs_f64());
        }
        if let Some(took) = answered.first_partial_after {
            self.0.time_to_first_partial.observe(took.as_secs_f64());
        }
        self.0.requests.get_or_create(&RequestLabels { endpoint, model, outcome: answered.outcome }).inc();
    }

    /// Records an audited picture and the present results of its group.
    pub(crate) fn audited(&self, aim: &str, measured: &AuditMeasure, found: &AuditFindings) {
        self.0.audits.audited(aim, measured, found);
    }

    /// Records the total tightening of the plans, in dB.
    pub(crate) fn plans_tightened(&self, by: f64) {
        self.0.audits.tightened(by);
    }

    /// Counts an audit that failed or was dropped.
    pub(crate) fn audit_dropped(&self) {
        self.0.audits.dropped();
    }

    fn stepped(&self, batch: usize, took: Duration, reports: &[StepReport]) {
        let families = &*self.0;
        self.stage("step", took);
        let labels = StepLabels { decision: step_decision(reports) };
        families.step_duration.get_or_create(&labels).observe(took.as_secs_f64());
        families.batch_size.observe(batch as f64);
        for run in reports.iter().flat_map(|report| &report.runs) {
            let (branch, decision) = (run.branch.name(), decision(run.reused));
            let labels = BlockRunLabels { decision, reason: run.reason, branch, segment: run.segment };
            families.block_runs.get_or_create(&labels).inc();
            // One diff that is not finite would make the histogram's sum useless.
            if let Some(diff) = run.residual_diff.filter(|diff| diff.is_finite()) {
                families.residual_diff.observe(f64::from(diff));
            }
        }
    }

    fn encodings(&self, worker: usize, EncodingsUse { prompts, vision, references, bytes, .. }: EncodingsUse) {
        for (kind, lookups) in [("prompt", prompts), ("vision", vision), ("reference", references)] {
            for (result, count) in [("hit", lookups.hits), ("miss", lookups.misses)] {
                self.0.encoding_cache_lookups.get_or_create(&LookupLabels { kind, result }).inc_by(count as u64);
            }
        }
        self.0.encoding_cache_size.get_or_create(&WorkerLabels { worker: worker as u64 }).set(bytes as i64);
    }

    fn finished(&self, generated: &Generated) {
        self.0.images.inc();
        self.0.image_pixels.observe(generated.image.size.pixels() as f64);
        self.0.inference_steps.observe(generated.steps.len() as f64);
    }

    fn failed(&self, err: &JobError) {
        self.0.failed.get_or_create(&ReasonLabels { reason: failure(err) }).inc();
    }

    fn stage(&self, stage: &'static str, took: Duration) {
        self.0.stage_duration.get_or_create(&StageLabels { stage }).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use diffusion::{BlockRun, CfgBranch, Lookups};

    use super::*;
    use crate::metrics::Exposition;

    /// Reports with one conditional run for each letter of `runs`: `C` reused at a diff of 0.04, `1` computed at 0.4,
    /// `N` computed at a NaN diff.
    fn reports(runs: &str) -> Vec<StepReport> {
        let run = |letter| BlockRun {
            branch: CfgBranch::Cond,
            segment: "transformer_blocks",
            reused: letter == 'C',
            reason: if letter == 'C' { "similar" } else { "different" },
            residual_diff: Some(match letter {
                'C' => 0.04,
                '1' => 0.4,
                _ => f32::NAN,
            }),
        };
        let report = |runs| StepReport { step_index: 0, runs, computed_share: 1.0, also_computed: 0 };
        runs.chars().map(|letter| report(vec![run(letter)])).collect()
    }

    /// The samples whose names contain `part` after stepping `batches`, without the buckets.
    fn after_steps(batches: &[&str], part: &str) -> Vec<String> {
        let metrics = Metrics::default();
        for runs in batches {
            let reports = reports(runs);
            let took = Duration::from_millis(500);
            metrics.observe(&Observation::Stepped { batch: reports.len(), tokens: 16, took, reports: &reports });
        }
        let text = metrics.render(Exposition::Prometheus);
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
        let mut samples: Vec<_> = samples.filter(|line| line.contains(part)).map(str::to_owned).collect();
        samples.sort_unstable();
        samples
    }

    #[test]
    fn block_runs_are_counted_by_decision_and_reason() {
        let runs = |decision, reason| {
            let labels = format!("decision=\"{decision}\",reason=\"{reason}\",branch=\"cond\"");
            format!("latentd_cache_block_runs_total{{{labels},segment=\"transformer_blocks\"}}")
        };
        let expected = [format!("{} 2", runs("computed", "different")), format!("{} 3", runs("reused", "similar"))];
        assert_eq!(after_steps(&["1C", "1CC"], "block_runs"), expected);
    }

    #[test]
    fn a_step_is_told_by_what_its_batch_did() {
        let expected = [
            "latentd_step_duration_seconds_count{decision=\"computed\"} 1",
            "latentd_step_duration_seconds_count{decision=\"mixed\"} 2",
            "latentd_step_duration_seconds_count{decision=\"reused\"} 1",
        ];
        assert_eq!(after_steps(&["11", "1C", "C1C", "CC"], "step_duration_seconds_count"), expected);
        assert_eq!(after_steps(&["1", "CC"], "batch_size_sum"), ["latentd_batch_size_sum 3.0"]);
    }

    #[test]
    fn a_diff_that_is_no_number_does_not_spoil_the_sum() {
        let diffs = after_steps(&["1", "N", "1"], "cache_residual_diff");
        assert_eq!(diffs[0], "latentd_cache_residual_diff_count 2");
        assert!(diffs[1].starts_with("latentd_cache_residual_diff_sum 0.8"), "{diffs:?}");
    }

    #[test]
    fn looked_up_encodings_are_counted_and_kept_ones_weighed_by_worker() {
        let metrics = Metrics::default();
        let took = Duration::from_millis(5);
        for (worker, hits, misses, bytes) in [(0, 0, 2, 700), (1, 1, 1, 400), (0, 2, 0, 650)] {
            let prompts = Lookups { hits, misses };
            let references = Lookups { hits: 2 * hits, misses: 0 };
            let encodings = EncodingsUse { prompts, references, bytes, ..EncodingsUse::default() };
            metrics.observe(&Observation::Encoded { worker, took, encodings });
        }
        let text = metrics.render(Exposition::Prometheus);
        for line in [
            "encoding_cache_lookups_total{kind=\"prompt\",result=\"hit\"} 3",
            "encoding_cache_lookups_total{kind=\"prompt\",result=\"miss\"} 3",
            "encoding_cache_lookups_total{kind=\"vision\",result=\"miss\"} 0",
            "encoding_cache_lookups_total{kind=\"reference\",result=\"hit\"} 6",
            "encoding_cache_bytes{worker=\"0\"} 650",
            "encoding_cache_bytes{worker=\"1\"} 400",
            "stage_duration_seconds_count{stage=\"encode\"} 3",
        ] {
            assert!(text.contains(&format!("\nlatentd_{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn what_is_in_hand_is_shown_as_it_is() {
        let metrics = Metrics::default();
        let predicted_drain = Duration::from_millis(2500);
        metrics.observe(&Observation::Load { waiting: 3, running: 2, busy_workers: 1, predicted_drain });
        metrics.observe(&Observation::Load { waiting: 1, running: 2, busy_workers: 1, predicted_drain });
        let text = metrics.render(Exposition::Prometheus);
        for line in ["requests_waiting 1", "requests_running 2", "workers_busy 1", "predicted_drain_seconds 2.5"] {
            assert!(text.contains(&format!("\nlatentd_{line}\n")), "{line} in {text}");
        }
    }
}
