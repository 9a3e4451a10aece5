//! The weights of a pipeline's components, opened and not loaded yet.

use crate::options::LoadOptions;
use crate::placement::{ModelBytes, Offload};
use crate::residents::Residents;
use crate::weights::Weights;

/// Text encoder, transformer and VAE: what of each is read, in what, and from where it is used.
pub(crate) struct Components {
    pub(crate) text_encoder: Weights,
    pub(crate) transformer: Weights,
    pub(crate) vae: Weights,
}

impl Components {
    /// As the options have it.
    pub(crate) fn with(self, options: &LoadOptions) -> Self {
        let streamed = |from, residents| (options.offload >= from).then_some(residents);
        let transformer = self.transformer.quantized(options.quantization);
        Components {
            text_encoder: self.text_encoder.streamed(streamed(Offload::Encoder, Residents::default())),
            transformer: transformer.streamed(streamed(Offload::Block, options.residents)),
            vae: self.vae,
        }
    }

    /// The bytes of each.
    pub(crate) fn bytes(&self, activations: u64) -> ModelBytes {
        ModelBytes {
            text_encoder: self.text_encoder.bytes(),
            transformer: self.transformer.bytes(),
            vae: self.vae.bytes(),
            activations,
        }
    }
}
