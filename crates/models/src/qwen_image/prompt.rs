//! Encodes a prompt: Qwen-Image's chat template, tokenizer and language model.
//!
//! Port of `_get_qwen_prompt_embeds`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L189>

use candle_core::Tensor;
use diffusion::{InvalidRequest, PipelineError};

use crate::device_error;
use crate::qwen_decoder::{Decoder, Positions};
use crate::tokenizer::Tokenizer;

pub(super) const BEFORE_PROMPT: &str = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n";
pub(super) const AFTER_PROMPT: &str = "<|im_end|>\n<|im_start|>assistant\n";
/// Leading template tokens whose hidden states the transformer does not see.
pub(super) const DROPPED_TOKENS: usize = 34;
/// Template tokens after the prompt, which the transformer does see.
pub(super) const TRAILING_TOKENS: usize = 5;
/// Most tokens of the text stream, including the trailing template tokens. vllm-omni has the same limit.
pub(super) const MAX_SEQUENCE_LENGTH: usize = 1024;

/// Most tokens of a prompt, without the template.
pub(super) const MAX_PROMPT_TOKENS: usize = MAX_SEQUENCE_LENGTH - TRAILING_TOKENS;

/// Tokenizer and text encoder of a text-to-image pipeline.
pub struct PromptEncoder {
    pub(super) tokenizer: Tokenizer,
    /// The language model.
    pub language_model: Decoder,
}

impl PromptEncoder {
    /// Tokenizes `prompt` in the template.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] about `field` if the prompt has too many tokens.
    pub fn tokenize(&self, field: &'static str, prompt: &str) -> Result<Vec<u32>, PipelineError> {
        let text = [BEFORE_PROMPT, prompt, AFTER_PROMPT].concat();
        let ids = self.tokenizer.encode(&text).map_err(device_error)?;
        let prompt_tokens = ids.len().saturating_sub(DROPPED_TOKENS + TRAILING_TOKENS);
        if prompt_tokens > MAX_PROMPT_TOKENS {
            let bound = format!("have at most {MAX_PROMPT_TOKENS} tokens");
            return Err(InvalidRequest::new(field, bound, format!("{prompt_tokens} tokens")).into());
        }
        Ok(ids)
    }

    /// Returns the text stream of `prompt`, `[tokens - 34, width]`.
    ///
    /// # Errors
    /// The same as [`PromptEncoder::tokenize`], or the device fails.
    pub fn encode(&self, field: &'static str, prompt: &str) -> Result<Tensor, PipelineError> {
        let ids = self.tokenize(field, prompt)?;
        let kept = ids.len().checked_sub(DROPPED_TOKENS).ok_or_else(short_template)?;
        let embed = || {
            let sequence = self.language_model.sequence(&Positions::sequential(ids.len()), ids.len())?;
            let embeds = self.language_model.embed(&ids)?;
            let hidden_states = self.language_model.last_hidden_state(&embeds, &sequence)?;
            // A copy: a view would keep the dropped tokens in memory.
            hidden_states.narrow(0, DROPPED_TOKENS, kept)?.force_contiguous()
        };
        embed().map_err(device_error)
    }
}

/// Error for a tokenizer other than Qwen's, which encodes the template to fewer tokens than are dropped.
pub(super) fn short_template() -> PipelineError {
    PipelineError::Model("the checkpoint's tokenizer does not cut the prompt's template as Qwen's does".into())
}
