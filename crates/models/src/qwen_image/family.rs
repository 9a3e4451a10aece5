//! Qwen-Image and Qwen-Image-Edit as a [`Family`].

use candle_core::{Device, Tensor, bail};
use diffusion::{FlowMatchConfig, ImageSize, ModelCard, PipelineError, RgbImage, Sigmas};

use super::card::card;
use super::conditioner::{Conditioner, Editing};
use super::config::{TransformerConfig, VaeConfig};
use super::edit_prompt::EditStyle;
use super::flops::flops;
use super::prompt::PromptEncoder;
use super::transformer::Transformer;
use super::vae::{TILING, Vae};
use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::cost::RequestSizes;
use crate::dit::Dit;
use crate::error::LoadError;
use crate::facts::Facts;
use crate::family::{Family, VisionFeatures};
use crate::noise::randn;
use crate::options::{LoadOptions, Progress};
use crate::pack::{pack, unpack};
use crate::peaks::{self, Convolutions, Peaks, Resolution};
use crate::placement::{ModelBytes, activations};
use crate::precision::Precision;
use crate::qwen_decoder::DecoderConfig;
use crate::schedule::flow_match_config;
use crate::vae_half::VaeHalf;

/// A loaded Qwen-Image or Qwen-Image-Edit.
pub struct QwenImage {
    conditioner: Conditioner,
    transformer: Transformer,
    vae: Vae,
    schedule: FlowMatchConfig,
    latent_channels: usize,
    sizes: RequestSizes,
    device: Device,
    card: ModelCard,
}

/// The pipeline classes. Editing ones have the style in which pictures are announced.
pub(super) const CLASSES: [(&str, Option<EditStyle>); 3] = [
    ("QwenImagePipeline", None),
    ("QwenImageEditPipeline", Some(EditStyle::V1)),
    ("QwenImageEditPlusPipeline", Some(EditStyle::Plus)),
];

impl QwenImage {
    /// Returns the bytes of the components without loading them.
    ///
    /// # Errors
    /// A file is missing or damaged, or a configuration is not supported.
    pub(super) fn bytes(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<ModelBytes, LoadError> {
        let precision = Precision::new(options.dtype, options.device.clone());
        let (class, style) = class_and_style(checkpoint)?;
        let config = TransformerConfig::load(checkpoint)?;
        let card = Facts::load(checkpoint)?.applied_to(card(class, style, &config, options.dtype));
        let text = DecoderConfig::load(checkpoint, "text_encoder")?;
        let vae = VaeConfig::load(checkpoint)?;
        let (peaks, activation_bytes) =
            (peaks(&config, &vae, &text, &precision), precision.activations.size_in_bytes());
        let vae = VaeHalf::both(&peaks, activation_bytes, TILING, options.vae_tiling);
        Ok(components(checkpoint, options, style)?.bytes(activations(&card, &peaks, activation_bytes, vae)))
    }

    /// Loads tokenizer, text encoder, transformer and VAE, in this order.
    ///
    /// # Errors
    /// A file or tensor is missing or wrong; the error names the first one found.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<Self, LoadError> {
        let (class, style) = class_and_style(checkpoint)?;
        let schedule = flow_match_config(checkpoint, Sigmas::new)?;
        let config = TransformerConfig::load(checkpoint)?;
        let vae_config = VaeConfig::load(checkpoint)?;
        config.check_neighbours(DecoderConfig::load(checkpoint, "text_encoder")?.hidden_size, &vae_config)?;
        let (facts, card) = (Facts::load(checkpoint)?, card(class, style, &config, options.dtype));
        facts.check_effect(&card, style.is_some())?;
        let facts = options.overrides.over(facts);
        let card = options.overrides.card(&facts, card);
        if let Some(cache) = &options.cache {
            cache.validate(&card.num_blocks)?;
        }

        let Components { text_encoder, transformer: weights, vae } = components(checkpoint, options, style)?;
        let report_vae = |done, total| progress("vae", done, total);
        let vae_scope = vae.scope("", &report_vae);
        let report = |done, total| progress("text encoder", done, total);
        let scope = text_encoder.scope("", &report);
        let conditioner = match style {
            None => Conditioner::words(checkpoint, &scope)?,
            Some(style) => {
                let settings = (options, &facts, card.edit_size);
                let editing = Editing::load(checkpoint, &scope, (&vae_config, &vae_scope), style, settings)?;
                Conditioner::Pictures(Box::new(editing))
            }
        };
        let report = |done, total| progress("transformer", done, total);
        let transformer = Transformer::load(&config, &weights.scope("", &report))?;
        drop(weights);
        let precision = Precision::new(options.dtype, options.device.clone());
        Ok(QwenImage {
            vae: Vae::load(&vae_config, &vae_scope)?,
            sizes: RequestSizes {
                segments: transformer.segments().to_vec(),
                dim: config.dim(),
                token_channels: config.in_channels,
                text_width: config.joint_attention_dim,
                text_tokens: conditioner.text_tokens(),
                patches: conditioner.patches(),
                flops: flops(&config, &vae_config, &conditioner),
                activation_bytes: precision.activations.size_in_bytes(),
                peaks: peaks(&config, &vae_config, &DecoderConfig::load(checkpoint, "text_encoder")?, &precision),
                tiling: TILING,
            },
            conditioner,
            transformer,
            schedule,
            latent_channels: config.out_channels,
            device: options.device.clone(),
            card,
        })
    }

