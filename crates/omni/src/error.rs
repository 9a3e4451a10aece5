//! Errors of loading a model and of generating pictures.

use bytesize::ByteSize;
use diffusion::{InvalidRequest, PipelineError};
use models::{LoadError, Offload};

use crate::device_name::DeviceName;

/// Why a model was not loaded or a picture not generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model cannot be downloaded from the Hub.
    #[error("{0}")]
    Hub(String),
    /// A parameter is outside its bound.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The device lacks what a setting asks for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A device cannot be used.
    #[error("device {device}: {reason}")]
    Device {
        /// The requested device.
        device: DeviceName,
        /// What the program or the machine lacks.
        reason: gpu::Unavailable,
    },
    /// The weights do not fit on a device.
    #[error("device {device}: {}", too_small(*.needed, *.free))]
    TooSmall {
        /// The requested device.
        device: DeviceName,
        /// Bytes of the weights to be placed on the device.
        needed: u64,
        /// Free bytes on the device.
        free: u64,
        /// The offload with which the model would fit, and its bytes on the device.
        fitting: Option<(Offload, u64)>,
    },
    /// A calibration belongs to another model.
    #[error("the plan is of another model ({class})")]
    PlanOfAnotherModel {
        /// The class of that model's pipeline.
        class: String,
    },
    /// A file is not a valid calibration.
    #[error("`{path}` is no calibration of this program: {why}")]
    Calibration {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The computation failed.
    #[error(transparent)]
    Pipeline(PipelineError),
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A picture could not be encoded.
    #[error("cannot write `{path}`: {source}")]
    Encode {
        /// The file.
        path: String,
        /// The image library's reason.
        source: image::ImageError,
    },
}

/// A setting that a device cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// int8 GEMMs were requested on a GPU.
    #[error("int8 products are for a CPU, and the model is on a GPU")]
    Int8OnGpu,
    /// fp8 GEMMs were requested on a GPU without them.
    #[error(
        "fp8 products need a GPU of compute capability {}.{} (Ada) or newer, and this one has {}.{}",
        needed.0, needed.1, given.0, given.1
    )]
    Fp8 {
        /// The lowest compute capability with fp8 GEMMs.
        needed: (i32, i32),
        /// The GPU's compute capability.
        given: (i32, i32),
    },
    /// Offload to host memory was requested for a model on the CPU, whose weights are there already.
    #[error("offload {0} is for a GPU, and this model is on the CPU, in host memory already")]
    OffloadOnCpu(&'static str),
    /// The environment names an unknown attention kernel.
    #[error("{0}")]
    Attention(String),
}

/// The message of weights that do not fit: `55.0 GiB of its memory are needed, and 48.0 GiB are free`.
pub fn too_small(needed: u64, free: u64) -> String {
    format!("{} of its memory are needed, and {} are free", ByteSize::b(needed), ByteSize::b(free))
}

impl From<PipelineError> for Error {
    fn from(err: PipelineError) -> Self {
        match err {
            PipelineError::Invalid(invalid) => Error::Invalid(invalid),
            other => Error::Pipeline(other),
        }
    }
}
