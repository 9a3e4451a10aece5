//! The opened weights of a pipeline's components, before loading.

use crate::options::LoadOptions;
use crate::placement::{ModelBytes, Offload};
use crate::residents::Residents;
use crate::weights::Weights;

/// Weights of text encoder, transformer and VAE, each with its tensors to load, its number formats and its placement.
pub(crate) struct Components {
    pub(crate) text_encoder: Weights,
    pub(crate) transformer: Weights,
    pub(crate) vae: Weights,
}

impl Components {
    /// Applies the options' quantization and offloading.
    pub(crate) fn with(self, options: &LoadOptions) -> Self {
        let streamed = |from, residents| (options.offload >= from).then_some(residents);
        let transformer = self.transformer.quantized(options.quantization);
        Components {
            text_encoder: self.text_encoder.streamed(streamed(Offload::Encoder, Residents::default())),
            transformer: transformer.streamed(streamed(Offload::Block, options.residents)),
            vae: self.vae,
        }
    }

    /// Returns the bytes of each component.
    pub(crate) fn bytes(&self, activations: u64) -> ModelBytes {
        ModelBytes {
            text_encoder: self.text_encoder.bytes(),
            transformer: self.transformer.bytes(),
            vae: self.vae.bytes(),
            activations,
        }
    }
}
