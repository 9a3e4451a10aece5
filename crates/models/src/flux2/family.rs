//! FLUX.2-klein as a [`Family`].

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use diffusion::{
    EditSize, FlowMatchConfig, GuidanceKind, ImageRequest, ImageSize, InputImageBounds, ModelCard, PipelineError,
    Sampler, Sigmas, empirical_mu, most_pixels,
};
use serde::Deserialize;

use super::config::TransformerConfig;
use super::flops::flops;
use super::prompt::{HIDDEN_STATES, MAX_SEQUENCE_LENGTH, PromptEncoder};
use super::transformer::Transformer;
use super::vae::{Vae, VaeConfig, VaeEncoder};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::cost::{RequestSizes, TextLength};
use crate::dit::Dit;
use crate::error::LoadError;
use crate::facts::Facts;
use crate::family::{Family, VisionFeatures};
use crate::flops::ModelFlops;
use crate::noise::randn;
use crate::options::{LoadOptions, Progress};
use crate::pack::{pack, unpack};
use crate::peaks::{self, Convolutions, Peaks, Resolution};
use crate::placement::{ModelBytes, activations};
use crate::precision::Precision;
use crate::qwen_decoder::DecoderConfig;
use crate::schedule::flow_match_config;
use crate::tiling::Tiling;
use crate::vae_half::VaeHalf;

/// A loaded FLUX.2-klein.
pub struct Flux2Klein {
    prompts: PromptEncoder,
    transformer: Transformer,
    vae: Vae,
    vae_encoder: VaeEncoder,
    schedule: FlowMatchConfig,
    sizes: RequestSizes,
    device: Device,
    card: ModelCard,
}

/// The entry of `model_index.json` that matters beside the class.
#[derive(Deserialize)]
struct ModelIndex {
    /// Whether the checkpoint is distilled to a few steps without guidance.
    #[serde(default)]
    is_distilled: bool,
}

impl Flux2Klein {
    /// Returns the bytes of the components without loading them.
    ///
    /// # Errors
    /// A file is missing or damaged, or a configuration is not supported.
    pub(super) fn bytes(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<ModelBytes, LoadError> {
        let precision = Precision::new(options.dtype, options.device.clone());
        let ModelIndex { is_distilled } = checkpoint.json("model_index.json")?;
        let config = TransformerConfig::load(checkpoint)?;
        let card = Facts::load(checkpoint)?.applied_to(card(checkpoint.class()?, is_distilled, &config, options.dtype));
        let text = DecoderConfig::load(checkpoint, "text_encoder")?;
        let vae = VaeConfig::load(checkpoint)?;
        let (peaks, activation_bytes) =
            (peaks(&config, &vae, &text, &precision), precision.activations.size_in_bytes());
        let vae = VaeHalf::both(&peaks, activation_bytes, vae.tiling(), options.vae_tiling);
        Ok(components(checkpoint, options)?.bytes(activations(&card, &peaks, activation_bytes, vae)))
    }

    /// Loads tokenizer, text encoder, transformer and VAE, in this order.
    ///
    /// # Errors
    /// A file or tensor is missing or wrong; the error names the first one found.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<Self, LoadError> {
        let precision = Precision::new(options.dtype, options.device.clone());
        let ModelIndex { is_distilled } = checkpoint.json("model_index.json")?;
        let schedule = flow_match_config(checkpoint, sigmas)?;
        let config = TransformerConfig::load(checkpoint)?;
        let vae_config = VaeConfig::load(checkpoint)?;
        let hidden_size = DecoderConfig::load(checkpoint, "text_encoder")?.hidden_size;
        config.check_neighbours(HIDDEN_STATES.len() * hidden_size, vae_config.latent_channels)?;

        let max_sequence_length = options.overrides.max_sequence_length.unwrap_or(MAX_SEQUENCE_LENGTH);
        let (facts, card) = (Facts::load(checkpoint)?, card(checkpoint.class()?, is_distilled, &config, options.dtype));
        facts.check_effect(&card, false)?;
        let facts = options.overrides.over(facts);
        let card = options.overrides.card(&facts, card);
        if let Some(cache) = &options.cache {
            cache.validate(&card.num_blocks)?;
        }
        let text = DecoderConfig::load(checkpoint, "text_encoder")?;
        let peaks = peaks(&config, &vae_config, &text, &precision);
        let Components { text_encoder, transformer: weights, vae } = components(checkpoint, options)?;
        let report = |done, total| progress("text encoder", done, total);
        let prompts = PromptEncoder::load(checkpoint, &text_encoder.scope("", &report), max_sequence_length)?;
        drop(text_encoder);
        let report = |done, total| progress("transformer", done, total);
        let transformer = Transformer::load(&config, &weights.scope("", &report))?;
        drop(weights);
        let report = |done, total| progress("vae", done, total);
        let (vae, vae_encoder) = {
            let scope = vae.scope("", &report);
            (Vae::load(&vae_config, &scope)?, VaeEncoder::load(&vae_config, &scope)?)
        };
        Ok(Flux2Klein {
            sizes: sizes(
                &config,
                &transformer,
                (flops(&config, &vae_config, &prompts), peaks, vae_config.tiling()),
                &precision,
                max_sequence_length,
            ),
            card: ModelCard { max_prompt_tokens: prompts.max_prompt_tokens(), ..card },
            prompts,
            transformer,
            vae,
            vae_encoder,
            schedule,
            device: options.device.clone(),
        })
    }

