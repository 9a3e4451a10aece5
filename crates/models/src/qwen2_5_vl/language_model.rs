//! The decoder: token ids to hidden states.

use candle_core::{DType, Device, Tensor};
use kernels::{Linear, causal_attention, rms_norm, swiglu};

use super::config::LanguageModelConfig;
use crate::Result;
use crate::error::LoadError;
use crate::weights::Scope;

/// The language model without its head, one sequence at a time.
pub struct LanguageModel {
    embed_tokens: Tensor,
    layers: Vec<DecoderLayer>,
    norm: Tensor,
    config: LanguageModelConfig,
    activations: DType,
}

impl LanguageModel {
    /// Loads the decoder from the text encoder's root; both names it goes by are understood.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &LanguageModelConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let model = scope.pp("model");
        let model = if model.has("language_model.norm.weight") { model.pp("language_model") } else { model };
        let layers = model.pp("layers");
        Ok(LanguageModel {
            embed_tokens: model.get((config.vocab_size, config.hidden_size), "embed_tokens.weight")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| DecoderLayer::load(config, &layers.pp(i)))
                .collect::<Result<_, _>>()?,
            norm: norm_weight(&model, config.hidden_size, "norm.weight")?,
            config: config.clone(),
            activations: scope.precision().activations,
        })
    }

    /// The hidden states after the final norm, `[tokens, hidden_size]`: what diffusers calls
    /// `hidden_states[-1]`.
    ///
    /// # Errors
    /// An id outside the vocabulary, or the device fails.
    pub fn forward(&self, input_ids: &[u32]) -> Result<Tensor> {
        let mut hidden_states = self.embed(input_ids)?;
        let rope = self.rope(input_ids.len())?;
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, &rope)?;
        }
        self.final_norm(&hidden_states)
    }

    /// The token embeddings, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// An id outside the vocabulary, or the device fails.
    pub fn embed(&self, input_ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(input_ids, self.embed_tokens.device())?;
        self.embed_tokens.index_select(&ids, 0)?.to_dtype(self.activations)
    }

    /// Cosines and sines of the positions `0..n_tokens`, each `[n_tokens, head_dim / 2]` in f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn rope(&self, n_tokens: usize) -> Result<(Tensor, Tensor)> {
        let head_dim = self.config.hidden_size / self.config.num_attention_heads;
        rope_tables(self.config.rope_theta, head_dim, n_tokens, self.embed_tokens.device())
    }

    /// The decoder layers, in order.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// The norm behind the last layer.
    ///
    /// # Errors
    /// The device fails.
    pub fn final_norm(&self, hidden_states: &Tensor) -> Result<Tensor> {
        rms_norm(hidden_states, &self.norm, self.config.rms_norm_eps)
    }
}

/// One pre-norm block of attention and SwiGLU.
pub struct DecoderLayer {
    input_layernorm: Tensor,
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_up_proj: Linear,
    down_proj: Linear,
    config: LanguageModelConfig,
}

impl DecoderLayer {
    fn load(config: &LanguageModelConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let kv_width = hidden / config.num_attention_heads * config.num_key_value_heads;
        let (attention, mlp) = (scope.pp("self_attn"), scope.pp("mlp"));
        let qkv = ["q_proj", "k_proj", "v_proj"];
        Ok(DecoderLayer {
            input_layernorm: norm_weight(scope, hidden, "input_layernorm.weight")?,
            qkv_proj: attention.fused_linear(&qkv, hidden, &[hidden, kv_width, kv_width], true)?,
            o_proj: attention.pp("o_proj").linear_no_bias(hidden, hidden)?,
            post_attention_layernorm: norm_weight(scope, hidden, "post_attention_layernorm.weight")?,
            gate_up_proj: mlp.fused_linear(&["gate_proj", "up_proj"], hidden, &[inner, inner], false)?,
            down_proj: mlp.pp("down_proj").linear_no_bias(inner, hidden)?,
            config: config.clone(),
        })
    }

    /// `[tokens, hidden_size]` to the same; `rope` is [`LanguageModel::rope`] of as many tokens.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, hidden_states: &Tensor, rope: &(Tensor, Tensor)) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        let normed = rms_norm(hidden_states, &self.input_layernorm, eps)?;
        let hidden_states = (hidden_states + self.attention(&normed, rope)?)?;
        let normed = rms_norm(&hidden_states, &self.post_attention_layernorm, eps)?;
        let mlp = self.down_proj.forward(&swiglu(&self.gate_up_proj.forward(&normed)?)?)?;
        hidden_states + mlp
    }

    fn attention(&self, hidden_states: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let LanguageModelConfig { hidden_size, num_attention_heads, num_key_value_heads, .. } = self.config;
        let kv_width = hidden_size / num_attention_heads * num_key_value_heads;
        let qkv = self.qkv_proj.forward(hidden_states)?;
        let q = qkv.narrow(1, 0, hidden_size)?.contiguous()?;
        let k = qkv.narrow(1, hidden_size, kv_width)?.contiguous()?;
        let v = qkv.narrow(1, hidden_size + kv_width, kv_width)?.contiguous()?;
        let attended = causal_attention(&q, &k, &v, cos, sin, num_attention_heads, num_key_value_heads)?;
        self.o_proj.forward(&attended)
    }
}

/// A norm's weight, in the activations' dtype: a few numbers that must not be rounded twice.
fn norm_weight(scope: &Scope<'_>, width: usize, name: &str) -> Result<Tensor, LoadError> {
    let weight = scope.get(width, name)?;
    scope.device(weight.to_dtype(scope.precision().activations))
}

fn rope_tables(theta: f64, head_dim: usize, n_tokens: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let inv_freq: Vec<f32> =
        (0..head_dim / 2).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect();
    let angles = (0..n_tokens).flat_map(|position| inv_freq.iter().map(move |freq| position as f32 * freq));
    let angles = Tensor::from_iter(angles, device)?.reshape((n_tokens, head_dim / 2))?;
    Ok((angles.cos()?, angles.sin()?))
}
