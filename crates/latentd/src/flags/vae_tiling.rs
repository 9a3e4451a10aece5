//! `--vae-tiling`.

use omni::TilingPolicy;

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

impl From<VaeTilingName> for TilingPolicy {
    fn from(name: VaeTilingName) -> Self {
        match name {
            VaeTilingName::Auto => TilingPolicy::Auto,
            VaeTilingName::On => TilingPolicy::On,
            VaeTilingName::Off => TilingPolicy::Off,
        }
    }
}
