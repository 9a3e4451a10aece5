//! Encodes a prompt with its pictures, in the chat template of the editing pipelines.
//!
//! Ports of `_get_qwen_prompt_embeds` of `QwenImageEditPipeline` and `QwenImageEditPlusPipeline`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage_edit.py>,
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage_edit_plus.py>

use candle_core::Tensor;
use diffusion::{InvalidRequest, PipelineError, RgbImage};

use super::prompt::MAX_PROMPT_TOKENS;
use super::prompt::short_template;
use crate::checkpoint::Checkpoint;
use crate::device_error;
use crate::error::LoadError;
use crate::options::EditPositions;
use crate::qwen_decoder::{Decoder, DecoderConfig, Positions};
use crate::qwen2_5_vl::{Grid, ImageProcessor, VisionConfig, VisionTower};
use crate::scope::Scope;
use crate::tokenizer::Tokenizer;

const BEFORE_PROMPT: &str = "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), then explain how the user's text instruction should alter or modify the image. Generate a new image that meets the user's requirements while maintaining consistency with the original input where appropriate.<|im_end|>\n<|im_start|>user\n";
const AFTER_PROMPT: &str = "<|im_end|>\n<|im_start|>assistant\n";
const PICTURE: &str = "<|vision_start|><|image_pad|><|vision_end|>";
/// Placeholder for one token of a picture.
const IMAGE_PAD: &str = "<|image_pad|>";
/// Leading template tokens whose hidden states the transformer does not see.
pub(super) const DROPPED_TOKENS: usize = 64;

/// How the template announces pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditStyle {
    /// Qwen-Image-Edit does not announce them.
    V1,
    /// Qwen-Image-Edit-2509 and later number them: `Picture 1: `, `Picture 2: `, …
    Plus,
}

/// Prompt and picture encoder of an editing pipeline.
pub struct EditPromptEncoder {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The language model.
    pub decoder: Decoder,
    /// The vision tower.
    pub vision: VisionTower,
    /// The image processor, which cuts pictures into patches.
    pub processor: ImageProcessor,
    /// How the template announces pictures.
    pub style: EditStyle,
    /// Positions of picture tokens.
    pub positions: EditPositions,
}

impl EditPromptEncoder {
    /// Loads tokenizer and processor of `checkpoint`, and both networks of its text encoder from the root `scope`.
    ///
    /// # Errors
    /// A file or tensor is missing or wrong; the error names the first one found.
    pub fn load(
        checkpoint: &Checkpoint,
        scope: &Scope<'_>,
        style: EditStyle,
        positions: EditPositions,
    ) -> Result<Self, LoadError> {
        let tokenizer = Tokenizer::load(checkpoint, "tokenizer")?;
        let processor = ImageProcessor::load(checkpoint, "processor")?;
        let vision_config = VisionConfig::load(checkpoint, "text_encoder")?;
        let config = DecoderConfig::load(checkpoint, "text_encoder")?;
        check(&config, &vision_config, positions)?;
        check_tokenizer(&tokenizer, &config)?;
        check_patches(&processor, &vision_config)?;
        let vision = VisionTower::load(&vision_config, scope)?;
        let decoder = Decoder::load(&config, scope, config.num_hidden_layers)?;
        Ok(EditPromptEncoder { tokenizer, decoder, vision, processor, style, positions })
    }

    /// Encodes `picture` with the vision tower to `[tokens, width]`, and returns the rows and columns of its patches.
    ///
    /// # Errors
    /// The device fails.
    pub fn vision_features(&self, picture: &RgbImage) -> Result<(Tensor, Grid), PipelineError> {
        let (pixel_values, grid) = self.processor.pixel_values(picture).map_err(device_error)?;
        let features = || {
            let pixel_values = pixel_values.to_device(self.vision.device())?;
            self.vision.forward(&pixel_values, &[grid])
        };
        Ok((features().map_err(device_error)?, grid))
    }

