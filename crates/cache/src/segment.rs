//! Segments: the units of caching.

/// A list of blocks that is cached separately, such as `transformer_blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name in the checkpoint.
    pub name: &'static str,
    /// Number of its blocks.
    pub num_blocks: usize,
}
