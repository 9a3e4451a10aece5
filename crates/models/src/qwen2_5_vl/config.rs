//! The language model's numbers, from `text_encoder/config.json`.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// The shape of the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageModelConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the SwiGLU.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, each shared by several query heads.
    pub num_key_value_heads: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

/// The file as transformers 4 writes it (flat, or under `text_config`) and as 5 does (`rope_parameters`).
#[derive(Deserialize)]
struct File {
    text_config: Option<Fields>,
    #[serde(flatten)]
    flat: Fields,
}

#[derive(Clone, Deserialize)]
struct Fields {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    vocab_size: Option<usize>,
}

#[derive(Clone, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

impl LanguageModelConfig {
    /// Reads `<component>/config.json`.
    ///
    /// # Errors
    /// The file is missing, or one of the numbers is.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let file = format!("{component}/config.json");
        let File { text_config, flat } = checkpoint.json(&file)?;
        let text = text_config.unwrap_or_else(|| flat.clone());
        let need = |key: &'static str, value: Option<usize>| {
            value.filter(|&n| n > 0).ok_or_else(|| LoadError::Config {
                file: file.clone(),
                key,
                bound: "be a whole number of at least 1".into(),
                given: value.map_or("nothing".into(), |n| n.to_string()),
            })
        };
        let rope_theta =
            |fields: &Fields| fields.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(fields.rope_theta);
        Ok(LanguageModelConfig {
            hidden_size: need("hidden_size", text.hidden_size)?,
            intermediate_size: need("intermediate_size", text.intermediate_size)?,
            num_hidden_layers: need("num_hidden_layers", text.num_hidden_layers)?,
            num_attention_heads: need("num_attention_heads", text.num_attention_heads)?,
            num_key_value_heads: need("num_key_value_heads", text.num_key_value_heads)?,
            rms_norm_eps: text.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: rope_theta(&text).or_else(|| rope_theta(&flat)).unwrap_or(1e6),
            vocab_size: need("vocab_size", text.vocab_size)?,
        })
    }
}
