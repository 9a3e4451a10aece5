//! What can go wrong between a command line and a picture.

use diffusion::{InvalidRequest, PipelineError};
use models::LoadError;

use crate::device_name::DeviceName;

/// Why a command did not do what it was asked. [`Error::exit_code`] says whose fault it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model cannot be had from the Hub.
    #[error("{0}")]
    Hub(String),
    /// A parameter is outside its bound.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// A flag that cannot be honoured; the message says which and why.
    #[error("{0}")]
    Flag(String),
    /// A device cannot be used.
    #[error("`--device {device}`: {reason}")]
    Device {
        /// Which.
        device: DeviceName,
        /// What the program or the machine lacks.
        reason: gpu::Unavailable,
    },
    /// Several things are wrong with how a server was configured, each said by a line of its own.
    #[error("{}", listed(.0))]
    Settings(Vec<String>),
    /// The computation failed.
    #[error(transparent)]
    Pipeline(PipelineError),
    /// A running server that was asked is not well; the message says which and why.
    #[error("{0}")]
    Unhealthy(String),
    /// What makes the pictures of a server is gone.
    #[error("the scheduler has ended, which is a fault of this program: the log has what came before")]
    SchedulerEnded,
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    File {
        /// `read`, `write` or `listen on`.
        action: &'static str,
        /// The file, or the address.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// What was printed did not reach its reader; the operating system's reason.
    #[error("cannot write to stdout: {0}")]
    Output(String),
    /// A picture could not be encoded.
    #[error("cannot write `{path}`: {source}")]
    Encode {
        /// The file.
        path: String,
        /// The image library's reason.
        source: image::ImageError,
    },
}

impl Error {
    /// 2 for what the user can mend, as clap has it for a bad flag; 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Device { .. }
            | Error::Load(LoadError::Device { .. })
            | Error::Pipeline(_)
            | Error::Unhealthy(_)
            | Error::Output(_)
            | Error::SchedulerEnded => 1,
            _ => 2,
        }
    }
}

fn listed(lines: &[String]) -> String {
    match lines {
        [line] => line.clone(),
        lines => format!("{} settings cannot be honoured:\n  {}", lines.len(), lines.join("\n  ")),
    }
}

impl From<PipelineError> for Error {
    fn from(err: PipelineError) -> Self {
        match err {
            PipelineError::Invalid(invalid) => Error::Invalid(invalid),
            other => Error::Pipeline(other),
        }
    }
}
