//! The encoders of a Qwen-Image pipeline, for text to image or for editing, chosen by its class.

use std::sync::Arc;

use diffusion::{EditSize, ImageRequest, ImageSize, RgbImage, dimensions, expected_tokens};

use super::card::CONDITION_AREA;
use super::config::VaeConfig;
use super::edit_prompt::{EditPromptEncoder, EditStyle};
use super::prompt::{AFTER_PROMPT, BEFORE_PROMPT, DROPPED_TOKENS, MAX_PROMPT_TOKENS, PromptEncoder, TRAILING_TOKENS};
use super::vae::VaeEncoder;
use crate::checkpoint::Checkpoint;
use crate::cost::{PatchesOf, TextLength, TextTokens};
use crate::error::LoadError;
use crate::facts::Facts;
use crate::options::LoadOptions;
use crate::qwen_decoder::{Decoder, DecoderConfig};
use crate::resize::{Filter, resize};
use crate::scope::Scope;
use crate::tokenizer::Tokenizer;

/// The part of the pipeline before the transformer.
pub enum Conditioner {
    /// Text to image.
    Words(Box<PromptEncoder>),
    /// Editing.
    Pictures(Box<Editing>),
}

/// Encoders of an editing pipeline.
pub struct Editing {
    /// Encoder of prompts with pictures.
    pub prompts: EditPromptEncoder,
    /// Encoder of pixels to latents.
    pub vae_encoder: VaeEncoder,
    /// Approximate number of pixels at which the text encoder sees a picture.
    condition_area: usize,
}

/// Template tokens per picture beside the picture's own: `Picture 1: ` and two marks.
const TOKENS_ABOUT_PICTURE: usize = 8;

impl Editing {
    /// Resizes `picture` to the size at which the text encoder sees it. The processor then cuts it into patches.
    pub fn condition_image(&self, picture: &RgbImage) -> RgbImage {
        resize(picture, condition_size(self.condition_area, picture.size), Filter::Lanczos)
    }

    /// Loads the editing encoders from the text encoder's and the VAE's root.
    pub(super) fn load(
        checkpoint: &Checkpoint,
        text_encoder: &Scope<'_>,
        vae: (&VaeConfig, &Scope<'_>),
        style: EditStyle,
        (options, facts, edit_size): (&LoadOptions, &Facts, EditSize),
    ) -> Result<Self, LoadError> {
        let condition_area = facts.condition_area.unwrap_or(match (style, edit_size) {
            (EditStyle::V1, EditSize::Area { area, .. }) => area,
            _ => CONDITION_AREA,
        });
        let positions = options.overrides.edit_positions;
        Ok(Editing {
            prompts: EditPromptEncoder::load(checkpoint, text_encoder, style, positions)?,
            vae_encoder: VaeEncoder::load(vae.0, vae.1)?,
            condition_area,
        })
    }

    fn text_tokens(&self) -> TextTokens {
        let (processor, area) = (self.prompts.processor.clone(), self.condition_area);
        let merged = processor.merge_size * processor.patch_size;
        Arc::new(move |prompt: &str, request: &ImageRequest| {
            let of_picture = |size: ImageSize| {
                let resized = processor.smart_resize(condition_size(area, size));
                resized.width / merged * (resized.height / merged) + TOKENS_ABOUT_PICTURE
            };
            let pictures: usize = request.input_images.iter().map(|input| of_picture(input.image.size)).sum();
            let TextLength { expected, most } = text_length(prompt);
            TextLength { expected: expected + pictures, most: most + pictures }
        })
    }
}

impl Conditioner {
    /// Loads the language model of a text-to-image pipeline.
    pub(super) fn words(checkpoint: &Checkpoint, text_encoder: &Scope<'_>) -> Result<Self, LoadError> {
        let tokenizer = Tokenizer::load(checkpoint, "tokenizer")?;
        let config = DecoderConfig::load(checkpoint, "text_encoder")?;
        tokenizer.check_ids("tokenizer", config.vocab_size)?;
        tokenizer.check_template("tokenizer", &[BEFORE_PROMPT, AFTER_PROMPT].concat(), DROPPED_TOKENS)?;
        let language_model = Decoder::load(&config, text_encoder, config.num_hidden_layers)?;
        Ok(Conditioner::Words(Box::new(PromptEncoder { tokenizer, language_model })))
    }

    /// Returns the number of patches that the text encoder sees of a picture, if it sees pictures.
    pub(super) fn patches(&self) -> Option<PatchesOf> {
        let Conditioner::Pictures(editing) = self else { return None };
        let (processor, area) = (editing.prompts.processor.clone(), editing.condition_area);
        Some(Arc::new(move |picture: ImageSize| {
            let ImageSize { width, height } = processor.smart_resize(condition_size(area, picture));
            width / processor.patch_size * (height / processor.patch_size)
        }))
    }

    /// Returns a function that counts the text tokens of a request's prompts.
    pub(super) fn text_tokens(&self) -> TextTokens {
        match self {
            Conditioner::Words(_) => Arc::new(|prompt: &str, _: &ImageRequest| text_length(prompt)),
            Conditioner::Pictures(editing) => editing.text_tokens(),
        }
    }
}

fn text_length(prompt: &str) -> TextLength {
    TextLength {
        expected: expected_tokens(prompt) + TRAILING_TOKENS,
        // A token has at least one byte.
        most: prompt.len().min(MAX_PROMPT_TOKENS) + TRAILING_TOKENS,
    }
}

fn condition_size(area: usize, picture: ImageSize) -> ImageSize {
    dimensions(area, picture.width as f64 / picture.height as f64)
}
