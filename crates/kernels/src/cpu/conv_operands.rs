//! Operands of a 3x3 convolution: packed weights and a picture.

use std::sync::OnceLock;

use super::gemm::PANEL;
use super::group_norm::Affine;

/// Weights as panels of 16 output channels, `[out / 16][ky][kx * in + i][16]`, the last panel padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct PanelConv {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) panels: Vec<f32>,
    pub(super) bias: Vec<[f32; PANEL]>,
    /// The same weights after the Winograd transform, four times as large. Computed at the first use.
    pub(super) winograd: OnceLock<Vec<f32>>,
}

/// The operation on a picture as it enters a convolution.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// No operation.
    Plain,
    /// `silu(channel_norm(x, gamma))`
    NormSilu(&'a [f32]),
    /// `silu((x - mean) * scale + bias)`
    AffineSilu(&'a Affine),
    /// Nearest-neighbour upsampling to twice the height and the width.
    Upsampled,
}

/// The input of a convolution. `height` and `width` are those that the convolution sees.
#[derive(Clone, Copy)]
pub(super) struct InputPlanes<'a> {
    pub(super) pixels: &'a [f32],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) input: Input<'a>,
}

impl PanelConv {
    /// Packs `[out, in, 3, 3]` weights and an `[out]` bias.
    pub(crate) fn new(weight: &[f32], bias: &[f32], in_channels: usize) -> PanelConv {
        let out_channels = bias.len();
        let mut padded = vec![[0.0; PANEL]; out_channels.div_ceil(PANEL)];
        padded.as_flattened_mut()[..out_channels].copy_from_slice(bias);
        let mut panels = vec![0.0; padded.len() * 9 * in_channels * PANEL];
        for (out_channel, weight) in weight.chunks_exact(9 * in_channels).enumerate() {
            let panel = &mut panels[out_channel / PANEL * 9 * in_channels * PANEL..];
            for (in_channel, weight) in weight.chunks_exact(9).enumerate() {
                for (place, weight) in weight.iter().enumerate() {
                    panel[(place * in_channels + in_channel) * PANEL + out_channel % PANEL] = *weight;
                }
            }
        }
        PanelConv { in_channels, out_channels, panels, bias: padded, winograd: OnceLock::new() }
    }

    /// The weights and the bias as they were given.
    pub(crate) fn unpack(&self) -> (Vec<f32>, Vec<f32>) {
        let in_channels = self.in_channels;
        let weight = (0..self.out_channels * in_channels * 9).map(|index| {
            let (out_channel, in_channel, place) = (index / 9 / in_channels, index / 9 % in_channels, index % 9);
            let panel = &self.panels[out_channel / PANEL * 9 * in_channels * PANEL..];
            panel[(place * in_channels + in_channel) * PANEL + out_channel % PANEL]
        });
        (weight.collect(), self.bias.as_flattened()[..self.out_channels].to_vec())
    }

    pub(crate) fn in_channels(&self) -> usize {
        self.in_channels
    }

    pub(crate) fn out_channels(&self) -> usize {
        self.out_channels
    }
}
