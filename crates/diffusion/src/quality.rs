//! How much work a picture is worth, in OpenAI's words.

/// Picks the denoising steps of a request that does not name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// A draft.
    Low,
    /// The model's default.
    #[default]
    Medium,
    /// As good as more steps make it.
    High,
}

impl Quality {
    /// OpenAI's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Quality::Low => "low",
            Quality::Medium => "medium",
            Quality::High => "high",
        }
    }
}
