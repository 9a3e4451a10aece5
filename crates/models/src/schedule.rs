//! A checkpoint's schedule.

use diffusion::{FlowMatchConfig, TimeShift};
use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// `scheduler/scheduler_config.json`, the keys that shape the schedule.
#[derive(Deserialize)]
struct SchedulerFile {
    shift: Option<f64>,
    use_dynamic_shifting: Option<bool>,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: Option<usize>,
    max_image_seq_len: Option<usize>,
    time_shift_type: Option<String>,
    shift_terminal: Option<f64>,
}

/// Reads `scheduler/scheduler_config.json`.
///
/// # Errors
/// The file is missing, or asks for what is not built.
pub fn flow_match_config(checkpoint: &Checkpoint) -> Result<FlowMatchConfig, LoadError> {
    let name = "scheduler/scheduler_config.json";
    let file: SchedulerFile = checkpoint.json(name)?;
    let default = FlowMatchConfig::default();
    let time_shift = match file.time_shift_type.as_deref() {
        None | Some("exponential") => TimeShift::Exponential,
        Some("linear") => TimeShift::Linear,
        Some(other) => {
            let bound = "be `exponential` or `linear`".into();
            return Err(LoadError::Config { file: name.into(), key: "time_shift_type", bound, given: other.into() });
        }
    };
    Ok(FlowMatchConfig {
        shift: file.shift.unwrap_or(default.shift),
        use_dynamic_shifting: file.use_dynamic_shifting.unwrap_or(default.use_dynamic_shifting),
        base_shift: file.base_shift.unwrap_or(default.base_shift),
        max_shift: file.max_shift.unwrap_or(default.max_shift),
        base_image_seq_len: file.base_image_seq_len.unwrap_or(default.base_image_seq_len),
        max_image_seq_len: file.max_image_seq_len.unwrap_or(default.max_image_seq_len),
        time_shift,
        shift_terminal: file.shift_terminal,
    })
}
