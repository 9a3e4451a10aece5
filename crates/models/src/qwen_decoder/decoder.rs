//! The decoder's layers: from token embeddings to the requested hidden states.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, bail};
use kernels::{CausalAttention, HeadNorms, Layers, Linear, check_interrupt, parameters, rms_norm, swiglu};

use super::config::DecoderConfig;
use super::positions::Positions;
use crate::Result;
use crate::error::LoadError;
use crate::flops::Flops;
use crate::scope::Scope;

/// A decoder without its output head. It runs one sequence at a time, up to the last hidden state used.
pub struct Decoder {
    /// The embedding table, in host memory if the layers are streamed.
    embed_tokens: Tensor,
    layers: Layers<DecoderLayer>,
    /// The final norm, if all layers are loaded.
    norm: Option<Tensor>,
    config: DecoderConfig,
    activations: DType,
    device: Device,
}

/// Rotary angles and padding of a sequence.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Cosines of each token's angles, `[tokens, head_dim / 2]` in f32.
    pub cos: Tensor,
    /// Sines of each token's angles.
    pub sin: Tensor,
    /// Number of tokens before the padding on the right, which no token attends to.
    pub valid: usize,
}

impl Decoder {
    /// Loads the layers that hidden states up to `last_hidden_state` need, and the final norm if these are all layers.
    /// `scope` is the text encoder's root; both names of the decoder are understood.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or the decoder has fewer layers.
    pub fn load(config: &DecoderConfig, scope: &Scope<'_>, last_hidden_state: usize) -> Result<Self, LoadError> {
        if last_hidden_state > config.num_hidden_layers {
            return Err(LoadError::Config {
                file: "text_encoder/config.json".into(),
                key: "num_hidden_layers",
                bound: format!("be at least {last_hidden_state}"),
                given: config.num_hidden_layers.to_string(),
            });
        }
        let model = scope.pp("model");
        let model = if model.has("language_model.embed_tokens.weight") { model.pp("language_model") } else { model };
        let whole = last_hidden_state == config.num_hidden_layers;
        Ok(Decoder {
            embed_tokens: model.lookup_table((config.vocab_size, config.hidden_size), "embed_tokens.weight")?,
            layers: {
                let layers = model.list("layers", config.num_hidden_layers)?.take(last_hidden_state);
                scope.layers(0, layers.map(|layer| DecoderLayer::load(config, &layer)))?
            },
            norm: whole.then(|| model.norm_weight(config.hidden_size, "norm.weight")).transpose()?,
            config: config.clone(),
            activations: scope.precision().activations,
            device: scope.precision().device.clone(),
        })
    }

    /// Returns the hidden states `wanted`, each `[tokens, hidden_size]`, numbered as in transformers'
    /// `output_hidden_states`: 0 is `embeds`, i is the output of layer i - 1, and the very last one has passed the
    /// final norm. Layers after the last wanted state do not run.
    ///
    /// # Errors
    /// A wanted state was not loaded, the work is interrupted, or the device fails.
    pub fn forward(&self, embeds: &Tensor, sequence: &Sequence, wanted: &[usize]) -> Result<Vec<Tensor>> {
        let last = wanted.iter().copied().max().unwrap_or(0);
        if last > self.layers.len() {
            bail!("hidden states up to {} are loaded. Given: {last}", self.layers.len())
        }
        let (mut hidden_states, mut kept) = (embeds.clone(), BTreeMap::new());
        for i in 0..=last {
            if i > 0 {
                check_interrupt()?;
                hidden_states = self.layers.run(i - 1, |layer| layer.forward(&hidden_states, sequence))?;
            }
            if wanted.contains(&i) {
                kept.insert(i, hidden_states.clone());
            }
        }
        if self.norm.is_some()
            && let Some(state) = kept.get_mut(&self.layers.len())
        {
            *state = self.final_norm(state)?;
        }
        Ok(wanted.iter().map(|i| kept[i].clone()).collect())
    }

