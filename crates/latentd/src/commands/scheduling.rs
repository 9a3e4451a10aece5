//! The admission flags of a server, and the scheduler configuration that they give.

use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::value_parser;
use latentd::Error;
use scheduler::SchedulerConfig;

use super::memory;

/// Bounds of the work that a server admits.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scheduling")]
pub(super) struct SchedulingFlags {
    /// Maximum pictures that one device holds at a time; which of them step together is decided step by step
    #[arg(long, default_value_t = SchedulerConfig::default().max_batch, value_name = "N", env = "LATENTD_MAX_BATCH")]
    max_batch: usize,
    /// Maximum waiting pictures; more are answered with 429
    #[arg(long, default_value_t = SchedulerConfig::default().max_waiting, value_name = "N", env = "LATENTD_MAX_WAITING")]
    max_waiting: usize,
    /// Maximum seconds of predicted work admitted; beyond them requests are answered with 429
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..), env = "LATENTD_MAX_BACKLOG_SECONDS")]
    max_backlog_seconds: Option<u64>,
    /// Maximum time of a request; one that would take longer is answered with 429
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..), env = "LATENTD_MAX_REQUEST_SECONDS")]
    max_request_seconds: Option<u64>,
    /// Maximum memory of the admitted pictures on one device, e.g. 4GiB. It includes what encoding, a step and decoding
    /// need meanwhile, and the encodings that are kept; weights are extra. The default is half of what is available at
    /// the start on the CPU, and what the model leaves free on a GPU
    #[arg(long, value_name = "BYTES", env = "LATENTD_MEMORY_BUDGET")]
    memory_budget: Option<ByteSize>,
    /// Ignore the `priority` of requests
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LATENTD_NO_PRIORITIES")]
    no_priorities: bool,
}

impl SchedulingFlags {
    /// Whether a request's `priority` counts.
    pub(super) fn priorities(&self) -> bool {
        !self.no_priorities
    }

    /// The scheduler configuration for `workers` workers, which are all on the CPU or all on GPUs.
    ///
    /// # Errors
    /// Every bound under which no request could be admitted.
    pub(super) fn config(&self, workers: usize, on_cpu: bool) -> Result<SchedulerConfig, Vec<Error>> {
        let mut errors = Vec::new();
        if self.max_batch == 0 {
            errors.push(Error::Flag("`--max-batch` must be at least 1. Given: 0".into()));
        }
        if self.memory_budget == Some(ByteSize(0)) {
            errors.push(Error::Flag("`--memory-budget` must be at least 1 byte. Given: 0".into()));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // Workers on the CPU share its memory.
        let half = || memory::available().map(|bytes| bytes / 2 / workers as u64).filter(|_| on_cpu);
        Ok(SchedulerConfig {
            max_batch: self.max_batch,
            max_waiting: self.max_waiting,
            max_backlog: self.max_backlog_seconds.map(Duration::from_secs),
            memory_budget: self.memory_budget.map(|budget| budget.as_u64()).or_else(half),
            max_deadline: self.max_request_seconds.map(Duration::from_secs),
            priorities: self.priorities(),
            shared_processor: on_cpu,
            ..SchedulerConfig::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: SchedulingFlags,
    }

    fn config(arguments: &str, workers: usize, on_cpu: bool) -> Result<SchedulerConfig, String> {
        let line = Line::try_parse_from(["serve"].into_iter().chain(arguments.split_whitespace()));
        let flags = line.map_err(|err| err.to_string())?.flags;
        flags.config(workers, on_cpu).map_err(|errors| errors.iter().map(Error::to_string).collect())
    }

    #[test]
    fn every_bound_is_what_its_flag_says() {
        let arguments = "--max-batch 3 --max-waiting 5 --max-backlog-seconds 60 --max-request-seconds 600 \
            --memory-budget 4GiB --no-priorities";
        let expected = SchedulerConfig {
            max_batch: 3,
            max_waiting: 5,
            max_backlog: Some(Duration::from_secs(60)),
            memory_budget: Some(4 << 30),
            max_deadline: Some(Duration::from_secs(600)),
            priorities: false,
            shared_processor: true,
            ..SchedulerConfig::default()
        };
        assert_eq!(config(arguments, 1, true), Ok(expected));
        assert_eq!(config("", 1, false), Ok(SchedulerConfig::default()));
    }

    #[test]
    fn a_budget_has_units() {
        let budget = |text: &str| config(&format!("--memory-budget {text}"), 1, false).unwrap().memory_budget;
        assert_eq!(budget("1000"), Some(1000));
        assert_eq!(budget("1.5GiB"), Some(3 << 29));
        assert_eq!(budget("500MB"), Some(500_000_000));
    }

    #[test]
    fn bounds_under_which_nothing_could_be_taken_are_refused() {
        for arguments in [
            "--max-batch 0",
            "--max-backlog-seconds 0",
            "--max-request-seconds 0",
            "--memory-budget 0",
            "--memory-budget 0GiB",
            "--memory-budget 4gigs",
        ] {
            let flag = arguments.split(' ').next().unwrap();
            let message = config(arguments, 1, true).unwrap_err();
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn workers_on_the_cpu_share_half_of_its_memory() {
        let budget = |workers| config("", workers, true).unwrap().memory_budget.unwrap();
        // Other programs allocate and free memory between the two calls.
        let share = budget(1) as f64 / budget(4) as f64;
        assert!((3.0..5.0).contains(&share), "{share}");
        let available = memory::available().unwrap() as f64;
        assert!((0.4..0.6).contains(&(budget(1) as f64 / available)));
    }
}
