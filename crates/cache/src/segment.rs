//! What a cache is kept of.

/// A list of blocks that is cached by itself, such as `transformer_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name in the checkpoint.
    pub name: &'static str,
    /// Its blocks.
    pub num_blocks: usize,
}
