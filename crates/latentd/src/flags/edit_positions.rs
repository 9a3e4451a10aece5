//! `--qwen-edit-positions`.

use models::EditPositions;

/// How the text encoder of Qwen-Image-Edit numbers the positions of a picture's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EditPositionsName {
    /// By row and column, as the model was trained.
    #[default]
    #[value(name = "3d")]
    MRope3d,
    /// One after another, as diffusers up to 0.42 does.
    #[value(name = "1d")]
    Sequential1d,
}

impl From<EditPositionsName> for EditPositions {
    fn from(name: EditPositionsName) -> Self {
        match name {
            EditPositionsName::MRope3d => EditPositions::MRope3d,
            EditPositionsName::Sequential1d => EditPositions::Sequential1d,
        }
    }
}
