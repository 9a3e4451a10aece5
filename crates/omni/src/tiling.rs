//! When the VAE works in tiles.

use models::VaeTiling;

/// When the VAE works in tiles, which takes a bounded amount of memory and more time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TilingPolicy {
    /// On a GPU, where a picture decoded or encoded whole would take more than an eighth of its memory.
    #[default]
    Auto,
    /// All pictures larger than a tile, as diffusers after `vae.enable_tiling()`.
    On,
    /// Never.
    Off,
}

/// The share of a GPU's memory that the VAE may take for a picture as a whole: the rest is for weights, and for what other
/// requests hold meanwhile.
const SHARE: u64 = 8;

impl TilingPolicy {
    /// What a model is loaded with, on a GPU with so many bytes of memory in all; on a CPU there are none, and `auto`
    /// decodes whole: tiles overlap, so that they are up to 1.8 times the work, and a picture does not depend on how much
    /// memory a machine has.
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
