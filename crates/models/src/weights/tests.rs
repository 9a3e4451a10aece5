//! Weights from files, checked.

use super::*;

#[test]
fn layers_are_told_by_their_names() {
    for (name, layer) in [
        ("transformer_blocks.7.attn.to_out.0.weight", Some(("transformer_blocks", 7))),
        ("single_transformer_blocks.12.attn.to_out.weight", Some(("single_transformer_blocks", 12))),
        ("model.language_model.layers.3.mlp.up_proj.weight", Some(("model.language_model.layers", 3))),
        ("model.visual.blocks.0.norm1.weight", Some(("model.visual.blocks", 0))),
        ("visual.merger.mlp.0.weight", None),
        ("model.embed_tokens.weight", None),
        ("time_text_embed.timestep_embedder.linear_1.bias", None),
    ] {
        assert_eq!(layer_of(name), layer, "{name}");
    }
}