    /// Returns the last loaded hidden state; for a whole decoder this is diffusers' `hidden_states[-1]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn last_hidden_state(&self, embeds: &Tensor, sequence: &Sequence) -> Result<Tensor> {
        let mut states = self.forward(embeds, sequence, &[self.layers.len()])?;
        Ok(states.pop().expect("one state was asked for. This is a bug."))
    }

    /// Looks up the token embeddings, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// An id is outside the vocabulary, or the device fails.
    pub fn embed(&self, input_ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(input_ids, self.embed_tokens.device())?;
        self.embed_tokens.index_select(&ids, 0)?.to_device(&self.device)?.to_dtype(self.activations)
    }

    /// Prepares a sequence of tokens at `positions`, the first `valid` of which are not padding.
    ///
    /// # Errors
    /// The device fails.
    pub fn sequence(&self, positions: &Positions, valid: usize) -> Result<Sequence> {
        let tokens = positions.tokens();
        let half = self.config.head_dim / 2;
        let axes = axes(self.config.mrope_section, half);
        // Computes in f32 like transformers: the exponent, the power, the angle.
        let theta = self.config.rope_theta as f32;
        let exponents = (0..half).map(|i| (2 * i) as f32 / self.config.head_dim as f32);
        let inv_freq: Vec<f32> = exponents.map(|exponent| 1.0 / theta.powf(exponent)).collect();
        let angles = tokens.iter().flat_map(|position| {
            inv_freq.iter().zip(&axes).map(move |(inv_freq, &axis)| position[axis] as f32 * inv_freq)
        });
        let angles = Tensor::from_iter(angles, &self.device)?.reshape((tokens.len(), half))?;
        Ok(Sequence { cos: angles.cos()?, sin: angles.sin()?, valid })
    }

    /// Returns the loaded layers in order, or nothing if they are streamed.
    pub fn layers(&self) -> &[DecoderLayer] {
        self.layers.as_slice()
    }

    /// Applies the norm after the last layer.
    ///
    /// # Errors
    /// The norm was not loaded, or the device fails.
    pub fn final_norm(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let Some(norm) = &self.norm else { bail!("the final norm is loaded only together with all layers") };
        rms_norm(hidden_states, norm, self.config.rms_norm_eps)
    }

    /// Returns the operations of the loaded layers, by tokens.
    pub fn flops(&self) -> Flops {
        let DecoderConfig { hidden_size, intermediate_size, head_dim, .. } = self.config;
        let (queries, keys) = (self.config.num_attention_heads * head_dim, self.config.num_key_value_heads * head_dim);
        // Query and output, key and value projections; gate, up and down projections.
        let weights = hidden_size * (2 * queries + 2 * keys + 3 * intermediate_size);
        (Flops::weights(weights) + Flops::causal_attention(queries)) * self.layers.len()
    }

    /// Returns the decoder's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }
}

/// Returns the position axis of each of a head's `half` frequencies.
fn axes(mrope_section: Option<[usize; 3]>, half: usize) -> Vec<usize> {
    let sections = mrope_section.unwrap_or([half, 0, 0]);
    sections.iter().enumerate().flat_map(|(axis, &length)| std::iter::repeat_n(axis, length)).collect()
}

/// A pre-norm block of attention and SwiGLU.
pub struct DecoderLayer {
    input_layernorm: Tensor,
    qkv_proj: Linear,
    /// RMSNorm weights of queries and keys.
    head_norms: Option<(Tensor, Tensor)>,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_up_proj: Linear,
    down_proj: Linear,
    config: DecoderConfig,
}

parameters!(DecoderLayer {
    input_layernorm,
    qkv_proj,
    head_norms,
    o_proj,
    post_attention_layernorm,
    gate_up_proj,
    down_proj,
});

impl DecoderLayer {
    fn load(config: &DecoderConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q_width, kv_width) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let (attention, mlp) = (scope.pp("self_attn"), scope.pp("mlp"));
        let head_norm = |name: &str| attention.norm_weight(config.head_dim, name);
        let head_norms = || Ok::<_, LoadError>((head_norm("q_norm.weight")?, head_norm("k_norm.weight")?));
        let qkv = ["q_proj", "k_proj", "v_proj"];
        Ok(DecoderLayer {
            input_layernorm: scope.norm_weight(hidden, "input_layernorm.weight")?,
            qkv_proj: attention.fused_linear(&qkv, hidden, &[q_width, kv_width, kv_width], config.qkv_bias)?,
            head_norms: config.qk_norm.then(head_norms).transpose()?,
            o_proj: attention.pp("o_proj").linear_no_bias(q_width, hidden)?,
            post_attention_layernorm: scope.norm_weight(hidden, "post_attention_layernorm.weight")?,
            gate_up_proj: mlp.fused_linear(&["gate_proj", "up_proj"], hidden, &[inner, inner], false)?,
            down_proj: mlp.pp("down_proj").linear_no_bias(inner, hidden)?,
            config: config.clone(),
        })
    }

    /// Maps `[tokens, hidden_size]` to the same shape.
    ///
    /// # Errors
    /// The sequence has another number of tokens, or the device fails.
    pub fn forward(&self, hidden_states: &Tensor, sequence: &Sequence) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps;
        let normed = rms_norm(hidden_states, &self.input_layernorm, eps)?;
        let hidden_states = (hidden_states + self.attention(&normed, sequence)?)?;
        let normed = rms_norm(&hidden_states, &self.post_attention_layernorm, eps)?;
        let mlp = self.down_proj.forward(&swiglu(&self.gate_up_proj.forward(&normed)?)?)?;
        hidden_states + mlp
    }

    fn attention(&self, hidden_states: &Tensor, sequence: &Sequence) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward(hidden_states)?;
        let eps = self.config.rms_norm_eps;
        let attention = CausalAttention {
            qkv: &qkv,
            norms: self.head_norms.as_ref().map(|(q, k)| HeadNorms { q, k, eps }),
            cos: &sequence.cos,
            sin: &sequence.sin,
            num_heads: self.config.num_attention_heads,
            num_kv_heads: self.config.num_key_value_heads,
            valid: sequence.valid,
        };
        self.o_proj.forward(&attention.forward()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_one_another() {
        assert_eq!(axes(Some([1, 2, 1]), 4), [0, 1, 1, 2]);
        assert_eq!(axes(None, 3), [0, 0, 0]);
    }
}
