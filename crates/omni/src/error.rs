//! What can go wrong between a model's name and a picture.

use bytesize::ByteSize;
use diffusion::{InvalidRequest, PipelineError};
use models::{LoadError, Offload};

use crate::device_name::DeviceName;

/// Why there is no model, or no picture.
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
    /// The device lacks what a setting asks for.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A device cannot be used.
    #[error("device {device}: {reason}")]
    Device {
        /// Which.
        device: DeviceName,
        /// What the program or the machine lacks.
        reason: gpu::Unavailable,
    },
    /// The weights do not fit on a device.
    #[error("device {device}: {}", too_small(*.needed, *.free))]
    TooSmall {
        /// Which.
        device: DeviceName,
        /// Bytes of the weights that are to be there.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// What would fit if more stayed in host memory, and its bytes.
        fitting: Option<(Offload, u64)>,
    },
    /// A calibration was made of another model.
    #[error("the plan is of another model ({class})")]
    PlanOfAnotherModel {
        /// The class of that model's pipeline.
        class: String,
    },
    /// A file is no calibration.
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
    /// Products of 8-bit integers, on a GPU.
    #[error("int8 products are for a CPU, and the model is on a GPU")]
    Int8OnGpu,
    /// Products of 8-bit floats, on a GPU that has none.
    #[error(
        "fp8 products need a GPU of compute capability {}.{} (Ada) or newer, and this one has {}.{}",
        needed.0, needed.1, given.0, given.1
    )]
    Fp8 {
        /// The oldest compute capability that has them.
        needed: (i32, i32),
        /// The GPU's.
        given: (i32, i32),
    },
    /// Weights in host memory, for a model that is there already.
    #[error("offload {0} is for a GPU, and this model is on the CPU, in host memory already")]
    OffloadOnCpu(&'static str),
    /// The environment names an attention that there is not.
    #[error("{0}")]
    Attention(String),
}

/// `55.0 GiB of its memory are needed, and 48.0 GiB are free`
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
