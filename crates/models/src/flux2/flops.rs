//! Operation counts of FLUX.2-klein, from its configuration.

use super::config::TransformerConfig;
use super::prompt::PromptEncoder;
use super::vae::VaeConfig;
use crate::flops::{Flops, ModelFlops, VaeFlops};

/// Counts the operations of a pipeline with these parts.
pub(super) fn flops(transformer: &TransformerConfig, vae: &VaeConfig, prompts: &PromptEncoder) -> ModelFlops {
    let dim = transformer.dim();
    ModelFlops {
        blocks: blocks(transformer),
        image_token: Flops::weights(2 * transformer.in_channels * dim).linear,
        text_token: Flops::weights(transformer.joint_attention_dim * dim).linear,
        text_encoder: prompts.decoder.flops(),
        template_tokens: 0,
        vision: Flops::default(),
        vae_encoder: vae_encoder(vae),
        vae_decoder: vae_decoder(vae),
    }
}

/// Counts one dual-stream and one single-stream block. A token passes equally many weights in both.
pub(crate) fn blocks(config: &TransformerConfig) -> Vec<Flops> {
    let (dim, inner) = (config.dim(), config.mlp_hidden_dim());
    // Query, key, value and output projections; gate, up and down projections.
    let block = Flops::weights((4 * dim + 3 * inner) * dim) + Flops::attention(dim);
    vec![block; 2]
}

/// Follows the structure of [`super::vae::VaeDecoder`].
fn vae_decoder(config: &VaeConfig) -> Flops {
    let widths: Vec<usize> = config.decoder_widths().iter().rev().copied().collect();
    let (channels, last) = (config.latent_channels, widths.len() - 1);
    let flops = VaeFlops::default().conv(1, 1, channels, channels).conv(1, 3, channels, widths[0]);
    let mut flops = flops.middle(widths[0]);
    for (i, &out) in widths.iter().enumerate() {
        flops = flops.resnets(1 << i, config.layers_per_block + 1, widths[i.saturating_sub(1)], out);
        if i < last {
            flops = flops.conv(2 << i, 3, out, out);
        }
    }
    flops.conv(1 << last, 3, widths[last], 3).by_tokens()
}

/// Follows the structure of [`super::vae::VaeEncoder`].
fn vae_encoder(config: &VaeConfig) -> Flops {
    let (widths, moments) = (&config.block_out_channels, 2 * config.latent_channels);
    let last = widths.len() - 1;
    let mut flops = VaeFlops::default().conv(1 << last, 3, 3, widths[0]);
    for (i, &out) in widths.iter().enumerate() {
        flops = flops.resnets(1 << (last - i), config.layers_per_block, widths[i.saturating_sub(1)], out);
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
    fn a_published_block_has_the_operations_of_its_weights() {
        // klein-4B: width 3072, three times that in the feed-forward network.
        let config = TransformerConfig { num_attention_heads: 24, ..TransformerConfig::default() };
        let [dual, single] = blocks(&config)[..] else { panic!("two segments") };
        assert_eq!((dual.linear, dual), (2.0 * 13.0 * 3072.0 * 3072.0, single));
        assert_eq!(dual.quadratic, 4.0 * 3072.0);
    }

    #[test]
    fn the_published_vae_takes_half_the_operations_to_encode() {
        let config = VaeConfig::default();
        let (decode, encode) = (vae_decoder(&config), vae_encoder(&config));
        // Stable Diffusion's VAE decoder has the same widths. It is known to take 1.2 tera multiply-adds at 512x512.
        let at_512 = decode.linear * 1024.0;
        assert!((2.3e12..2.7e12).contains(&at_512), "{at_512}");
        assert!((0.3..0.6).contains(&(encode.linear / decode.linear)));
    }
}
