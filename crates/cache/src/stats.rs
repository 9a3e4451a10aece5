//! Statistics of computed and reused steps and their reasons, for responses, logs, metrics and traces.

use crate::{Reason, Segment, StepRecord};

/// The record of a request, with one [`RunStats`] per segment and branch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheStats {
    runs: Vec<RunStats>,
}

/// The record of one branch in one segment.
#[derive(Clone, Debug, PartialEq)]
pub struct RunStats {
    /// The list of blocks.
    pub segment: Segment,
    /// The CFG branch, 0 being the conditional one.
    pub branch: usize,
    /// Blocks that ran in every step.
    always_computed_blocks: usize,
    records: Vec<StepRecord>,
}

/// The minimum, mean and maximum of the measured diffs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiffRange {
    /// The minimum.
    pub min: f32,
    /// The mean.
    pub mean: f32,
    /// The maximum.
    pub max: f32,
}

impl CacheStats {
    /// The runs, ordered by segment, then by branch.
    pub fn runs(&self) -> &[RunStats] {
        &self.runs
    }

    /// Steps in which the middle blocks of at least one segment and branch ran.
    pub fn computed_steps(&self) -> usize {
        let steps = self.runs.iter().map(|run| run.records.len()).max().unwrap_or(0);
        let computed =
            |run: &RunStats, step: usize| run.records.get(step).is_some_and(|record| !record.decision.reused());
        (0..steps).filter(|&step| self.runs.iter().any(|run| computed(run, step))).count()
    }

    /// Steps in which no middle block ran.
    pub fn reused_steps(&self) -> usize {
        self.runs.iter().map(|run| run.records.len()).max().unwrap_or(0) - self.computed_steps()
    }

    /// Ratio of the blocks that would have run without the cache to those that ran. For one segment and branch this is
    /// `N / (c + (N - c) (Fn + Bn) / blocks)` with `c` of `N` steps computed. It is a lower bound on the transformer's
    /// speedup if all blocks cost the same; text encoder and VAE gain nothing.
    pub fn speedup_estimate(&self) -> f64 {
        let (mut all, mut ran) = (0, 0);
        for run in &self.runs {
            all += run.records.len() * run.segment.num_blocks;
            ran += run.computed_steps() * run.segment.num_blocks;
            ran += run.reused_steps() * run.always_computed_blocks.min(run.segment.num_blocks);
        }
        if ran == 0 { 1.0 } else { all as f64 / ran as f64 }
    }

    /// Adds the same record to every run.
    pub(crate) fn record_all(&mut self, record: StepRecord) {
        self.runs.iter_mut().for_each(|run| run.push(record));
    }

    pub(crate) fn record(&mut self, run: usize, record: StepRecord) {
        self.runs[run].push(record);
    }
}

impl FromIterator<RunStats> for CacheStats {
    fn from_iter<I: IntoIterator<Item = RunStats>>(runs: I) -> Self {
        CacheStats { runs: runs.into_iter().collect() }
    }
}

impl RunStats {
    /// Creates an empty record.
    pub fn new(segment: Segment, branch: usize, always_computed_blocks: usize) -> Self {
        RunStats { segment, branch, always_computed_blocks, records: Vec::new() }
    }

    /// Adds the record of the next step.
    pub fn push(&mut self, record: StepRecord) {
        self.records.push(record);
    }

    /// The records of the steps so far.
    pub fn records(&self) -> &[StepRecord] {
        &self.records
    }

    /// Number of steps whose middle blocks ran.
    pub fn computed_steps(&self) -> usize {
        self.records.len() - self.reused_steps()
    }

    /// Number of steps whose middle blocks were forecast.
    pub fn reused_steps(&self) -> usize {
        self.records.iter().filter(|record| record.decision.reused()).count()
    }

    /// Number of steps per reason that occurred, in the order of the rules.
    pub fn by_reason(&self) -> Vec<(Reason, usize)> {
        let count = |reason| self.records.iter().filter(|record| record.decision.reason() == reason).count();
        Reason::NAMED.into_iter().map(|(_, reason)| (reason, count(reason))).filter(|&(_, n)| n > 0).collect()
    }

    /// One character per step: `1` computed, `C` reused (cached).
    pub fn decisions(&self) -> String {
        self.records.iter().map(|record| if record.decision.reused() { 'C' } else { '1' }).collect()
    }

    /// The range of the finite measured diffs, if any.
    pub fn residual_diffs(&self) -> Option<DiffRange> {
        let diffs = self.records.iter().filter_map(|record| record.residual_diff).filter(|diff| diff.is_finite());
        let (mut min, mut sum, mut max, mut count) = (f32::INFINITY, 0.0, f32::NEG_INFINITY, 0);
        for diff in diffs {
            (min, max) = (min.min(diff), max.max(diff));
            sum += f64::from(diff);
            count += 1;
        }
        (count > 0).then(|| DiffRange { min, mean: (sum / f64::from(count)) as f32, max })
    }
}
