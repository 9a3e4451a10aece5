//! `latentd bench --synthetic`: what a real model's step takes on this machine, without its weights.
//!
//! A few blocks of the model's true width, with random weights, are timed; the rest is arithmetic.

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use latentd::{Error, QuantizationName};
use models::{
    Dit, DitRow, FAMILIES, LoadError, Precision, PublishedModel, Weights, block_times, flux2, qwen_image, randn,
};
use serde::Serialize;

use crate::terminal;

/// A published model that can be imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Model {
    #[value(name = "flux2-klein-4b")]
    Klein4B,
    #[value(name = "flux2-klein-9b")]
    Klein9B,
    #[value(name = "qwen-image")]
    QwenImage,
}

/// What is timed.
pub(super) struct Synthetic {
    pub(super) model: Model,
    /// Blocks of each list.
    pub(super) layers: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) dtype: DType,
    pub(super) quantization: Option<QuantizationName>,
}

/// Tokens of a prompt: as many as klein fills every prompt up to. Qwen-Image takes a prompt as long as it is; this is a
/// very long one.
const TEXT_TOKENS: usize = 512;
/// How long passes are repeated.
const AT_LEAST: Duration = Duration::from_secs(5);

/// Milliseconds, measured and reckoned.
#[derive(Serialize)]
struct Figures {
    instruction_set: &'static str,
    model: &'static str,
    dtype: &'static str,
    /// What the products of the blocks are rounded to.
    quantization: Option<&'static str>,
    height: usize,
    width: usize,
    image_tokens: usize,
    text_tokens: usize,
    layers: usize,
    /// Measured: a pass with `layers` blocks of each list, and a block of each list.
    measured: BTreeMap<String, f64>,
    /// Reckoned: a pass with all blocks.
    pass_ms: f64,
    /// Reckoned: the passes of a picture with the model's own number of steps and its guidance, without text encoder
    /// and VAE.
    picture_ms: f64,
    steps: usize,
    passes_a_step: usize,
}

impl Model {
    fn published(self) -> &'static PublishedModel {
        let id = match self {
            Model::Klein4B => "black-forest-labs/FLUX.2-klein-4B",
            Model::Klein9B => "black-forest-labs/FLUX.2-klein-9B",
            Model::QwenImage => "Qwen/Qwen-Image",
        };
        let mut models = FAMILIES.iter().flat_map(|family| family.models);
        models.find(|model| model.id == id).expect("the model is a published one. This is a bug.")
    }

    /// Transformer passes of a step: two with true classifier-free guidance.
    fn passes_a_step(self) -> usize {
        match self {
            Model::Klein4B | Model::Klein9B => 1,
            Model::QwenImage => 2,
        }
    }

    /// The transformer's `config.json`, with fewer blocks.
    fn klein(self, layers: usize) -> flux2::TransformerConfig {
        let (heads, joint_attention_dim) = if self == Model::Klein9B { (32, 12288) } else { (24, 7680) };
        flux2::TransformerConfig {
            num_layers: layers,
            num_single_layers: layers,
            num_attention_heads: heads,
            joint_attention_dim,
            guidance_embeds: false,
            ..flux2::TransformerConfig::default()
        }
    }
}

impl Synthetic {
    pub(super) fn run(&self, json: bool) -> Result<(), Error> {
        terminal::notice("making random weights; timing");
        let figures = self.figures()?;
        if json {
            terminal::line(&serde_json::to_string(&figures).expect("numbers make JSON. This is a bug."));
            return Ok(());
        }
        terminal::notice(&format!(
            "{}, {}x{}: {} image tokens, {} of text; {} weights{}, kernels on the CPU: {}",
            figures.model,
            figures.width,
            figures.height,
            figures.image_tokens,
            figures.text_tokens,
            figures.dtype,
            figures.quantization.map(|name| format!(", {name} products")).unwrap_or_default(),
            figures.instruction_set
        ));
        for (name, count) in self.model.published().segments {
            let time = figures.measured[&format!("{name}_ms")];
            terminal::line(&format!("{name:<26} {time:10.1} ms measured, of {count}"));
        }
        terminal::line(&format!("{:<26} {:10.1} ms by arithmetic", "a pass of all blocks", figures.pass_ms));
        let passes = format!("{} steps of {} pass(es)", figures.steps, figures.passes_a_step);
        terminal::line(&format!(
            "{passes:<26} {:10.1} s by arithmetic, without text encoder and VAE",
            figures.picture_ms / 1e3
        ));
        Ok(())
    }