    /// Tokenizes `prompt` after pictures of the given grids. Each picture token is an `<|image_pad|>`.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] about `field` if the prompt has too many tokens or contains `<|image_pad|>` itself.
    pub fn tokenize(&self, field: &'static str, prompt: &str, grids: &[Grid]) -> Result<Vec<u32>, PipelineError> {
        let image_pad = self.image_pad()?;
        let ids = self.template(prompt, grids.len())?;
        let pads = ids.iter().filter(|&&id| id == image_pad).count();
        let written = pads.saturating_sub(grids.len());
        if written > 0 {
            // Each `<|image_pad|>` stands for a picture, so the prompt's own would be ambiguous.
            return Err(
                InvalidRequest::new(field, format!("not contain {IMAGE_PAD}"), format!("{written} of it")).into()
            );
        }
        let prompt_tokens = ids.len().saturating_sub(self.template("", grids.len())?.len());
        if prompt_tokens > MAX_PROMPT_TOKENS {
            let bound = format!("have at most {MAX_PROMPT_TOKENS} tokens");
            return Err(InvalidRequest::new(field, bound, format!("{prompt_tokens} tokens")).into());
        }
        let mut grids = grids.iter();
        let repeated = ids.into_iter().flat_map(|id| {
            let times = if id == image_pad { grids.next().map_or(1, |&grid| self.picture_tokens(grid)) } else { 1 };
            std::iter::repeat_n(id, times)
        });
        Ok(repeated.collect())
    }

    /// Returns the positions of the tokens `ids`, which include pictures of the given grids.
    ///
    /// # Errors
    /// The tokenizer has no `<|image_pad|>`.
    pub fn token_positions(&self, ids: &[u32], grids: &[Grid]) -> Result<Positions, PipelineError> {
        if self.positions == EditPositions::Sequential1d {
            return Ok(Positions::sequential(ids.len()));
        }
        let (mut positions, mut rest, image_pad) = (Positions::default(), ids, self.image_pad()?);
        let merge = self.vision.config().spatial_merge_size;
        for &(rows, columns) in grids {
            let text = rest.iter().position(|&id| id == image_pad).unwrap_or(rest.len());
            positions.push_text(text);
            positions.push_picture(rows / merge, columns / merge);
            rest = rest.get(text + self.picture_tokens((rows, columns))..).unwrap_or_default();
        }
        positions.push_text(rest.len());
        Ok(positions)
    }

    /// Returns the text stream of `prompt` with `pictures`, `[tokens - 64, width]`. The pictures are encoded by
    /// [`EditPromptEncoder::vision_features`].
    ///
    /// # Errors
    /// The same as [`EditPromptEncoder::tokenize`], or the device fails.
    pub fn encode(
        &self,
        field: &'static str,
        prompt: &str,
        pictures: &[(Tensor, Grid)],
    ) -> Result<Tensor, PipelineError> {
        let grids: Vec<Grid> = pictures.iter().map(|(_, grid)| *grid).collect();
        let ids = self.tokenize(field, prompt, &grids)?;
        let positions = self.token_positions(&ids, &grids)?;
        let features: Vec<&Tensor> = pictures.iter().map(|(features, _)| features).collect();
        let embeds = self.embed(&ids, &features)?;
        let kept = ids.len().checked_sub(DROPPED_TOKENS).ok_or_else(short_template)?;
        let encode = || {
            let sequence = self.decoder.sequence(&positions, ids.len())?;
            let hidden_states = self.decoder.last_hidden_state(&embeds, &sequence)?;
            // A copy: a view would keep the dropped tokens in memory.
            hidden_states.narrow(0, DROPPED_TOKENS, kept)?.force_contiguous()
        };
        encode().map_err(device_error)
    }

