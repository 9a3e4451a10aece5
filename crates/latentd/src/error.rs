//! Errors of the commands.

use bytesize::ByteSize;
use diffusion::{InvalidRequest, PipelineError};
use models::LoadError;
use omni::{DeviceName, Unsupported};

/// Why a command failed. [`Error::exit_code`] separates the user's mistakes from other failures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model was not loaded, or a picture was not generated.
    #[error(transparent)]
    Omni(omni::Error),
    /// A flag that cannot be honoured; the message says which and why.
    #[error("{0}")]
    Flag(String),
    /// A device cannot be used.
    #[error("`--device {device}`: {reason}")]
    Device {
        /// The requested device.
        device: DeviceName,
        /// What the program or the machine lacks.
        reason: gpu::Unavailable,
    },
    /// The weights do not fit on a device.
    #[error("`--device {device}`: {needed}: {advice}")]
    TooSmall {
        /// The requested device.
        device: DeviceName,
        /// Needed and free memory.
        needed: String,
        /// What the user can do.
        advice: String,
    },
    /// Mistakes in a server's configuration, one line each.
    #[error("{}", listed(.0))]
    Settings(Vec<String>),
    /// The server that was probed is not healthy; the message says which and why.
    #[error("{0}")]
    Unhealthy(String),
    /// The server's scheduler has ended.
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
    /// Output to stdout was lost; the operating system's reason.
    #[error("cannot write to stdout: {0}")]
    Output(String),
}

impl Error {
    /// The exit code: 2 for mistakes that the user can fix, like clap's for a bad flag; 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Device { .. }
            | Error::TooSmall { .. }
            | Error::Omni(omni::Error::Load(LoadError::Device { .. }) | omni::Error::Pipeline(_))
            | Error::Unhealthy(_)
            | Error::Output(_)
            | Error::SchedulerEnded => 1,
            _ => 2,
        }
    }
}

/// Converts an error about plans, naming the flag that set them.
pub fn of_plans(flag: &str, err: omni::Error) -> Error {
    match err {
        omni::Error::PlanOfAnotherModel { class } => Error::Flag(format!(
            "`{flag}`: the plan is of another model ({class}): make one with `latentd cache calibrate --model ... -o plan.json`, \
             and name it as `{{\"plan\":\"@plan.json\"}}`"
        )),
        err => err.into(),
    }
}

/// Makes an error about pictures name the flag that gave them.
pub fn with_flags(err: impl Into<Error>) -> Error {
    match err.into() {
        Error::Omni(omni::Error::Invalid(InvalidRequest { field: "image", bound, given })) => {
            InvalidRequest { field: "--image", bound, given }.into()
        }
        Error::Omni(omni::Error::Invalid(InvalidRequest { field: "mask", bound, given })) => {
            InvalidRequest { field: "--mask", bound, given }.into()
        }
        err => err,
    }
}

fn listed(lines: &[String]) -> String {
    match lines {
        [line] => line.clone(),
        lines => format!("{} settings cannot be honoured:\n  {}", lines.len(), lines.join("\n  ")),
    }
}

impl From<omni::Error> for Error {
    /// Makes the library's errors about settings name their flags.
    fn from(err: omni::Error) -> Self {
        match err {
            omni::Error::Unsupported(unsupported) => unsupported.into(),
            omni::Error::Device { device, reason } => Error::Device { device, reason },
            omni::Error::TooSmall { device, needed, free, fitting } => {
                let advice = match fitting {
                    Some((offload, bytes)) => format!("`--offload {}` takes {}", offload.name(), ByteSize::b(bytes)),
                    None => "take a smaller `--dtype`, or a larger GPU".into(),
                };
                Error::TooSmall { device, needed: omni::too_small(needed, free), advice }
            }
            omni::Error::PlanOfAnotherModel { .. } => of_plans("--cache-config", err),
            omni::Error::File { action, path, source } => Error::File { action, path, source },
            err => Error::Omni(err),
        }
    }
}

impl From<Unsupported> for Error {
    fn from(unsupported: Unsupported) -> Self {
        Error::Flag(match unsupported {
            Unsupported::Int8OnGpu => "`--quantization int8` is for a CPU: take it away, or set `--device cpu`".into(),
            Unsupported::Fp8 { needed, given } => format!(
                "`--quantization fp8` needs a GPU of compute capability {}.{} (Ada) or newer, and this one has {}.{}: take it \
                 away",
                needed.0, needed.1, given.0, given.1
            ),
            Unsupported::OffloadOnCpu(offload) => format!(
                "`--offload {offload}` is for a GPU, and this model is on the CPU, in host memory already: take it away, or \
                 set `--device cuda`"
            ),
            Unsupported::Attention(why) => why,
        })
    }
}

impl From<InvalidRequest> for Error {
    fn from(err: InvalidRequest) -> Self {
        omni::Error::from(err).into()
    }
}

impl From<LoadError> for Error {
    fn from(err: LoadError) -> Self {
        omni::Error::from(err).into()
    }
}

impl From<PipelineError> for Error {
    fn from(err: PipelineError) -> Self {
        omni::Error::from(err).into()
    }
}

#[cfg(test)]
mod tests {
    use models::Offload;

    use super::*;

    fn told(err: impl Into<omni::Error>) -> String {
        Error::from(err.into()).to_string()
    }

    #[test]
    fn what_the_library_says_of_a_setting_names_the_flag() {
        let small = |fitting| {
            let (device, gib) = (DeviceName::Cuda(0), 1 << 30);
            told(omni::Error::TooSmall { device, needed: 55 * gib, free: 48 * gib, fitting })
        };
        assert_eq!(
            small(Some((Offload::Encoder, 42 << 30))),
            "`--device cuda:0`: 55.0 GiB of its memory are needed, and 48.0 GiB are free: `--offload encoder` takes \
             42.0 GiB"
        );
        assert!(small(None).ends_with("take a smaller `--dtype`, or a larger GPU"));
        let fp8 = told(Unsupported::Fp8 { needed: (8, 9), given: (8, 0) });
        assert!(fp8.contains("compute capability 8.9 (Ada) or newer, and this one has 8.0"), "{fp8}");
        let other = told(omni::Error::PlanOfAnotherModel { class: "QwenImagePipeline".into() });
        assert!(other.contains("the plan is of another model (QwenImagePipeline): make one with"), "{other}");
    }
}
