//! Configuration of the decoder, from `text_encoder/config.json`.

use serde::Deserialize;

use crate::bounds::{ConfigFile, EPSILONS, HEAD_DIMS, HEADS, LAYERS, ROPE_THETAS, WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// Shape of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Inner width of the SwiGLU.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads, each shared by several query heads.
    pub num_key_value_heads: usize,
    /// Features per head; in Qwen3 this is not `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Whether q, k and v have biases, as in Qwen2.5-VL.
    pub qkv_bias: bool,
    /// Whether each head's queries and keys have an RMSNorm, as in Qwen3.
    pub qk_norm: bool,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many of a head's `head_dim / 2` frequencies rotate by time, row and column. Without sections, all rotate by
    /// the first position.
    pub mrope_section: Option<[usize; 3]>,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

/// The section in which newer versions of transformers put the text settings.
#[derive(Deserialize)]
struct File {
    text_config: Option<Fields>,
}

/// The fields as transformers 4 (flat, or under `text_config`) and 5 (`rope_parameters`) write them.
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
    hidden_act: Option<String>,
    use_sliding_window: Option<bool>,
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

/// The supported decoders, which differ only in what [`DecoderConfig`] holds.
#[derive(Clone, Copy)]
enum ModelType {
    Qwen2_5Vl,
    Qwen3,
}

impl DecoderConfig {
    /// Reads `<component>/config.json`.
    ///
    /// # Errors
    /// The file or a required value is missing, or the file describes another decoder.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let name = format!("{component}/config.json");
        let file = ConfigFile(&name);
        let (File { text_config }, flat) = (checkpoint.json(&name)?, checkpoint.json::<Fields>(&name)?);
        let model_type = model_type(&file, flat.model_type.as_deref())?;
        let text = text_config.unwrap_or_else(|| flat.clone());
        let need = |key, value, range| file.needed(key, value, range);
        let hidden_size = need("hidden_size", text.hidden_size, WIDTHS)?;
        let num_attention_heads = need("num_attention_heads", text.num_attention_heads, HEADS)?;
        let rope = |fields: &Fields| fields.rope_parameters.clone().or_else(|| fields.rope_scaling.clone());
        let theta =
            |fields: &Fields| fields.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(fields.rope_theta);
        let rope_theta = theta(&text).or_else(|| theta(&flat)).unwrap_or(1e6);
        let config = DecoderConfig {
            hidden_size,
            intermediate_size: need("intermediate_size", text.intermediate_size, WIDTHS)?,
            num_hidden_layers: need("num_hidden_layers", text.num_hidden_layers, LAYERS)?,
            num_attention_heads,
            num_key_value_heads: need("num_key_value_heads", text.num_key_value_heads, HEADS)?,
            head_dim: need("head_dim", text.head_dim.or(Some(hidden_size / num_attention_heads)), HEAD_DIMS)?,
            qkv_bias: matches!(model_type, ModelType::Qwen2_5Vl),
            qk_norm: matches!(model_type, ModelType::Qwen3),
            rms_norm_eps: file.within("rms_norm_eps", text.rms_norm_eps.unwrap_or(1e-6), EPSILONS)?,
            rope_theta: file.within("rope_theta", rope_theta, ROPE_THETAS)?,
            mrope_section: mrope_section(&file, rope(&text).or_else(|| rope(&flat)))?,
            vocab_size: need("vocab_size", text.vocab_size, 1..=1 << 24)?,
        };
        if matches!(model_type, ModelType::Qwen3) {
            file.require(text.attention_bias != Some(true), "attention_bias", "be false", true)?;
        }
        let hidden_act = text.hidden_act.as_deref().unwrap_or("silu");
        file.require(hidden_act == "silu", "hidden_act", "be silu", hidden_act)?;
        file.require(text.use_sliding_window != Some(true), "use_sliding_window", "be false", true)?;
        config.check(&file)?;
        Ok(config)
    }

    /// Checks the shapes that attention relies on.
    fn check(&self, file: &ConfigFile<'_>) -> Result<(), LoadError> {
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let bound = format!("divide the {} query heads", self.num_attention_heads);
            return Err(file.refusal("num_key_value_heads", bound, self.num_key_value_heads));
        }
        file.require(self.head_dim.is_multiple_of(2), "head_dim", "be even", self.head_dim)?;
        if let Some(section) = self.mrope_section
            && section.iter().try_fold(0_usize, |sum, &n| sum.checked_add(n)) != Some(self.head_dim / 2)
        {
            let bound = format!("add up to half a head, {}", self.head_dim / 2);
            return Err(file.refusal("mrope_section", bound, format!("{section:?}")));
        }
        Ok(())
    }
}

fn model_type(file: &ConfigFile<'_>, model_type: Option<&str>) -> Result<ModelType, LoadError> {
    match model_type {
        Some("qwen2_5_vl") => Ok(ModelType::Qwen2_5Vl),
        Some("qwen3") => Ok(ModelType::Qwen3),
        other => Err(file.refusal("model_type", "be qwen2_5_vl or qwen3", other.unwrap_or("nothing"))),
    }
}

fn mrope_section(file: &ConfigFile<'_>, rope: Option<Rope>) -> Result<Option<[usize; 3]>, LoadError> {
    let Some(rope) = rope else { return Ok(None) };
    let rope_type = rope.rope_type.or(rope.old_type).unwrap_or_else(|| "default".into());
    if !["default", "mrope"].contains(&rope_type.as_str()) {
        return Err(file.refusal("rope_type", "be default", rope_type));
    }
    file.require(!rope.mrope_interleaved, "mrope_interleaved", "be false", true)?;
    Ok(rope.mrope_section)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads the configuration `json`.
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
            (r#""model_type": "qwen3", "rope_theta": 0"#, "`rope_theta` must be between 1 and 1000000000. Given: 0"),
            (
                r#""model_type": "qwen3", "rms_norm_eps": -1"#,
                "`rms_norm_eps` must be between 0.000000000001 and 1. Given: -1",
            ),
            (r#""model_type": "qwen3", "hidden_act": "gelu""#, "`hidden_act` must be silu. Given: \"gelu\""),
            (r#""model_type": "qwen3", "use_sliding_window": true"#, "`use_sliding_window` must be false. Given: true"),
            (r#""model_type": "qwen3", "head_dim": 99999"#, "`head_dim` must be between 1 and 1024. Given: 99999"),
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
