//! Quality levels, in OpenAI's terms.

/// Selects the denoising steps of a request that does not name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// A draft.
    Low,
    /// The model's default.
    #[default]
    Medium,
    /// More steps for a better picture.
    High,
}

impl Quality {
    /// OpenAI's name of the level.
    pub fn name(self) -> &'static str {
        match self {
            Quality::Low => "low",
            Quality::Medium => "medium",
            Quality::High => "high",
        }
    }
}
