//! The published models that can be imitated: their checkpoints' files, without the weights.

use std::borrow::Cow;

use models::{Checkpoint, FAMILIES, PublishedModel};
use serde_json::{Value, json};

/// A published model that can be imitated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Model {
    #[value(name = "flux2-klein-4b")]
    Klein4B,
    #[value(name = "flux2-klein-9b")]
    Klein9B,
    #[value(name = "qwen-image")]
    QwenImage,
    /// A model of Qwen-Image's classes, small enough for a test to build all of it.
    #[value(name = "qwen-image-tiny", hide = true)]
    TinyQwenImage,
    /// A small model of FLUX.2-klein's classes.
    #[value(name = "flux2-klein-tiny", hide = true)]
    TinyKlein,
}

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    QwenImage,
    Klein,
}

/// Widths and depth of a text decoder. `heads` are those of queries and of keys.
struct TextEncoder {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    heads: (usize, usize),
    head_dim: usize,
    vocab_size: usize,
}

/// A transformer's heads, and the number of blocks in each list.
struct Transformer {
    num_attention_heads: usize,
    attention_head_dim: usize,
    blocks: Vec<usize>,
}

/// Rows of an embedding that is not timed: enough for the tokenizer's tokens, without the gigabytes of the true one.
const SMALL_VOCABULARY: usize = 4096;

impl Model {
    pub(super) fn family(self) -> Family {
        match self {
            Model::QwenImage | Model::TinyQwenImage => Family::QwenImage,
            Model::Klein4B | Model::Klein9B | Model::TinyKlein => Family::Klein,
        }
    }

    /// The published model; for a tiny one, the model whose steps and guidance it uses.
    pub(super) fn published(self) -> &'static PublishedModel {
        let id = match self {
            Model::Klein4B | Model::TinyKlein => "black-forest-labs/FLUX.2-klein-4B",
            Model::Klein9B => "black-forest-labs/FLUX.2-klein-9B",
            Model::QwenImage | Model::TinyQwenImage => "Qwen/Qwen-Image",
        };
        let mut models = FAMILIES.iter().flat_map(|family| family.models);
        models.find(|model| model.id == id).expect("the model is a published one. This is a bug.")
    }

    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Model::TinyQwenImage => "qwen-image-tiny",
            Model::TinyKlein => "flux2-klein-tiny",
            _ => self.published().id,
        }
    }

    /// The name of each list of blocks, and its number of blocks.
    pub(super) fn segments(self) -> Vec<(&'static str, usize)> {
        let published = self.published().segments.iter().map(|(name, _)| *name);
        published.zip(self.transformer().blocks).collect()
    }

    /// Number of layers of the text encoder that run.
    pub(super) fn text_layers(self) -> usize {
        match self.family() {
            Family::QwenImage => self.text_encoder().num_hidden_layers,
            Family::Klein => 27,
        }
    }

    /// A checkpoint with made-up weights: of the whole model, or with `layers` blocks of each list, `layers` layers of
    /// the text encoder and a small embedding.
    pub(super) fn checkpoint(self, layers: Option<usize>) -> Checkpoint {
        let files = match self.family() {
            Family::QwenImage => self.qwen_image(layers),
            Family::Klein => self.klein(layers),
        };
        let files = files.into_iter().map(|(path, json)| (path, Cow::Owned(json.to_string().into_bytes())));
        // The built-in model's tokenizer splits the prompt's template like Qwen's.
        let tokenizer = demo::FILES.iter().filter(|file| file.path.starts_with("tokenizer/"));
        Checkpoint::MadeUp(files.chain(tokenizer.map(|file| (file.path, Cow::Borrowed(file.bytes)))).collect())
    }

    fn text_encoder(self) -> TextEncoder {
        let [hidden_size, intermediate_size, num_hidden_layers, heads, kv_heads, head_dim, vocab_size] = match self {
            Model::QwenImage => [3584, 18944, 28, 28, 4, 128, 152_064],
            Model::Klein4B => [2560, 9728, 36, 32, 8, 128, 151_936],
            Model::Klein9B => [4096, 12288, 36, 32, 8, 128, 151_936],
            Model::TinyQwenImage => [64, 64, 3, 4, 2, 16, SMALL_VOCABULARY],
            Model::TinyKlein => [32, 40, 28, 4, 2, 16, SMALL_VOCABULARY],
        };
        let heads = (heads, kv_heads);
        TextEncoder { hidden_size, intermediate_size, num_hidden_layers, heads, head_dim, vocab_size }
    }

    fn transformer(self) -> Transformer {
        let (num_attention_heads, attention_head_dim, blocks) = match self {
            Model::QwenImage => (24, 128, vec![60]),
            Model::Klein4B => (24, 128, vec![5, 20]),
            Model::Klein9B => (32, 128, vec![8, 24]),
            Model::TinyQwenImage => (2, 16, vec![6]),
            Model::TinyKlein => (3, 16, vec![2, 4]),
        };
        Transformer { num_attention_heads, attention_head_dim, blocks }
    }

    /// `text_encoder/config.json`. A text encoder with few layers also has a small embedding.
    fn text_config(self, model_type: &str, layers: Option<usize>) -> Value {
        let text = self.text_encoder();
        json!({
            "model_type": model_type,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": layers.unwrap_or(text.num_hidden_layers),
            "num_attention_heads": text.heads.0,
            "num_key_value_heads": text.heads.1,
            "head_dim": text.head_dim,
            "vocab_size": if layers.is_some() { SMALL_VOCABULARY } else { text.vocab_size },
            "rope_theta": 1e6,
        })
    }

    fn qwen_image(self, layers: Option<usize>) -> Vec<(&'static str, Value)> {
        let transformer = self.transformer();
        let head_dim = transformer.attention_head_dim;
        let mut text = self.text_config("qwen2_5_vl", layers);
        let half = self.text_encoder().head_dim / 2;
        text["rope_scaling"] = json!({"type": "mrope", "mrope_section": [half / 4, half * 3 / 8, half * 3 / 8]});
        vec![
            ("model_index.json", json!({"_class_name": "QwenImagePipeline"})),
            (
                "scheduler/scheduler_config.json",
                json!({
                    "_class_name": SCHEDULER, "use_dynamic_shifting": true, "base_shift": 0.5, "max_shift": 0.9,
                    "base_image_seq_len": 256, "max_image_seq_len": 8192, "shift_terminal": 0.02,
                }),
            ),
            ("text_encoder/config.json", text),
            (
                "transformer/config.json",
                json!({
                    "_class_name": "QwenImageTransformer2DModel",
                    "num_layers": layers.unwrap_or(transformer.blocks[0]),
                    "num_attention_heads": transformer.num_attention_heads,
                    "attention_head_dim": head_dim,
                    "joint_attention_dim": self.text_encoder().hidden_size,
                    "axes_dims_rope": if head_dim == 128 { [16, 56, 56] } else { [4, 6, 6] },
                }),
            ),
            (
                "vae/config.json",
                json!({
                    "_class_name": "AutoencoderKLQwenImage", "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
                    "base_dim": if self == Model::QwenImage { 96 } else { 8 },
                    "latents_mean": vec![0.0; 16], "latents_std": vec![1.0; 16],
                }),
            ),
        ]
    }

    fn klein(self, layers: Option<usize>) -> Vec<(&'static str, Value)> {
        let transformer = self.transformer();
        let head_dim = transformer.attention_head_dim;
        let is_tiny = self == Model::TinyKlein;
        vec![
            ("model_index.json", json!({"_class_name": "Flux2KleinPipeline", "is_distilled": true})),
            (
                "scheduler/scheduler_config.json",
                json!({"_class_name": SCHEDULER, "use_dynamic_shifting": true, "shift": 3.0}),
            ),
            ("text_encoder/config.json", self.text_config("qwen3", layers)),
            (
                "transformer/config.json",
                json!({
                    "_class_name": "Flux2Transformer2DModel",
                    "num_layers": layers.unwrap_or(transformer.blocks[0]),
                    "num_single_layers": layers.unwrap_or(transformer.blocks[1]),
                    "num_attention_heads": transformer.num_attention_heads,
                    "attention_head_dim": head_dim,
                    "joint_attention_dim": 3 * self.text_encoder().hidden_size,
                    "axes_dims_rope": vec![head_dim / 4; 4],
                    "guidance_embeds": false,
                }),
            ),
            (
                "vae/config.json",
                json!({
                    "_class_name": "AutoencoderKLFlux2",
                    "block_out_channels": if is_tiny { [8, 8, 16, 16] } else { [128, 256, 512, 512] },
                    "norm_num_groups": if is_tiny { 4 } else { 32 },
                }),
            ),
        ]
    }
}