    /// Returns the tokenizer and text encoder.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.prompts
    }

    /// Returns the diffusion transformer.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }
}

impl Family for Flux2Klein {
    type Dit = Transformer;

    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn dit(&self) -> &Transformer {
        &self.transformer
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn sizes(&self) -> RequestSizes {
        self.sizes.clone()
    }

    fn sigmas(&self, num_inference_steps: usize, image_seq_len: usize) -> Sigmas {
        sigmas(&self.schedule, num_inference_steps, image_seq_len)
    }

    fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        self.prompts.prompt_tokens(prompt)
    }

    fn encode_prompt(
        &self,
        field: &'static str,
        prompt: &str,
        _pictures: &[VisionFeatures],
    ) -> Result<Tensor, PipelineError> {
        self.prompts.encode(field, prompt)
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vae_encoder.encode(pixels)
    }

    fn pack(&self, latents: &Tensor) -> Result<Tensor> {
        self.vae.normalize(&pack(latents)?)
    }

    fn noise(&self, seed: u64, size: ImageSize) -> Result<Tensor> {
        let (tokens, channels) = (size.image_seq_len(), self.sizes.token_channels);
        // Diffusers draws packed latents, channel by channel.
        Tensor::from_vec(randn(seed, channels * tokens), (channels, tokens), &self.device)?.t()?.contiguous()
    }

    fn unpack(&self, tokens: &Tensor, token_grid: (usize, usize)) -> Result<Tensor> {
        unpack(&self.vae.denormalize(tokens)?, token_grid)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.vae.decode(latents)
    }
}

fn sigmas(schedule: &FlowMatchConfig, num_inference_steps: usize, image_seq_len: usize) -> Sigmas {
    Sigmas::with_mu(schedule, num_inference_steps, empirical_mu(image_seq_len, num_inference_steps))
}

