//! `--vae-tiling`: what it may say and what it means.

use models::VaeTiling;

/// When the VAE works in tiles, which takes a bounded amount of memory and more time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum VaeTilingName {
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

impl VaeTilingName {
    /// What a model is loaded with, on a GPU with so many bytes of memory in all; on a CPU there are none, and `auto`
    /// decodes whole: tiles overlap, so that they are up to 1.8 times the work, and a picture does not depend on how much
    /// memory a machine has.
    pub fn resolve(self, gpu_memory: Option<u64>) -> VaeTiling {
        match (self, gpu_memory) {
            (VaeTilingName::On, _) => VaeTiling::Always,
            (VaeTilingName::Auto, Some(bytes)) => VaeTiling::Above(bytes / SHARE),
            (VaeTilingName::Off, _) | (VaeTilingName::Auto, None) => VaeTiling::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_for_gpus() {
        for (name, on_cpu, on_gpu) in [
            (VaeTilingName::Auto, VaeTiling::Never, VaeTiling::Above(3 << 30)),
            (VaeTilingName::On, VaeTiling::Always, VaeTiling::Always),
            (VaeTilingName::Off, VaeTiling::Never, VaeTiling::Never),
        ] {
            assert_eq!((name.resolve(None), name.resolve(Some(24 << 30))), (on_cpu, on_gpu), "{name:?}");
        }
    }
}
