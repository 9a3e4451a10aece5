//! Operation counts of Qwen-Image, from its configuration.

use super::conditioner::Conditioner;
use super::config::{TransformerConfig, VaeConfig};
use super::{edit_prompt, prompt};
use crate::flops::{Flops, ModelFlops, VaeFlops};

/// Counts the operations of a pipeline with these parts.
pub(super) fn flops(transformer: &TransformerConfig, vae: &VaeConfig, conditioner: &Conditioner) -> ModelFlops {
    let (decoder, vision, template_tokens) = match conditioner {
        Conditioner::Words(prompts) => (&prompts.language_model, Flops::default(), prompt::DROPPED_TOKENS),
        Conditioner::Pictures(editing) => {
            let prompts = &editing.prompts;
            (&prompts.decoder, prompts.vision.config().flops(), edit_prompt::DROPPED_TOKENS)
        }
    };
    let dim = transformer.dim();
    ModelFlops {
        blocks: vec![block(transformer)],
        image_token: Flops::weights(2 * transformer.in_channels * dim).linear,
        text_token: Flops::weights(transformer.joint_attention_dim * dim).linear,
        text_encoder: decoder.flops(),
        template_tokens,
        vision,
        vae_encoder: vae_encoder(vae),
        vae_decoder: vae_decoder(vae),
    }
}

/// Counts one block. Text and image have separate weights of equal number: query, key, value and output projections,
/// and a feed-forward network of four times the width inside.
pub(crate) fn block(config: &TransformerConfig) -> Flops {
    let dim = config.dim();
    Flops::weights((4 + 2 * 4) * dim * dim) + Flops::attention(dim)
}

/// Follows the structure of [`super::VaeDecoder`].
pub(crate) fn vae_decoder(config: &VaeConfig) -> Flops {
    let widths: Vec<usize> = config.dim_mult.iter().rev().map(|mult| mult * config.base_dim).collect();
    let (top, z_dim, last) = (widths[0], config.z_dim, widths.len() - 1);
    let mut flops = VaeFlops::default().conv(1, 1, z_dim, z_dim).conv(1, 3, z_dim, top).middle(top);
    for (i, &out) in widths.iter().enumerate() {
        let input = if i == 0 { top } else { widths[i - 1] / 2 };
        flops = flops.resnets(1 << i, config.num_res_blocks + 1, input, out);
        if i < last {
            flops = flops.conv(2 << i, 3, out, out / 2);
        }
    }
    flops.conv(1 << last, 3, widths[last], 3).by_tokens()
}

/// Follows the structure of [`super::VaeEncoder`].
fn vae_encoder(config: &VaeConfig) -> Flops {
    let widths: Vec<usize> = config.dim_mult.iter().map(|mult| mult * config.base_dim).collect();
    let (last, moments) = (widths.len() - 1, 2 * config.z_dim);
    let mut flops = VaeFlops::default().conv(1 << last, 3, 3, config.base_dim);
    for (i, &out) in widths.iter().enumerate() {
        let input = if i == 0 { config.base_dim } else { widths[i - 1] };
        flops = flops.resnets(1 << (last - i), config.num_res_blocks, input, out);
        if i < last {
            flops = flops.conv(1 << (last - i - 1), 3, out, out);
        }
    }
    flops.middle(widths[last]).conv(1, 3, widths[last], moments).conv(1, 1, moments, moments).by_tokens()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vae_decodes_a_megapixel_in_about_five_teraflops() {
        let config = VaeConfig {
            base_dim: 96,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            latents_mean: vec![0.0; 16],
            latents_std: vec![1.0; 16],
            attn_scales: Vec::new(),
            input_channels: 3,
        };
        let (decode, encode) = (vae_decoder(&config), vae_encoder(&config));
        // A token has 256 pixels of 96 channels with six convolutions, and so on down to four positions of 384
        // channels.
        assert!((4e12..5.5e12).contains(&decode.of(4096)), "{}", decode.of(4096));
        assert!((0.2..0.9).contains(&(encode.of(4096) / decode.of(4096))), "two residual blocks instead of three");
        // 16,384 positions attend to each other, at 4 * 384 operations per pair.
        let attention = decode.of(4096) - decode.linear * 4096.0;
        assert_eq!(attention, 4.0 * 384.0 * 16_384.0_f64.powi(2));
    }
}
