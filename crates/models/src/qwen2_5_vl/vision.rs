//! The vision tower: encodes the patches of pictures to tokens of the language model.

use candle_core::{Device, Tensor, bail};
use kernels::{Layers, Linear, RowLayout, SelfAttention, check_interrupt, parameters, rms_norm, swiglu};

use super::config::VisionConfig;
use super::grid::{Grid, PatchLayout};
use crate::Result;
use crate::error::LoadError;
use crate::precision::Precision;
use crate::scope::Scope;

/// Epsilon of every RMSNorm in the tower.
const EPS: f64 = 1e-6;

/// Port of `Qwen2_5_VisionTransformerPretrainedModel`.
pub struct VisionTower {
    patch_embed: Linear,
    blocks: Layers<VisionBlock>,
    merger: PatchMerger,
    config: VisionConfig,
    precision: Precision,
}

impl VisionTower {
    /// Loads the tower from the text encoder's root, under either of its two names.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let visual = scope.pp("visual");
        let visual = if visual.has("patch_embed.proj.weight") { visual } else { scope.pp("model").pp("visual") };
        let (hidden, side) = (config.hidden_size, config.patch_size);
        // The convolution's stride equals its kernel, so it is a matrix product with each patch.
        let kernel = visual
            .get((hidden, config.in_channels, config.temporal_patch_size, side, side), "patch_embed.proj.weight")?;
        let kernel = visual.device(kernel.reshape((hidden, config.patch_len())))?;
        Ok(VisionTower {
            patch_embed: visual.device(Linear::new(&kernel, None))?,
            blocks: scope
                .layers(0, visual.list("blocks", config.depth)?.map(|block| VisionBlock::load(config, &block)))?,
            merger: PatchMerger::load(config, &visual.pp("merger"))?,
            config: config.clone(),
            precision: scope.precision().clone(),
        })
    }

    /// Encodes pictures to tokens, `[sum of rows * columns / 4, out_hidden_size]`: one picture after another, each row
    /// by row.
    ///
    /// `pixel_values` is `[sum of rows * columns, 1176]` as [`super::ImageProcessor`] makes it. `grids` holds each
    /// picture's rows and columns of patches.
    ///
    /// # Errors
    /// The number of patches does not match the grids, or the device fails.
    pub fn forward(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<Tensor> {
        self.check(pixel_values, grids)?;
        let layout = PatchLayout::new(&self.config, grids);
        let hidden_states = self.patch_embed(pixel_values)?;
        let hidden_states = self.window_order(&hidden_states, &layout)?;
        let (cos, sin) = self.rotary(&layout)?;
        let rope = (self.window_order(&cos, &layout)?, self.window_order(&sin, &layout)?);
        let hidden_states = (0..self.blocks.len())
            .try_fold(hidden_states, |hidden_states, i| self.block(i, &hidden_states, &rope, &layout))?;
        let merged = self.merger.forward(&hidden_states)?;
        let block_index = Tensor::new(layout.block_index(), merged.device())?;
        merged.index_select(&block_index, 0)
    }

    /// Embeds `[patches, 1176]` to `[patches, hidden_size]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn patch_embed(&self, pixel_values: &Tensor) -> Result<Tensor> {
        self.patch_embed.forward(&pixel_values.to_dtype(self.precision.activations)?)
    }

    /// Returns the cosines and sines of every patch's angles in block order, each `[patches, head_dim / 2]` in f32.
    /// Half of the angles depend on the row, half on the column.
    ///
    /// # Errors
    /// The device fails.
    pub fn rotary(&self, layout: &PatchLayout) -> Result<(Tensor, Tensor)> {
        let half = self.config.hidden_size / self.config.num_heads / 2;
        let theta = self.config.rope_theta as f32;
        let inv_freq: Vec<f32> = (0..half / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / half as f32)).collect();
        let axes = layout.positions.iter().flatten();
        let angles = axes.flat_map(|&position| inv_freq.iter().map(move |freq| position as f32 * freq));
        let angles = Tensor::from_iter(angles, &self.precision.device)?.reshape((layout.positions.len(), half))?;
        Ok((angles.cos()?, angles.sin()?))
    }

    /// Reorders the rows of a `[patches, width]` matrix to window order.
    ///
    /// # Errors
    /// The device fails.
    pub fn window_order(&self, patches: &Tensor, layout: &PatchLayout) -> Result<Tensor> {
        let index = Tensor::new(layout.window_patches(self.config.merge_unit()), patches.device())?;
        patches.index_select(&index, 0)
    }

    /// Runs block `i` on patches and `rope` in window order.
    ///
    /// # Errors
    /// The device fails.
    pub fn block(
        &self,
        i: usize,
        hidden_states: &Tensor,
        rope: &(Tensor, Tensor),
        layout: &PatchLayout,
    ) -> Result<Tensor> {
        check_interrupt()?;
        let whole = self.config.fullatt_block_indexes.contains(&i);
        let rows = if whole { &layout.pictures } else { &layout.windows };
        self.blocks.run(i, |block| block.forward(hidden_states, rope, rows))
    }

    /// Returns the module that merges patches into tokens.
    pub fn merger(&self) -> &PatchMerger {
        &self.merger
    }

    /// Returns the device of the weights.
    pub fn device(&self) -> &Device {
        &self.precision.device
    }

    /// Returns the tower's configuration.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    fn check(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<()> {
        let (patches, merge) =
            (grids.iter().map(|(rows, columns)| rows * columns).sum(), self.config.spatial_merge_size);
        if grids.is_empty()
            || grids.iter().any(|(rows, columns)| rows * columns == 0 || rows % merge + columns % merge != 0)
        {
            bail!("grids must be of whole blocks of {merge} x {merge} patches. Given: {grids:?}")
        }
        let expected = [patches, self.config.patch_len()];
        if pixel_values.dims() != expected {
            bail!("pixel_values must be {expected:?} for grids of {grids:?}. Given: {:?}", pixel_values.dims())
        }
        Ok(())
    }
}

