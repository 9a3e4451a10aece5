//! Encodes a prompt: Qwen3's chat template, tokenizer and decoder.
//!
//! Port of `_get_qwen3_prompt_embeds`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py>

use candle_core::Tensor;
use diffusion::{InvalidRequest, PipelineError};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::qwen_decoder::{Decoder, DecoderConfig, Positions};
use crate::scope::Scope;
use crate::tokenizer::Tokenizer;
use crate::{Result, device_error};

/// Default number of text stream tokens, padding included.
pub const MAX_SEQUENCE_LENGTH: usize = 512;

const BEFORE_PROMPT: &str = "<|im_start|>user\n";
/// Contains an empty thought, as the chat template has it with thinking disabled.
const AFTER_PROMPT: &str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
/// Padding token.
const PADDING: &str = "<|endoftext|>";
/// The decoder's hidden states that form the text stream, concatenated. Layers after the last are not loaded.
pub(super) const HIDDEN_STATES: [usize; 3] = [9, 18, 27];

/// Tokenizer and text encoder.
pub struct PromptEncoder {
    tokenizer: Tokenizer,
    /// The decoder, of which 27 layers are loaded.
    pub decoder: Decoder,
    max_sequence_length: usize,
    padding: u32,
    /// Number of tokens of the template alone.
    template_tokens: usize,
}

impl PromptEncoder {
    /// Loads the tokenizer of `checkpoint` and the decoder at the root of `scope`. Every prompt is padded to
    /// `max_sequence_length` tokens.
    ///
    /// # Errors
    /// A file or tensor is missing or wrong; the error names the first one found.
    pub fn load(checkpoint: &Checkpoint, scope: &Scope<'_>, max_sequence_length: usize) -> Result<Self, LoadError> {
        let tokenizer = Tokenizer::load(checkpoint, "tokenizer")?;
        let unusable = |reason: String| LoadError::Tokenizer { file: "tokenizer".into(), reason };
        let padding = tokenizer.id(PADDING).ok_or_else(|| unusable(format!("it has no {PADDING}")))?;
        let template = tokenizer.encode(&[BEFORE_PROMPT, AFTER_PROMPT].concat());
        let template_tokens = template.map_err(|err| unusable(err.to_string()))?.len();
        let config = DecoderConfig::load(checkpoint, "text_encoder")?;
        tokenizer.check_ids("tokenizer", config.vocab_size)?;
        let [.., last] = HIDDEN_STATES;
        let decoder = Decoder::load(&config, scope, last)?;
        Ok(PromptEncoder { tokenizer, decoder, max_sequence_length, padding, template_tokens })
    }

    /// Returns the most tokens of a prompt, without the template.
    pub fn max_prompt_tokens(&self) -> usize {
        self.max_sequence_length.saturating_sub(self.template_tokens)
    }

    /// Returns the width of the text stream.
    pub fn width(&self) -> usize {
        HIDDEN_STATES.len() * self.decoder.config().hidden_size
    }

    /// Counts the tokens of `prompt`, without the template.
    ///
    /// # Errors
    /// The tokenizer fails, which is not expected.
    pub fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(prompt)?.len())
    }

    /// Tokenizes `prompt` in the template. Returns the padded ids, and how many of them are not padding.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] about `field` if the prompt has too many tokens.
    pub fn tokenize(&self, field: &'static str, prompt: &str) -> Result<(Vec<u32>, usize), PipelineError> {
        let text = [BEFORE_PROMPT, prompt, AFTER_PROMPT].concat();
        let mut ids = self.tokenizer.encode(&text).map_err(device_error)?;
        let valid = ids.len();
        if valid > self.max_sequence_length {
            let bound = format!("have at most {} tokens", self.max_prompt_tokens());
            let given = format!("{} tokens", valid.saturating_sub(self.template_tokens));
            return Err(InvalidRequest::new(field, bound, given).into());
        }
        ids.resize(self.max_sequence_length, self.padding);
        Ok((ids, valid))
    }

    /// Returns the text stream of `prompt`, `[max_sequence_length, 3 * hidden_size]`. The transformer sees the padding
    /// too.
    ///
    /// # Errors
    /// The same as [`PromptEncoder::tokenize`], or the device fails.
    pub fn encode(&self, field: &'static str, prompt: &str) -> Result<Tensor, PipelineError> {
        let (ids, valid) = self.tokenize(field, prompt)?;
        let encode = || {
            let sequence = self.decoder.sequence(&Positions::sequential(ids.len()), valid)?;
            let states = self.decoder.forward(&self.decoder.embed(&ids)?, &sequence, &HIDDEN_STATES)?;
            Tensor::cat(&states, 1)
        };
        encode().map_err(device_error)
    }
}