    fn figures(&self) -> Result<Figures, Error> {
        let quantization = QuantizationName::resolve(self.quantization, &Device::Cpu)?;
        let weights = Weights::random(Precision::new(self.dtype, Device::Cpu)).quantized(quantization);
        let scope = weights.scope("", &|_, _| ());
        let measured = match self.model {
            Model::QwenImage => {
                let config = qwen_image::TransformerConfig { num_layers: self.layers, ..Default::default() };
                self.times(
                    &qwen_image::Transformer::load(&config, &scope)?,
                    config.in_channels,
                    config.joint_attention_dim,
                )
            }
            Model::Klein4B | Model::Klein9B => {
                let config = self.model.klein(self.layers);
                self.times(&flux2::Transformer::load(&config, &scope)?, config.in_channels, config.joint_attention_dim)
            }
        };
        let measured = measured.map_err(|source| LoadError::Device { file: "random weights".into(), source })?;
        let published = self.model.published();
        let pass_ms = whole_pass(&measured, published.segments, self.layers);
        let (steps, passes_a_step) = (published.num_inference_steps, self.model.passes_a_step());
        let (rows, columns) = self.token_grid();
        Ok(Figures {
            instruction_set: kernels::instruction_set().unwrap_or_default(),
            model: published.id,
            dtype: self.dtype.as_str(),
            quantization: self.quantization.map(QuantizationName::name),
            height: self.height,
            width: self.width,
            image_tokens: rows * columns,
            text_tokens: TEXT_TOKENS,
            layers: self.layers,
            pass_ms,
            picture_ms: pass_ms * (steps * passes_a_step) as f64,
            measured,
            steps,
            passes_a_step,
        })
    }

    /// A token is a patch of 2x2 latents of 8x8 pixels.
    fn token_grid(&self) -> (usize, usize) {
        (self.height / 16, self.width / 16)
    }

    fn times<D: Dit + Sync>(
        &self,
        dit: &D,
        channels: usize,
        text_width: usize,
    ) -> candle_core::Result<BTreeMap<String, f64>> {
        let random = |seed, rows: usize, columns: usize| {
            Tensor::from_vec(randn(seed, rows * columns), (rows, columns), &Device::Cpu)
        };
        let token_grid = self.token_grid();
        let latents = random(0, token_grid.0 * token_grid.1, channels)?;
        let prompt_embeds = random(1, TEXT_TOKENS, text_width)?;
        kernels::in_pool(&Device::Cpu, || {
            let row = DitRow {
                latents: &latents,
                token_grid,
                references: &[],
                prompt_embeds: &prompt_embeds,
                sigma: 0.5,
                guidance: None,
            };
            block_times(dit, &row, AT_LEAST)
        })
    }
}

/// A pass of all blocks, from one of `layers` blocks of each list: what it takes beside them stays as it is.
fn whole_pass(measured: &BTreeMap<String, f64>, segments: &[(&str, usize)], layers: usize) -> f64 {
    let more = segments.iter().map(|(name, count)| measured[&format!("{name}_ms")] * (*count as f64 - layers as f64));
    measured["step_ms"] + more.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_that_are_not_run_are_added() {
        let measured = [("step_ms", 100.0), ("dual_ms", 20.0), ("single_ms", 10.0)];
        let measured = measured.map(|(name, time)| (name.to_owned(), time)).into();
        // 40 ms beside two blocks of each.
        assert_eq!(whole_pass(&measured, &[("dual", 5), ("single", 20)], 2), 40.0 + 100.0 + 200.0);
        assert_eq!(whole_pass(&measured, &[("dual", 1), ("single", 2)], 2), 80.0);
    }

    #[test]
    fn every_model_is_a_published_one_of_its_own_shape() {
        for model in [Model::Klein4B, Model::Klein9B, Model::QwenImage] {
            assert!(model.published().segments.iter().all(|(_, count)| *count > 0));
        }
        assert_eq!(Model::Klein9B.klein(2).num_attention_heads, 32);
    }
}
