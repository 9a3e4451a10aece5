//! `--offload`.

use std::fmt;

use models::Offload;
use omni::OffloadPolicy;

/// Which parts of a model stay in host memory and are copied to the GPU when they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OffloadName {
    /// None. This is the fastest.
    #[default]
    None,
    /// The text encoder. Its layers are copied to the GPU for each new prompt.
    Encoder,
    /// The text encoder, and the transformer blocks that do not fit beside the memory of requests. Those blocks are
    /// copied to the GPU at every step.
    Block,
    /// The first of the above with which the model and a picture of its default size fit.
    Auto,
}

impl fmt::Display for OffloadName {
    /// The name as it is typed on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OffloadName::None => Offload::None.name(),
            OffloadName::Encoder => Offload::Encoder.name(),
            OffloadName::Block => Offload::Block.name(),
            OffloadName::Auto => "auto",
        })
    }
}

impl From<OffloadName> for OffloadPolicy {
    fn from(name: OffloadName) -> Self {
        match name {
            OffloadName::None => OffloadPolicy::None,
            OffloadName::Encoder => OffloadPolicy::Encoder,
            OffloadName::Block => OffloadPolicy::Block,
            OffloadName::Auto => OffloadPolicy::Auto,
        }
    }
}