/// A pre-norm block of attention and SwiGLU.
pub struct VisionBlock {
    norm1: Tensor,
    qkv: Linear,
    proj: Linear,
    norm2: Tensor,
    gate_up_proj: Linear,
    down_proj: Linear,
    num_heads: usize,
}

parameters!(VisionBlock { norm1, qkv, proj, norm2, gate_up_proj, down_proj });

impl VisionBlock {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (attention, mlp) = (scope.pp("attn"), scope.pp("mlp"));
        Ok(VisionBlock {
            norm1: scope.norm_weight(hidden, "norm1.weight")?,
            qkv: attention.pp("qkv").linear(hidden, 3 * hidden)?,
            proj: attention.pp("proj").linear(hidden, hidden)?,
            norm2: scope.norm_weight(hidden, "norm2.weight")?,
            gate_up_proj: mlp.fused_linear(&["gate_proj", "up_proj"], hidden, &[inner, inner], true)?,
            down_proj: mlp.pp("down_proj").linear(inner, hidden)?,
            num_heads: config.num_heads,
        })
    }

    /// Maps `[patches, hidden_size]` to the same shape. Patches attend within their row of `rows`.
    fn forward(&self, hidden_states: &Tensor, (cos, sin): &(Tensor, Tensor), rows: &RowLayout) -> Result<Tensor> {
        let qkv = self.qkv.forward(&rms_norm(hidden_states, &self.norm1, EPS)?)?;
        let attended = SelfAttention { qkv: &qkv, cos, sin, rows, num_heads: self.num_heads }.forward()?;
        let hidden_states = (hidden_states + self.proj.forward(&attended)?)?;
        let gate_up = self.gate_up_proj.forward(&rms_norm(&hidden_states, &self.norm2, EPS)?)?;
        hidden_states + self.down_proj.forward(&swiglu(&gate_up)?)?
    }
}

/// Merges each block of patches into one token.
pub struct PatchMerger {
    ln_q: Tensor,
    mlp: [Linear; 2],
    merge_unit: usize,
}

impl PatchMerger {
    fn load(config: &VisionConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let wide = config.hidden_size * config.merge_unit();
        let mlp = scope.pp("mlp");
        Ok(PatchMerger {
            ln_q: scope.norm_weight(config.hidden_size, "ln_q.weight")?,
            mlp: [mlp.pp(0).linear(wide, wide)?, mlp.pp(2).linear(wide, config.out_hidden_size)?],
            merge_unit: config.merge_unit(),
        })
    }

    /// Maps `[patches, hidden_size]` to `[patches / 4, out_hidden_size]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let (patches, hidden_size) = hidden_states.dims2()?;
        let normed = rms_norm(hidden_states, &self.ln_q, EPS)?;
        let blocks = normed.reshape((patches / self.merge_unit, self.merge_unit * hidden_size))?;
        self.mlp[1].forward(&self.mlp[0].forward(&blocks)?.gelu_erf()?)
    }
}
