//! The part that the workspace's programs share: flags and their meaning, errors that name flags, and terminal output.
//! `omni` loads and runs the models.

// These macros panic on a closed pipe. `terminal` does not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod arguments;
mod banner;
mod cache_trace;
mod error;
mod flags;
pub mod logging;
mod output_place;
mod progress;
mod samples;
pub mod terminal;

pub use arguments::{OTHER_NAMES, dashed, trimmed, without_blank};
pub use banner::builtin_banner;
pub use cache_trace::{CachePlotData, PictureTrace, TraceEntry};
pub use error::{Error, of_plans, with_flags};
pub use flags::{
    CacheBackend, CacheFlags, Calibrated, Devices, DtypeName, EditPositionsName, ModelFlags, OffloadName, OneDevice,
    QuantizationName, SamplerName, VaeTilingName,
};
pub use output_place::{check_place, numbered};
pub use progress::LoadingBars;
pub use samples::{Purpose, SampleFlags, Samples};
