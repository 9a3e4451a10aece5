//! `--vae-tiling`.

use omni::TilingPolicy;

/// When the VAE works in tiles. Tiling bounds its memory and takes more time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum VaeTilingName {
    /// On a GPU, for pictures whose decoding or encoding as a whole would take more than an eighth of its memory.
    #[default]
    Auto,
    /// For all pictures larger than a tile, like diffusers after `vae.enable_tiling()`.
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
