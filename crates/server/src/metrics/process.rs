//! Metrics of the process itself, read on each scrape: memory, CPU time, age.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// Metrics of this process, under the standard names of Prometheus client libraries.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    /// Writes nothing if the system does not report the values.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(pid) = get_current_pid() else { return Ok(()) };
        let mut system = System::new();
        let wanted = ProcessRefreshKind::nothing().with_memory().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, wanted);
        let Some(process) = system.process(pid) else { return Ok(()) };

        let help = "Resident memory size in bytes.";
        let resident =
            encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(process.memory()).encode(resident)?;
        let help = "Total user and system CPU time spent in seconds.";
        let cpu = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(process.accumulated_cpu_time() as f64 / 1e3).encode(cpu)?;
        let help = "Start time of the process since unix epoch in seconds.";
        let start = encoder.encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(process.start_time()).encode(start)
    }
}
