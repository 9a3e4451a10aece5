//! The Qwen tokenizer, from `tokenizer.json` or from the older pair `vocab.json` + `merges.txt`.
//!
//! Qwen/Qwen-Image ships only the pair. It is interpreted by the rules of transformers' `Qwen2Tokenizer`:
//! <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2/tokenization_qwen2.py#L30>

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// Qwen's split of the text before byte pairs are merged.
const QWEN_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer: text to token ids.
pub struct Tokenizer(tokenizers::Tokenizer);

/// The part of `tokenizer_config.json` that holds the added tokens.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, AddedTokenConfig>,
}

#[derive(Deserialize)]
struct AddedTokenConfig {
    content: String,
    special: bool,
}

impl Tokenizer {
    /// Reads the tokenizer in the folder `component` of `checkpoint`.
    ///
    /// # Errors
    /// A file is missing, or the files are not a valid tokenizer.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let json = format!("{component}/tokenizer.json");
        if checkpoint.has(&json) {
            let unusable =
                |err: tokenizers::Error| LoadError::Tokenizer { file: json.clone(), reason: err.to_string() };
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(checkpoint.read(&json)?).map_err(unusable)?;
            // The file may store truncation and padding from its author's last call. Here each model has its own limit.
            tokenizer.with_padding(None).with_truncation(None).map_err(unusable)?;
            return Ok(Tokenizer(tokenizer));
        }
        let file = format!("{component}/vocab.json");
        let tokenizer =
            from_pair(checkpoint, component)?.map_err(|err| LoadError::Tokenizer { file, reason: err.to_string() })?;
        Ok(Tokenizer(tokenizer))
    }

    /// Returns the files that [`Tokenizer::load`] needs in the folder `component`, whether they exist or not.
    pub(crate) fn files(checkpoint: &Checkpoint, component: &str) -> Vec<String> {
        let named = |names: &[&str]| names.iter().map(|name| format!("{component}/{name}")).collect::<Vec<_>>();
        match named(&["tokenizer.json"]) {
            single if checkpoint.has(&single[0]) => single,
            _ => named(&["vocab.json", "merges.txt", "tokenizer_config.json"]),
        }
    }

    /// Refuses a tokenizer with ids beyond the `vocab_size` rows of the text encoder's embedding.
    ///
    /// # Errors
    /// The tokenizer has such an id.
    pub(crate) fn check_ids(&self, component: &str, vocab_size: usize) -> Result<(), LoadError> {
        let vocab = self.0.get_vocab(true);
        match vocab.iter().max_by_key(|(_, id)| **id) {
            Some((token, &id)) if id as usize >= vocab_size => {
                let reason = format!("`{token}` has the id {id}, and the text encoder a vocabulary of {vocab_size}");
                Err(LoadError::Tokenizer { file: component.into(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a tokenizer that encodes `template` to fewer than `least` tokens, because the hidden states of the first
    /// `least` tokens are dropped.
    ///
    /// # Errors
    /// The template has fewer tokens.
    pub(crate) fn check_template(&self, component: &str, template: &str, least: usize) -> Result<(), LoadError> {
        let unusable = |reason: String| LoadError::Tokenizer { file: component.into(), reason };
        let tokens = self.encode(template).map_err(|err| unusable(err.to_string()))?.len();
        match tokens < least {
            true => Err(unusable(format!("it cuts the prompt's template into {tokens} tokens, Qwen's into {least}"))),
            false => Ok(()),
        }
    }

    /// Encodes `text` to ids. Special tokens are recognised, but none are added.
    ///
    /// # Errors
    /// The library fails. Byte-level BPE encodes any text, so this is not expected.
    pub fn encode(&self, text: &str) -> candle_core::Result<Vec<u32>> {
        let encoding = self.0.encode_fast(text, false).map_err(|err| candle_core::Error::Msg(err.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the id of the token written `token`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
}

fn from_pair(checkpoint: &Checkpoint, component: &str) -> Result<tokenizers::Result<tokenizers::Tokenizer>, LoadError> {
    let vocab: BTreeMap<String, u32> = checkpoint.json(&format!("{component}/vocab.json"))?;
    let merges = checkpoint.read(&format!("{component}/merges.txt"))?;
    let config: TokenizerConfig = checkpoint.json(&format!("{component}/tokenizer_config.json"))?;
    let merges: Vec<_> = String::from_utf8_lossy(&merges)
        .lines()
        .filter(|line| !line.starts_with("#version"))
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    if let Some(reason) = unmade(&vocab, &merges) {
        return Err(LoadError::Damaged { file: format!("{component}/merges.txt"), reason });
    }
    Ok(build(vocab, merges, config))
}

/// Returns the defect if the merges make fewer than nine of ten tokens of the vocabulary. Text would then be split
/// differently.
fn unmade(vocab: &BTreeMap<String, u32>, merges: &[(String, String)]) -> Option<String> {
    let made: HashSet<_> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    let longer = || vocab.keys().filter(|token| token.chars().nth(1).is_some());
    let (all, made) = (longer().count(), longer().filter(|token| made.contains(*token)).count());
    (made * 10 < all * 9).then(|| format!("it makes {made} of the {all} tokens of vocab.json that are longer than one"))
}

fn build(
    vocab: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    config: TokenizerConfig,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let bpe = BPE::builder().vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(NFC))?;
    let split = Split::new(SplitPattern::Regex(QWEN_SPLIT.into()), SplitDelimiterBehavior::Isolated, false)?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)),
    ])));
    // Ordered by id, because the library numbers added tokens in this order.
    let mut added: Vec<(u32, AddedTokenConfig)> =
        config.added_tokens_decoder.into_iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect();
    added.sort_by_key(|(id, _)| *id);
    for (id, token) in added {
        let added = AddedToken::from(token.content.clone(), token.special);
        match token.special {
            true => tokenizer.add_special_tokens([added])?,
            false => tokenizer.add_tokens([added])?,
        };
        if tokenizer.token_to_id(&token.content) != Some(id) {
            return Err(format!("added token `{}` would not get its id {id}", token.content).into());
        }
    }
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word tokenizer, saved after a call with `padding="max_length", truncation=True, max_length=3`.
    const CUT_AND_PADDED: &str = r#"{
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1, "red": 2, "cat": 3, "on": 4, "snow": 5},
            "unk_token": "<pad>"}
    }"#;

    fn load(json: &'static str) -> Tokenizer {
        let checkpoint = Checkpoint::Embedded(vec![("tokenizer/tokenizer.json", json.as_bytes())]);
        Tokenizer::load(&checkpoint, "tokenizer").unwrap()
    }

    #[test]
    fn stored_padding_and_truncation_do_not_count() {
        let tokenizer = load(CUT_AND_PADDED);
        assert_eq!(tokenizer.encode("a red cat on snow").unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(tokenizer.encode("a cat").unwrap(), [1, 3]);
    }

    #[test]
    fn a_tokenizer_of_another_model_is_told_of() {
        let tokenizer = load(CUT_AND_PADDED);
        assert!(tokenizer.check_ids("tokenizer", 6).is_ok());
        assert_eq!(
            tokenizer.check_ids("tokenizer", 5).unwrap_err().to_string(),
            "`tokenizer` does not make a tokenizer: `snow` has the id 5, and the text encoder a vocabulary of 5"
        );
        assert!(tokenizer.check_template("tokenizer", "a red cat", 3).is_ok());
        let message = tokenizer.check_template("tokenizer", "a red cat", 34).unwrap_err().to_string();
        assert!(message.ends_with("it cuts the prompt's template into 3 tokens, Qwen's into 34"), "{message}");
    }
}
