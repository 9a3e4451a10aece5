//! The Qwen tokenizer, from `tokenizer.json` or from the older pair `vocab.json` + `merges.txt`.
//!
//! Qwen/Qwen-Image ships only the pair. The rules around it are those of transformers'
//! `Qwen2Tokenizer`:
//! <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2/tokenization_qwen2.py#L30>

use std::collections::BTreeMap;

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

/// How Qwen cuts text before the byte pairs are merged.
const QWEN_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Text to token ids.
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
    /// A file is missing or makes no tokenizer.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let json = format!("{component}/tokenizer.json");
        if checkpoint.has(&json) {
            let tokenizer = tokenizers::Tokenizer::from_bytes(checkpoint.read(&json)?)
                .map_err(|err| LoadError::Tokenizer { file: json, reason: err.to_string() })?;
            return Ok(Tokenizer(tokenizer));
        }
        let file = format!("{component}/vocab.json");
        let tokenizer =
            from_pair(checkpoint, component)?.map_err(|err| LoadError::Tokenizer { file, reason: err.to_string() })?;
        Ok(Tokenizer(tokenizer))
    }

    /// The ids of `text`, special tokens recognised, none added.
    ///
    /// # Errors
    /// The library's reason; byte-level BPE encodes any text, so none is expected.
    pub fn encode(&self, text: &str) -> candle_core::Result<Vec<u32>> {
        let encoding = self.0.encode_fast(text, false).map_err(|err| candle_core::Error::Msg(err.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of the token that is written `token`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
}

fn from_pair(checkpoint: &Checkpoint, component: &str) -> Result<tokenizers::Result<tokenizers::Tokenizer>, LoadError> {
    let vocab: BTreeMap<String, u32> = checkpoint.json(&format!("{component}/vocab.json"))?;
    let merges = checkpoint.read(&format!("{component}/merges.txt"))?;
    let config: TokenizerConfig = checkpoint.json(&format!("{component}/tokenizer_config.json"))?;
    let merges = String::from_utf8_lossy(&merges)
        .lines()
        .filter(|line| !line.starts_with("#version"))
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    Ok(build(vocab, merges, config))
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
    // In the order of their ids, which is the order in which the library numbers them.
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
