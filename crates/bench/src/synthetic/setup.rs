//! The settings of a synthetic benchmark.

use std::str::FromStr;
use std::time::Instant;

use candle_core::{DType, Device};
use diffusion::ImageSize;
use latentd::{Error, QuantizationName};
use omni::Dtype;
use serde::Serialize;

use super::model::{Family, Model};
use latentd::ModelFlags;

/// The model to time, and the request.
pub(crate) struct Synthetic {
    pub(crate) model: Model,
    /// The default is all on a GPU and a few on a CPU.
    pub(crate) layers: Option<Layers>,
    pub(crate) size: ImageSize,
    /// Denoising steps, instead of the model's own.
    pub(crate) steps: Option<i64>,
    /// Guidance scale, instead of the model's own.
    pub(crate) true_cfg_scale: Option<f64>,
    /// Tokens of the text stream, instead of [`TEXT_TOKENS`].
    pub(crate) text_tokens: Option<usize>,
    pub(crate) loading: ModelFlags,
}

/// Number of blocks in each list, and of layers in the text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layers {
    All,
    Few(usize),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Layers::All),
            (_, Ok(few @ 1..=8)) => Ok(Layers::Few(few)),
            _ => Err("must be `all`, or from 1 to 8".into()),
        }
    }
}

/// Default number of prompt tokens. FLUX.2-klein pads every prompt to this length. Qwen-Image does not pad; for it this
/// is a very long prompt.
const TEXT_TOKENS: usize = 512;
/// Default number of timed blocks on a CPU.
pub(super) const FEW_LAYERS: usize = 2;

/// The settings that a benchmark reports with its figures.
#[derive(Serialize)]
pub(super) struct Setup {
    /// Instruction set of the CPU's kernels.
    pub(super) instruction_set: &'static str,
    pub(super) device: String,
    pub(super) model: &'static str,
    pub(super) dtype: &'static str,
    /// Precision of the blocks' matrix products.
    pub(super) quantization: Option<&'static str>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) image_tokens: usize,
    pub(super) text_tokens: usize,
    pub(super) steps: usize,
    pub(super) passes_a_step: usize,
}

impl Synthetic {
    pub(super) fn check_text_tokens(&self) -> Result<(), Error> {
        match (self.model.family(), self.text_tokens) {
            (Family::Klein, Some(given)) if given != TEXT_TOKENS => {
                let told =
                    format!("`--text-tokens`: FLUX.2-klein fills every prompt up to {TEXT_TOKENS}. Given: {given}");
                Err(Error::Flag(told))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn text_tokens(&self) -> usize {
        self.text_tokens.unwrap_or(TEXT_TOKENS)
    }

    pub(super) fn steps(&self) -> usize {
        self.steps.map_or(self.model.published().num_inference_steps, |steps| steps.max(1) as usize)
    }

    /// Transformer passes per step: two with true classifier-free guidance, which is Qwen-Image's default.
    pub(super) fn passes_a_step(&self) -> usize {
        match self.model.family() {
            Family::Klein => 1,
            Family::QwenImage => 1 + usize::from(self.true_cfg_scale.is_none_or(|scale| scale > 1.0)),
        }
    }

    /// Dtype of the weights. All published checkpoints are stored in bf16.
    pub(super) fn dtype(&self, device: &Device) -> DType {
        Dtype::resolve(self.loading.dtype.map(Dtype::from), device, DType::BF16, kernels::multiplies_bf16())
    }

    pub(super) fn setup(&self, device: &Device) -> Setup {
        Setup {
            instruction_set: kernels::instruction_set().unwrap_or_default(),
            device: if device.is_cpu() { "cpu".into() } else { self.loading.on.device.to_string() },
            model: self.model.name(),
            dtype: self.dtype(device).as_str(),
            quantization: self.loading.quantization.map(QuantizationName::name),
            height: self.size.height,
            width: self.size.width,
            image_tokens: self.size.image_seq_len(),
            text_tokens: self.text_tokens(),
            steps: self.steps(),
            passes_a_step: self.passes_a_step(),
        }
    }
}

/// Figures that can be printed and serialized.
pub(super) trait Figures: Serialize {
    fn setup(&self) -> &Setup;

    /// The figures as lines, each with a name and a text.
    fn lines(&self) -> Vec<(String, String)>;
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_all_or_a_few() {
        assert_eq!(("all".parse(), "3".parse()), (Ok(Layers::All), Ok(Layers::Few(3))));
        for bad in ["", "0", "9", "-1", "some"] {
            assert_eq!(bad.parse::<Layers>().unwrap_err(), "must be `all`, or from 1 to 8", "{bad}");
        }
    }
}