/// Opens the weights that are loaded.
fn components(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Components, LoadError> {
    let precision = Precision::new(options.dtype, options.device.clone());
    let open = |component: &str| checkpoint.weights(component, precision.clone());
    let components = Components {
        text_encoder: open("text_encoder")?.only(is_read_of_text_encoder),
        transformer: open("transformer")?,
        vae: open("vae")?.only(|name| name != "bn.num_batches_tracked"),
    };
    Ok(components.with(options))
}

/// Whether a text encoder tensor is loaded: layers after the last used hidden state are not.
fn is_read_of_text_encoder(name: &str) -> bool {
    let [.., last] = HIDDEN_STATES;
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    match layer {
        Some(layer) => layer < last,
        None => name == "model.embed_tokens.weight",
    }
}

fn sizes(
    config: &TransformerConfig,
    transformer: &Transformer,
    (flops, peaks, tiling): (ModelFlops, Peaks, Tiling),
    precision: &Precision,
    max_sequence_length: usize,
) -> RequestSizes {
    // Every prompt is padded to this length.
    let length = TextLength { expected: max_sequence_length, most: max_sequence_length };
    RequestSizes {
        segments: transformer.segments().to_vec(),
        dim: config.dim(),
        token_channels: config.in_channels,
        text_width: config.joint_attention_dim,
        text_tokens: Arc::new(move |_: &str, _: &ImageRequest| length),
        patches: None,
        activation_bytes: precision.activations.size_in_bytes(),
        flops,
        peaks,
        tiling,
    }
}

/// Peak elements. The feed-forward network holds gate and up in one tensor, and their product. A single-stream block
/// holds its queries, keys and values at the same time.
fn peaks(config: &TransformerConfig, vae_config: &VaeConfig, text: &DecoderConfig, precision: &Precision) -> Peaks {
    let (dim, convolutions) = (config.dim(), Convolutions::of(precision));
    let feed_forward = 3 * config.mlp_hidden_dim() + if config.num_single_layers > 0 { 3 * dim } else { 0 };
    let vae = |widths: &[usize], input: &dyn Fn(usize) -> usize| {
        let resolution = |(i, &output)| Resolution { input: input(i), output };
        peaks::vae(&widths.iter().enumerate().map(resolution).collect::<Vec<_>>(), convolutions)
    };
    let (up, down) = (vae_config.decoder_widths(), &vae_config.block_out_channels);
    Peaks {
        text: peaks::text(text),
        block: peaks::block(dim, feed_forward, config.attention_head_dim),
        vae_encoder: vae(down, &|i| down[i.saturating_sub(1)]),
        vae_decoder: vae(up, &|i| *up.get(i + 1).unwrap_or(&up[i])),
    }
}

/// The size that the models were trained for.
const NATIVE_SIZE: ImageSize = ImageSize { width: 1024, height: 1024 };

/// Returns the family's card, whose values hold unless the checkpoint overrides them. The picture bounds are those of
/// `Flux2ImageProcessor.check_image_input`; the model was trained with up to four pictures.
fn card(class: String, is_distilled: bool, config: &TransformerConfig, dtype: DType) -> ModelCard {
    let (low, steps, high) = if is_distilled { (4, 4, 8) } else { (20, 50, 80) };
    ModelCard {
        class,
        dtype: dtype.as_str(),
        default_size: NATIVE_SIZE,
        native_sizes: Vec::new(),
        knows: Vec::new(),
        max_pixels: most_pixels(NATIVE_SIZE),
        default_num_inference_steps: steps,
        low_num_inference_steps: low,
        high_num_inference_steps: high,
        default_sampler: Sampler::default(),
        guidance: match (config.guidance_embeds, is_distilled) {
            (true, _) => GuidanceKind::Embedded,
            (false, true) => GuidanceKind::None,
            (false, false) => GuidanceKind::Cfg,
        },
        default_guidance_scale: if is_distilled { 1.0 } else { 4.0 },
        default_negative_prompt: Some(String::new()),
        input_images: InputImageBounds { min_images: 0, max_images: 4, min_side: 64, max_ratio: 8.0 },
        edit_size: EditSize::Own { max_area: 1024 * 1024 },
        max_prompt_tokens: MAX_SEQUENCE_LENGTH,
        dim: config.dim(),
        num_blocks: vec![config.num_layers, config.num_single_layers],
    }
}

#[cfg(test)]
mod tests {
    use super::super::published::MODELS;
    use super::*;
    use crate::model_family::assert_as_published;

    #[test]
    fn cards_are_as_published() {
        for model in MODELS {
            let [(_, num_layers), (_, num_single_layers)] = model.segments else { panic!("{}", model.id) };
            let (num_layers, num_single_layers) = (*num_layers, *num_single_layers);
            let config = TransformerConfig {
                num_layers,
                num_single_layers,
                guidance_embeds: false,
                ..TransformerConfig::default()
            };
            let is_distilled = !model.id.contains("-base-");
            assert_as_published(&card(model.class.into(), is_distilled, &config, DType::BF16), model);
        }
    }
}
