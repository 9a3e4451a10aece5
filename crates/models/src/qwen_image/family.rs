//! Qwen-Image as a family of the common pipeline.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use diffusion::{
    EditSize, FlowMatchConfig, GuidanceKind, ImageRequest, ImageSize, InputImageBounds, ModelCard, PipelineError,
    RgbImage, ShapeOf, Sigmas,
};

use super::config::{TransformerConfig, VaeConfig, flow_match_config};
use super::prompt::{MAX_PROMPT_TOKENS, MAX_SEQUENCE_LENGTH, PromptEncoder, TRAILING_TOKENS};
use super::transformer::Transformer;
use super::vae::Vae;
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::cost::{RequestSizes, TextLength};
use crate::dit::Dit;
use crate::error::LoadError;
use crate::facts::Facts;
use crate::family::{Family, VisionFeatures};
use crate::load::{LoadOptions, Progress};
use crate::noise::randn;
use crate::pack::{pack, unpack};
use crate::qwen2_5_vl::{LanguageModel, LanguageModelConfig};
use crate::tokenizer::Tokenizer;
use crate::weights::Precision;

/// A loaded Qwen-Image.
pub struct QwenImage {
    prompts: PromptEncoder,
    transformer: Transformer,
    vae: Vae,
    schedule: FlowMatchConfig,
    latent_channels: usize,
    sizes: RequestSizes,
    device: Device,
    card: ModelCard,
}

impl QwenImage {
    /// Loads tokenizer, text encoder, transformer and VAE, in this order.
    ///
    /// # Errors
    /// The first thing that is missing or wrong, by file and name.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<Self, LoadError> {
        let precision = Precision::new(options.dtype, options.device.clone());
        let open = |component: &str| checkpoint.weights(component, precision.clone());
        let tokenizer = Tokenizer::load(checkpoint, "tokenizer")?;
        let schedule = flow_match_config(checkpoint)?;
        let transformer_config = TransformerConfig::load(checkpoint)?;
        let vae_config = VaeConfig::load(checkpoint)?;
        let card = Facts::load(checkpoint)?.applied_to(card(&transformer_config));
        if let Some(cache) = &options.cache {
            cache.validate(&card.num_blocks)?;
        }

        let config = LanguageModelConfig::load(checkpoint, "text_encoder")?;
        let report = |done, total| progress("text encoder", done, total);
        let language_model = LanguageModel::load(&config, &open("text_encoder")?.scope("", &report))?;
        let report = |done, total| progress("transformer", done, total);
        let transformer = Transformer::load(&transformer_config, &open("transformer")?.scope("", &report))?;
        let report = |done, total| progress("vae", done, total);
        let vae = Vae::load(&vae_config, &open("vae")?.scope("", &report))?;
        Ok(QwenImage {
            prompts: PromptEncoder { tokenizer, language_model },
            sizes: sizes(&transformer_config, &transformer, precision.activations.size_in_bytes()),
            transformer,
            vae,
            schedule,
            latent_channels: transformer_config.out_channels,
            device: options.device.clone(),
            card,
        })
    }

    /// The text half.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.prompts
    }

    /// The diffusion transformer.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// The VAE.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }
}

impl Family for QwenImage {
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
        Sigmas::new(&self.schedule, num_inference_steps, image_seq_len)
    }

    fn encode_vision(&self, _picture: &RgbImage) -> Result<VisionFeatures, PipelineError> {
        Err(PipelineError::Model("Qwen-Image sees no pictures. This is a bug.".into()))
    }

    fn encode_prompt(
        &self,
        field: &'static str,
        prompt: &str,
        _pictures: &[VisionFeatures],
    ) -> Result<Tensor, PipelineError> {
        self.prompts.encode(field, prompt)
    }

    fn encode_picture(&self, _picture: &RgbImage) -> Result<Tensor> {
        candle_core::bail!("Qwen-Image edits no pictures. This is a bug.")
    }

    fn noise(&self, seed: u64, size: ImageSize) -> Result<Tensor> {
        let (rows, columns) = size.token_grid();
        let shape = (self.latent_channels, 2 * rows, 2 * columns);
        let noise = randn(seed, self.latent_channels * 4 * rows * columns);
        pack(&Tensor::from_vec(noise, shape, &self.device)?)
    }

    fn unpack(&self, tokens: &Tensor, token_grid: (usize, usize)) -> Result<Tensor> {
        unpack(tokens, token_grid)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.vae.decode(latents)
    }
}

fn sizes(config: &TransformerConfig, transformer: &Transformer, activation_bytes: usize) -> RequestSizes {
    let length = |prompt: &str, _: &ImageRequest| TextLength {
        expected: diffusion::expected_tokens(prompt) + TRAILING_TOKENS,
        // A prompt of so many bytes has at most as many tokens.
        most: prompt.len().min(MAX_PROMPT_TOKENS) + TRAILING_TOKENS,
    };
    RequestSizes {
        segments: transformer.segments().to_vec(),
        dim: config.dim(),
        token_channels: config.in_channels,
        text_width: config.joint_attention_dim,
        max_text_tokens: MAX_SEQUENCE_LENGTH,
        text_tokens: Arc::new(length),
        activation_bytes,
    }
}

/// What the family says of itself where the checkpoint says nothing.
fn card(config: &TransformerConfig) -> ModelCard {
    ModelCard {
        class: "QwenImagePipeline".into(),
        default_size: ImageSize { width: 1024, height: 1024 },
        default_num_inference_steps: 50,
        low_num_inference_steps: 20,
        high_num_inference_steps: 80,
        guidance: GuidanceKind::TrueCfg,
        default_guidance_scale: 4.0,
        default_negative_prompt: None,
        input_images: InputImageBounds::NONE,
        edit_size: EditSize::Area { area: 1024 * 1024, of: ShapeOf::Last },
        max_prompt_tokens: MAX_PROMPT_TOKENS,
        dim: config.dim(),
        num_blocks: vec![config.num_layers],
    }
}
