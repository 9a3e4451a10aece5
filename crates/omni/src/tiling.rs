//! The policy of VAE tiling.

use models::VaeTiling;

/// When the VAE works in tiles. Tiling bounds its memory and takes more time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TilingPolicy {
    /// On a GPU, for pictures whose decoding or encoding as a whole would take more than an eighth of its memory.
    #[default]
    Auto,
    /// For all pictures larger than a tile, like diffusers after `vae.enable_tiling()`.
    On,
    /// Never.
    Off,
}

/// Divisor of a GPU's memory: the VAE may take this share for an untiled picture. The rest is for weights and for other
/// requests.
const SHARE: u64 = 8;

impl TilingPolicy {
    /// The tiling to load a model with. `gpu_memory` is the GPU's total memory in bytes, `None` on a CPU. On a CPU
    /// `auto` does not tile: overlapping tiles are up to 1.8 times the work, and a picture must not depend on the
    /// machine's memory.
    pub fn resolve(self, gpu_memory: Option<u64>) -> VaeTiling {
        match (self, gpu_memory) {
            (TilingPolicy::On, _) => VaeTiling::Always,
            (TilingPolicy::Auto, Some(bytes)) => VaeTiling::Above(bytes / SHARE),
            (TilingPolicy::Off, _) | (TilingPolicy::Auto, None) => VaeTiling::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_for_gpus() {
        for (name, on_cpu, on_gpu) in [
            (TilingPolicy::Auto, VaeTiling::Never, VaeTiling::Above(3 << 30)),
            (TilingPolicy::On, VaeTiling::Always, VaeTiling::Always),
            (TilingPolicy::Off, VaeTiling::Never, VaeTiling::Never),
        ] {
            assert_eq!((name.resolve(None), name.resolve(Some(24 << 30))), (on_cpu, on_gpu), "{name:?}");
        }
    }
}
