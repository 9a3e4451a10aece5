//! Memory of a request's stored residuals, for admission before the request starts.

use crate::{CacheConfig, Stream};

/// Tokens of a batch row in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentTokens {
    /// Tokens of the hidden stream: those of the image, and in single-stream blocks also of the text.
    pub hidden: usize,
    /// Tokens of the text stream; 0 in single-stream blocks, or if its output is unused.
    pub encoder: usize,
}

impl CacheConfig {
    /// Maximum bytes that the caches of one request hold at a time. For each of its `branches` and each segment these
    /// are the last computed step's first-blocks residual and the stored middle residuals, all `dim` wide, in elements
    /// of `dtype_bytes`.
    pub fn bytes_per_request(
        &self,
        segments: &[SegmentTokens],
        dim: usize,
        dtype_bytes: usize,
        branches: usize,
    ) -> usize {
        // A plan stores no block residuals.
        if self.never_reuses() || self.planned.is_some() {
            return 0;
        }
        let first_blocks_residual = 1;
        let stored_tokens = segments.iter().map(|tokens| {
            tokens.hidden * (first_blocks_residual + self.max_stored_residuals(Stream::Hidden))
                + tokens.encoder * self.max_stored_residuals(Stream::Encoder)
        });
        stored_tokens.sum::<usize>() * dim * dtype_bytes * branches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    const MIB: usize = 1 << 20;
    /// Qwen-Image at 1024x1024, whose last block's text output is unused: 24 MiB per residual in bf16.
    const QWEN_IMAGE: [SegmentTokens; 1] = [SegmentTokens { hidden: 4096, encoder: 0 }];

    #[test]
    fn a_branch_holds_two_residuals_and_one_more_an_order() {
        let bytes = |config: &CacheConfig, branches| config.bytes_per_request(&QWEN_IMAGE, 3072, 2, branches) / MIB;
        let guide = CacheConfig::default();
        assert_eq!((bytes(&guide, 1), bytes(&guide, 2)), (48, 96));
        let taylor = CacheConfig { enable_taylorseer: true, taylorseer_order: 2, ..guide };
        assert_eq!(bytes(&taylor, 2), 96 + 2 * 2 * 24);
        assert_eq!(bytes(&Preset::Lossless.config(), 2), 0);
    }

    #[test]
    fn every_segment_counts() {
        // FLUX.2-dev at 1024x1024 with 512 text tokens: some 220 MB per branch.
        let flux2 = [SegmentTokens { hidden: 4096, encoder: 512 }, SegmentTokens { hidden: 4608, encoder: 0 }];
        let bytes = CacheConfig::default().bytes_per_request(&flux2, 6144, 2, 1);
        assert_eq!(bytes, (2 * 4096 + 512 + 2 * 4608) * 6144 * 2);
        assert_eq!(bytes / 1_000_000, 220);
    }
}