    /// Embeds `ids`, with the embeddings of picture tokens replaced by `features`, one picture after another.
    ///
    /// # Errors
    /// The device fails.
    pub fn embed(&self, ids: &[u32], features: &[&Tensor]) -> Result<Tensor, PipelineError> {
        let image_pad = self.image_pad()?;
        let embed = || {
            let embeds = self.decoder.embed(ids)?;
            let (mut parts, mut start) = (Vec::new(), 0);
            for features in features {
                let text = ids[start..].iter().position(|&id| id == image_pad).unwrap_or(ids.len() - start);
                parts.push(embeds.narrow(0, start, text)?);
                parts.push(features.to_dtype(embeds.dtype())?);
                start = ids.len().min(start + text + features.dim(0)?);
            }
            parts.push(embeds.narrow(0, start, ids.len() - start)?);
            Tensor::cat(&parts, 0)
        };
        embed().map_err(device_error)
    }

    /// Returns the number of tokens of a picture with the given patch grid.
    fn picture_tokens(&self, (rows, columns): Grid) -> usize {
        rows * columns / self.vision.config().merge_unit()
    }

    /// Tokenizes `prompt` after `pictures` pictures, with one `<|image_pad|>` per picture.
    fn template(&self, prompt: &str, pictures: usize) -> Result<Vec<u32>, PipelineError> {
        let announced = (1..=pictures).map(|number| match self.style {
            EditStyle::V1 => PICTURE.to_owned(),
            EditStyle::Plus => format!("Picture {number}: {PICTURE}"),
        });
        let text = [BEFORE_PROMPT, &announced.collect::<String>(), prompt, AFTER_PROMPT].concat();
        self.tokenizer.encode(&text).map_err(device_error)
    }

    fn image_pad(&self) -> Result<u32, PipelineError> {
        self.tokenizer.id(IMAGE_PAD).ok_or_else(|| PipelineError::Model(format!("the tokenizer has no {IMAGE_PAD}")))
    }
}

/// Checks that the two networks fit together.
fn check(config: &DecoderConfig, vision: &VisionConfig, positions: EditPositions) -> Result<(), LoadError> {
    let error = |key: &'static str, bound: String, given: String| {
        Err(LoadError::Config { file: "text_encoder/config.json".into(), key, bound, given })
    };
    if vision.out_hidden_size != config.hidden_size {
        let bound = format!("be the language model's hidden_size, {}", config.hidden_size);
        return error("out_hidden_size", bound, vision.out_hidden_size.to_string());
    }
    if positions == EditPositions::MRope3d && config.mrope_section.is_none() {
        return error("mrope_section", "be present for a model that sees pictures".into(), "nothing".into());
    }
    Ok(())
}

/// Checks that the tokenizer knows picture tokens and the template.
fn check_tokenizer(tokenizer: &Tokenizer, config: &DecoderConfig) -> Result<(), LoadError> {
    tokenizer.check_ids("tokenizer", config.vocab_size)?;
    tokenizer.check_template("tokenizer", &[BEFORE_PROMPT, AFTER_PROMPT].concat(), DROPPED_TOKENS)?;
    match tokenizer.id(IMAGE_PAD) {
        Some(_) => Ok(()),
        None => Err(LoadError::Tokenizer { file: "tokenizer".into(), reason: format!("it has no {IMAGE_PAD}") }),
    }
}

/// Checks that the processor's patches are those that the vision tower reads.
fn check_patches(processor: &ImageProcessor, vision: &VisionConfig) -> Result<(), LoadError> {
    for (key, cut, read) in [
        ("patch_size", processor.patch_size, vision.patch_size),
        ("temporal_patch_size", processor.temporal_patch_size, vision.temporal_patch_size),
        ("merge_size", processor.merge_size, vision.spatial_merge_size),
    ] {
        if cut != read {
            let bound = format!("be the vision tower's, {read}");
            let file = "processor/preprocessor_config.json".into();
            return Err(LoadError::Config { file, key, bound, given: cut.to_string() });
        }
    }
    Ok(())
}
