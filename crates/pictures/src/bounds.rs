//! How large pictures may be.

/// Most pixels of a request's pictures together.
pub const MAX_PIXELS: usize = 64_000_000;
/// The longest side of a picture.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// Most bytes that a decoder may take for itself. The pixels are bounded by the two above.
pub(crate) const MAX_DECODER_BYTES: u64 = 512 << 20;