const SCHEDULER: &str = "FlowMatchEulerDiscreteScheduler";

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use models::{flux2, qwen_decoder, qwen_image};

    use super::*;

    #[test]
    fn every_model_has_the_blocks_that_are_published() {
        for model in [Model::Klein4B, Model::Klein9B, Model::QwenImage] {
            assert_eq!(model.segments(), model.published().segments, "{model:?}");
        }
    }

    /// The files have the published shapes. With these widths, for example, Qwen-Image's blocks and embeddings have
    /// 20.43 B parameters.
    #[test]
    fn the_files_are_of_the_published_shapes() {
        let checkpoint = Model::QwenImage.checkpoint(None);
        assert_eq!(qwen_image::TransformerConfig::load(&checkpoint).unwrap(), qwen_image::TransformerConfig::default());
        let text = qwen_decoder::DecoderConfig::load(&checkpoint, "text_encoder").unwrap();
        assert_eq!((text.head_dim, text.mrope_section), (128, Some([16, 24, 24])));
        let checkpoint = Model::Klein9B.checkpoint(None);
        let transformer = flux2::TransformerConfig::load(&checkpoint).unwrap();
        assert_eq!((transformer.dim(), transformer.joint_attention_dim), (4096, 12288));
        assert_eq!(flux2::VaeConfig::load(&checkpoint).unwrap(), flux2::VaeConfig::default());
    }

    #[test]
    fn fewer_layers_are_fewer_everywhere() {
        for model in Model::value_variants() {
            let checkpoint = model.checkpoint(Some(2));
            let text = qwen_decoder::DecoderConfig::load(&checkpoint, "text_encoder").unwrap();
            assert_eq!((text.num_hidden_layers, text.vocab_size), (2, SMALL_VOCABULARY), "{model:?}");
            assert!(model.text_layers() > 2, "{model:?}");
        }
    }
}
