//! Limits of picture sizes.

/// Most pixels of all pictures of a request together.
pub const MAX_PIXELS: usize = 64_000_000;
/// Longest side of a picture.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// Most bytes that a decoder may allocate for itself. The pixels are bounded by the two limits above.
pub(crate) const MAX_DECODER_BYTES: u64 = 512 << 20;
