//! The decoder's numbers, from `text_encoder/config.json`.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
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
    /// Features of a head; in Qwen3 not `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Whether q, k and v have biases: Qwen2.5-VL's do.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys have an RMSNorm: Qwen3's do.
    pub qk_norm: bool,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many of a head's `head_dim / 2` frequencies turn by time, row and column; all turn by the first
    /// where there is none.
    pub mrope_section: Option<[usize; 3]>,
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
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    attention_bias: Option<bool>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    vocab_size: Option<usize>,
}

#[derive(Clone, Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    mrope_section: Option<[usize; 3]>,
    #[serde(default)]
    mrope_interleaved: bool,
}

/// The decoders that differ in no more than [`DecoderConfig`] says.
#[derive(Clone, Copy)]
enum ModelType {
    Qwen2_5Vl,
    Qwen3,
}

impl DecoderConfig {
    /// Reads `<component>/config.json`.
    ///
    /// # Errors
    /// The file or one of the numbers is missing, or the file is of another decoder.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let file = format!("{component}/config.json");
        let File { text_config, flat } = checkpoint.json(&file)?;
        let model_type = model_type(&file, flat.model_type.as_deref())?;
        let text = text_config.unwrap_or_else(|| flat.clone());
        let need = |key: &'static str, value: Option<usize>| {
            value.filter(|&n| n > 0).ok_or_else(|| {
                let given = value.map_or("nothing".into(), |n| n.to_string());
                unsupported(&file, key, "be a whole number of at least 1", given)
            })
        };
        let hidden_size = need("hidden_size", text.hidden_size)?;
        let num_attention_heads = need("num_attention_heads", text.num_attention_heads)?;
        let rope = |fields: &Fields| fields.rope_parameters.clone().or_else(|| fields.rope_scaling.clone());
        let theta =
            |fields: &Fields| fields.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(fields.rope_theta);
        let config = DecoderConfig {
            hidden_size,
            intermediate_size: need("intermediate_size", text.intermediate_size)?,
            num_hidden_layers: need("num_hidden_layers", text.num_hidden_layers)?,
            num_attention_heads,
            num_key_value_heads: need("num_key_value_heads", text.num_key_value_heads)?,
            head_dim: need("head_dim", text.head_dim.or(Some(hidden_size / num_attention_heads)))?,
            qkv_bias: matches!(model_type, ModelType::Qwen2_5Vl),
            qk_norm: matches!(model_type, ModelType::Qwen3),
            rms_norm_eps: text.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta(&text).or_else(|| theta(&flat)).unwrap_or(1e6),
            mrope_section: mrope_section(&file, rope(&text).or_else(|| rope(&flat)))?,
            vocab_size: need("vocab_size", text.vocab_size)?,
        };
        if matches!(model_type, ModelType::Qwen3) && text.attention_bias == Some(true) {
            return Err(unsupported(&file, "attention_bias", "be false", "true".into()));
        }
        config.check(&file)?;
        Ok(config)
    }

    /// The shapes that attention relies on.
    fn check(&self, file: &str) -> Result<(), LoadError> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let bound = format!("divide the {} query heads", self.num_attention_heads);
            return Err(unsupported(file, "num_key_value_heads", &bound, self.num_key_value_heads.to_string()));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(unsupported(file, "head_dim", "be even", self.head_dim.to_string()));
        }
        if let Some(section) = self.mrope_section
            && section.iter().sum::<usize>() != self.head_dim / 2
        {
            let bound = format!("add up to half a head, {}", self.head_dim / 2);
            return Err(unsupported(file, "mrope_section", &bound, format!("{section:?}")));
        }
        Ok(())
    }
}

fn model_type(file: &str, model_type: Option<&str>) -> Result<ModelType, LoadError> {
    match model_type {
        Some("qwen2_5_vl") => Ok(ModelType::Qwen2_5Vl),
        Some("qwen3") => Ok(ModelType::Qwen3),
        other => Err(unsupported(file, "model_type", "be qwen2_5_vl or qwen3", other.unwrap_or("nothing").into())),
    }
}

fn mrope_section(file: &str, rope: Option<Rope>) -> Result<Option<[usize; 3]>, LoadError> {
    let Some(rope) = rope else { return Ok(None) };
    let rope_type = rope.rope_type.or(rope.old_type).unwrap_or_else(|| "default".into());
    if !["default", "mrope"].contains(&rope_type.as_str()) {
        return Err(unsupported(file, "rope_type", "be default", rope_type));
    }
    if rope.mrope_interleaved {
        return Err(unsupported(file, "mrope_interleaved", "be false", "true".into()));
    }
    Ok(rope.mrope_section)
}

fn unsupported(file: &str, key: &'static str, bound: &str, given: String) -> LoadError {
    LoadError::Config { file: file.into(), key, bound: bound.into(), given }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration that `json` says.
    fn load(json: &'static str) -> Result<DecoderConfig, LoadError> {
        DecoderConfig::load(&Checkpoint::Embedded(vec![("text_encoder/config.json", json.as_bytes())]), "text_encoder")
    }

    #[test]
    fn the_styles_of_transformers_4_and_5_say_the_same() {
        let old = load(
            r#"{"model_type": "qwen2_5_vl", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 518, "rope_theta": 1000000.0,
                "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}"#,
        )
        .unwrap();
        let new = load(
            r#"{"model_type": "qwen2_5_vl", "text_config": {"model_type": "qwen2_5_vl_text", "hidden_size": 64,
                "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                "vocab_size": 518, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default",
                "mrope_section": [2, 3, 3]}}}"#,
        )
        .unwrap();
        assert_eq!(old, new);
        assert_eq!((old.head_dim, old.qkv_bias, old.qk_norm), (16, true, false));
        assert_eq!(old.mrope_section, Some([2, 3, 3]));
    }

    #[test]
    fn qwen3_has_heads_of_their_own_width() {
        let config = load(
            r#"{"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 28,
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "attention_bias": false,
                "vocab_size": 518, "rope_theta": 1000000.0, "rope_scaling": null}"#,
        )
        .unwrap();
        assert_eq!((config.head_dim, config.qkv_bias, config.qk_norm), (16, false, true));
        assert_eq!(config.mrope_section, None);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let base = r#""hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 9"#;
        for (fields, message) in [
            (r#""model_type": "llama""#, "`model_type` must be qwen2_5_vl or qwen3. Given: llama"),
            (r#""model_type": "qwen3", "attention_bias": true"#, "`attention_bias` must be false. Given: true"),
            (
                r#""model_type": "qwen3", "rope_scaling": {"rope_type": "yarn"}"#,
                "`rope_type` must be default. Given: yarn",
            ),
            (
                r#""model_type": "qwen2_5_vl", "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}"#,
                "`mrope_section` must add up to half a head, 4. Given: [1, 1, 1]",
            ),
        ] {
            let json = format!("{{{base}, {fields}}}").leak();
            assert_eq!(load(json).unwrap_err().to_string(), format!("`text_encoder/config.json`: {message}"));
        }
    }
}