    /// Returns the prompt encoder of a text-to-image pipeline.
    ///
    /// # Errors
    /// The pipeline is an editing one.
    pub fn prompts(&self) -> Result<&PromptEncoder> {
        match &self.conditioner {
            Conditioner::Words(prompts) => Ok(prompts),
            Conditioner::Pictures(_) => bail!("an editing pipeline reads prompts about pictures. This is a bug."),
        }
    }

    /// Returns the encoders of an editing pipeline.
    ///
    /// # Errors
    /// The pipeline is a text-to-image one.
    pub fn editing(&self) -> Result<&Editing> {
        match &self.conditioner {
            Conditioner::Pictures(editing) => Ok(editing),
            Conditioner::Words(_) => bail!("Qwen-Image edits no pictures. This is a bug."),
        }
    }

    /// Returns the diffusion transformer.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// Returns the VAE.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }
}

/// Returns the class that `model_index.json` names, and its edit style.
fn class_and_style(checkpoint: &Checkpoint) -> Result<(String, Option<EditStyle>), LoadError> {
    let class = checkpoint.class()?;
    let style = CLASSES.iter().find(|(name, _)| *name == class).and_then(|(_, style)| *style);
    Ok((class, style))
}

/// Opens the weights that are loaded.
fn components(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    style: Option<EditStyle>,
) -> Result<Components, LoadError> {
    let (precision, edits) = (Precision::new(options.dtype, options.device.clone()), style.is_some());
    let open = |component: &str| checkpoint.weights(component, precision.clone());
    let components = Components {
        text_encoder: open("text_encoder")?.only(|name| is_read_of_text_encoder(name, edits)),
        transformer: open("transformer")?,
        vae: open("vae")?.only(|name| is_read_of_vae(name, edits)),
    };
    Ok(components.with(options))
}

/// Whether a text encoder tensor is loaded: never the output head, and the vision tower only for editing.
fn is_read_of_text_encoder(name: &str, edits: bool) -> bool {
    let sees = name.starts_with("visual.") || name.starts_with("model.visual.");
    !name.starts_with("lm_head.") && (edits || !sees)
}

/// Whether a VAE tensor is loaded: never its temporal convolutions, and the encoder only for editing.
fn is_read_of_vae(name: &str, edits: bool) -> bool {
    let encodes = name.starts_with("encoder.") || name.starts_with("quant_conv.");
    !name.contains(".time_conv.") && (edits || !encodes)
}

/// Peak elements. The feed-forward network holds its inner activations, four times the stream's width.
fn peaks(config: &TransformerConfig, vae: &VaeConfig, text: &DecoderConfig, precision: &Precision) -> Peaks {
    let (dim, convolutions) = (config.dim(), Convolutions::of(precision));
    let widths: Vec<usize> = vae.dim_mult.iter().map(|mult| mult * vae.base_dim).collect();
    // An upsampler halves the channels that it passes to the next resolution.
    let above = |i: usize| widths.get(i + 1).map_or(widths[i], |width| width / 2);
    let below = |i: usize| if i == 0 { vae.base_dim } else { widths[i - 1] };
    let resolutions = |input: &dyn Fn(usize) -> usize| {
        let resolution = |(i, &output)| Resolution { input: input(i), output };
        peaks::vae(&widths.iter().enumerate().map(resolution).collect::<Vec<_>>(), convolutions)
    };
    Peaks {
        text: peaks::text(text),
        block: peaks::block(dim, 4 * dim, config.attention_head_dim),
        vae_encoder: resolutions(&below),
        vae_decoder: resolutions(&above),
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

    fn sees_images(&self) -> bool {
        matches!(self.conditioner, Conditioner::Pictures(_))
    }

    fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        let tokenizer = match &self.conditioner {
            Conditioner::Words(prompts) => &prompts.tokenizer,
            Conditioner::Pictures(editing) => &editing.prompts.tokenizer,
        };
        Ok(tokenizer.encode(prompt)?.len())
    }

    fn encode_vision(&self, picture: &RgbImage) -> Result<VisionFeatures, PipelineError> {
        let editing = self.editing().map_err(crate::device_error)?;
        let (features, grid) = editing.prompts.vision_features(&editing.condition_image(picture))?;
        Ok(VisionFeatures { features, grid })
    }

    fn encode_prompt(
        &self,
        field: &'static str,
        prompt: &str,
        pictures: &[VisionFeatures],
    ) -> Result<Tensor, PipelineError> {
        match &self.conditioner {
            Conditioner::Words(prompts) => prompts.encode(field, prompt),
            Conditioner::Pictures(editing) => {
                let pictures: Vec<_> = pictures.iter().map(|seen| (seen.features.clone(), seen.grid)).collect();
                editing.prompts.encode(field, prompt, &pictures)
            }
        }
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.editing()?.vae_encoder.encode(pixels)
    }

    fn pack(&self, latents: &Tensor) -> Result<Tensor> {
        pack(latents)
    }

    fn noise(&self, seed: u64, size: ImageSize) -> Result<Tensor> {
        let (rows, columns) = size.token_grid();
        let shape = (self.latent_channels, 2 * rows, 2 * columns);
        let noise = randn(seed, self.latent_channels * 4 * rows * columns);
        pack(&Tensor::from_vec(noise, shape, &self.device)?.permute((1, 2, 0))?)
    }

    fn unpack(&self, tokens: &Tensor, token_grid: (usize, usize)) -> Result<Tensor> {
        unpack(tokens, token_grid)
    }

    fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.vae.decode(latents)
    }
}
