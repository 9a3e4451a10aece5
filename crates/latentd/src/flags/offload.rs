//! `--offload`.

use std::fmt;

use models::Offload;
use omni::OffloadPolicy;

/// What of a model stays in host memory, and is carried to the GPU when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OffloadName {
    /// Nothing: the fastest.
    #[default]
    None,
    /// The text encoder, whose layers are carried to the GPU for each new prompt.
    Encoder,
    /// The text encoder, and those of the transformer's blocks that do not fit beside what requests take, which are carried there
    /// at every step.
    Block,
    /// The first of these with which the model and a picture of its default size fit.
    Auto,
}

impl fmt::Display for OffloadName {
    /// As it is typed.
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
