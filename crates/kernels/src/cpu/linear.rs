//! Weights packed into panels, and the product with them.
//!
//! Half-precision weights keep their type in memory and are widened a panel at a time. Sums are f32.

use std::ops::Range;

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::gemm::{Epilogue, Finish, Left, Output, PANEL, Right, Size, finish, tile};
use super::parallel::{SharedMut, split};
use super::simd::{Simd, vectorized};
use crate::Watch;

/// Work, in multiply-adds, below which a product is not worth a second thread.
pub(super) const MIN_PARALLEL: usize = 200_000;
/// The number of rows from which the left operand is packed too, if it is also larger than [`MIN_TALL`].
const MIN_TALL_ROWS: usize = 48;
/// The size of a left operand, in floats, that no longer fits the caches near a core.
const MIN_TALL: usize = 1 << 16;

/// The weight of a linear map as panels of 16 outputs, `[out / 16][in][16]`, the last panel padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct PanelLinear {
    in_features: usize,
    out_features: usize,
    panels: Panels,
    bias: Vec<[f32; PANEL]>,
}

#[derive(Clone, Debug)]
enum Panels {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl PanelLinear {
    /// Packs `[out, in]` weights, stacked one below the other. `None` unless they are in host memory and of one float
    /// type of at most 32 bits.
    pub(crate) fn new(weights: &[Tensor], bias: &[f32]) -> Result<Option<PanelLinear>> {
        let in_features = weights[0].dim(1)?;
        let out_features = weights.iter().map(|weight| weight.dims()[0]).sum();
        let panels = match weights[0].dtype() {
            _ if !weights.iter().all(|weight| weight.device().is_cpu()) => return Ok(None),
            DType::F32 => Panels::F32(pack(weights, in_features)?),
            DType::BF16 => Panels::Bf16(pack(weights, in_features)?),
            DType::F16 => Panels::F16(pack(weights, in_features)?),
            _ => return Ok(None),
        };
        let mut padded = vec![[0.0; PANEL]; usize::div_ceil(out_features, PANEL)];
        padded.as_flattened_mut()[..bias.len()].copy_from_slice(bias);
        Ok(Some(PanelLinear { in_features, out_features, panels, bias: padded }))
    }

    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    /// The `[out, in]` weight as it was given, and the bias.
    pub(crate) fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let shape = (self.out_features, self.in_features);
        let weight = match &self.panels {
            Panels::F32(panels) => Tensor::from_vec(unpack(panels, shape), shape, &Device::Cpu)?,
            Panels::Bf16(panels) => Tensor::from_vec(unpack(panels, shape), shape, &Device::Cpu)?,
            Panels::F16(panels) => Tensor::from_vec(unpack(panels, shape), shape, &Device::Cpu)?,
        };
        let bias = Tensor::new(&self.bias.as_flattened()[..self.out_features], &Device::Cpu)?;
        Ok((weight, bias))
    }

    /// `[tokens, in]` to `[tokens, out]`. If the work is interrupted, the result is incomplete or empty.
    pub(super) fn forward<S: Simd>(&self, s: S, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        cut_to(self.out_features, epilogue, |epilogue| self.padded_forward(s, x, epilogue))
    }

    /// The product with the columns of all panels. Empty if the work is interrupted.
    fn padded_forward<S: Simd>(&self, s: S, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        let columns = self.bias.len() * PANEL;
        let tokens = x.len() / self.in_features;
        assert_eq!(x.len(), tokens * self.in_features, "rows of x are whole. This is a bug.");
        let mut out = Vec::with_capacity(tokens * columns);
        let product = Product { set: s, weights: self, x, tokens, columns, epilogue, out: SharedMut::spare(&mut out) };
        let (watch, work) = (Watch::current(), tokens * columns * self.in_features);
        if tokens >= MIN_TALL_ROWS && x.len() >= MIN_TALL {
            let block_rows = block_rows::<S>(tokens, rayon::current_num_threads());
            (0..tokens.div_ceil(block_rows)).into_par_iter().for_each(|block| {
                if watch.is_set() {
                    return;
                }
                let rows = block * block_rows..tokens.min((block + 1) * block_rows);
                // SAFETY: no two blocks share a row.
                vectorized!(s, unsafe { product.tall_block(rows) });
            });
        } else {
            let groups = self.bias.len().div_ceil(S::TILE.panels);
            let min_groups = if work < MIN_PARALLEL { groups } else { 1 };
            split(groups, min_groups, &|groups| {
                let panels = groups.start * S::TILE.panels..self.bias.len().min(groups.end * S::TILE.panels);
                // SAFETY: no two ranges share a column.
                vectorized!(s, unsafe { product.columns(panels) });
            });
        }
        if watch.is_set() {
            // Some blocks may be missing.
            return Vec::new();
        }
        // SAFETY: the rows of all blocks, or the columns of all panels, are the whole result, and no block ended early.
        unsafe { out.set_len(tokens * columns) };
        out
    }

    /// Rows `from` to `from + len` of some panels, widened into `scratch` unless they are f32.
    #[inline(always)]
    fn part<S: Simd>(&self, s: S, panels: Range<usize>, from: usize, len: usize, scratch: &mut Vec<f32>) -> Right {
        let start = |panel: usize| (panel * self.in_features + from) * PANEL;
        if let Panels::F32(numbers) = &self.panels {
            return Right { start: numbers[start(panels.start)..].as_ptr(), stride: self.in_features * PANEL };
        }
        scratch.resize(panels.len() * len * PANEL, 0.0);
        for (panel, wide) in panels.zip(scratch.chunks_exact_mut(len * PANEL)) {
            let range = start(panel)..start(panel) + len * PANEL;
            match &self.panels {
                Panels::F32(numbers) => wide.copy_from_slice(&numbers[range]),
                Panels::Bf16(numbers) => s.widen_bf16(&numbers[range], wide),
                Panels::F16(numbers) => s.widen_f16(&numbers[range], wide),
            }
        }
        Right { start: scratch.as_ptr(), stride: len * PANEL }
    }

    /// Prefetches one share of a part of a panel.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, panel: usize, from: usize, len: usize, (share, shares): (usize, usize)) {
        let (start, size) = match &self.panels {
            Panels::F32(panels) => (panels.as_ptr().cast::<u8>(), size_of::<f32>()),
            Panels::Bf16(panels) => (panels.as_ptr().cast::<u8>(), size_of::<bf16>()),
            Panels::F16(panels) => (panels.as_ptr().cast::<u8>(), size_of::<f16>()),
        };
        let bytes = len * PANEL * size;
        let offset = (panel * self.in_features + from) * PANEL * size;
        for byte in (bytes * share / shares..bytes * (share + 1) / shares).step_by(64) {
            s.prefetch(start.wrapping_add(offset + byte));
        }
    }
}

/// A product in progress.
struct Product<'a, S> {
    set: S,
    weights: &'a PanelLinear,
    x: &'a [f32],
    tokens: usize,
    columns: usize,
    epilogue: Epilogue<'a>,
    out: SharedMut,
}

/// The position of a tile in a product.
struct OutputTile {
    row: usize,
    rows: usize,
    panels: Range<usize>,
    k: Range<usize>,
}

impl<S: Simd> Product<'_, S> {
    /// Computes the columns of some panels. The left operand is read in place.
    ///
    /// # Safety
    /// No other thread writes these columns.
    #[inline(always)]
    unsafe fn columns(&self, panels: Range<usize>) {
        let in_features = self.weights.in_features;
        let block = even_block(in_features, S::TILE.short_k);
        let mut scratch = Vec::new();
        for panel in panels.clone().step_by(S::TILE.panels) {
            let panels = panel..panels.end.min(panel + S::TILE.panels);
            for from in (0..in_features).step_by(block) {
                let len = block.min(in_features - from);
                let weights = self.weights.part(self.set, panels.clone(), from, len, &mut scratch);
                for row in (0..self.tokens).step_by(S::TILE.rows) {
                    let start = self.x[row * in_features + from..].as_ptr();
                    let left = Left { start, row_stride: in_features, stride: 1 };
                    let rows = S::TILE.rows.min(self.tokens - row);
                    let place = OutputTile { row, rows, panels: panels.clone(), k: from..from + len };
                    // SAFETY: x has `rows` rows from `row` on, each with `len` numbers from `from` on.
                    unsafe { self.tile(place, left, weights) };
                }
            }
        }
    }

    /// Computes some rows of the result. The left operand is packed so that a tile reads it in order.
    ///
    /// # Safety
    /// No other thread writes these rows.
    #[inline(always)]
    unsafe fn tall_block(&self, rows: Range<usize>) {
        let (in_features, tile_rows) = (self.weights.in_features, S::TILE.rows);
        let block = even_block(in_features, S::TILE.tall_k);
        let num_panels = self.weights.bias.len();
        let strips = rows.len().div_ceil(tile_rows);
        let (mut scratch, mut packed) = (Vec::new(), vec![0.0; strips * tile_rows * block]);
        for from in (0..in_features).step_by(block) {
            let len = block.min(in_features - from);
            self.pack_left(rows.clone(), from..from + len, &mut packed);
            for panel in (0..num_panels).step_by(S::TILE.panels) {
                let panels = panel..num_panels.min(panel + S::TILE.panels);
                let next = panels.end..num_panels.min(panels.end + S::TILE.panels);
                let weights = self.weights.part(self.set, panels.clone(), from, len, &mut scratch);
                for (index, left) in packed.chunks_exact(tile_rows * len).take(strips).enumerate() {
                    for panel in next.clone() {
                        self.weights.prefetch(self.set, panel, from, len, (index, strips));
                    }
                    let row = rows.start + index * tile_rows;
                    let left = Left { start: left.as_ptr(), row_stride: 1, stride: tile_rows };
                    let num_rows = tile_rows.min(rows.end - row);
                    let place = OutputTile { row, rows: num_rows, panels: panels.clone(), k: from..from + len };
                    // SAFETY: a packed strip holds a tile's rows, `len` numbers each.
                    unsafe { self.tile(place, left, weights) };
                }
            }
        }
    }

    /// Packs rows as `[strip][k][rows of a tile]`. The part after the last row is left as it is.
    #[inline(always)]
    fn pack_left(&self, rows: Range<usize>, k: Range<usize>, packed: &mut [f32]) {
        let (first, tile_rows) = (rows.start, S::TILE.rows);
        for row in rows {
            let (index, lane) = ((row - first) / tile_rows, (row - first) % tile_rows);
            let x = &self.x[row * self.weights.in_features..][k.clone()];
            let strip = &mut packed[index * tile_rows * k.len()..][..tile_rows * k.len()];
            strip.iter_mut().skip(lane).step_by(tile_rows).zip(x).for_each(|(to, x)| *to = *x);
        }
    }

    /// Adds a part of the sums of one tile.
    ///
    /// # Safety
    /// No other thread writes there, and `left` holds the rows.
    #[inline(always)]
    unsafe fn tile(&self, place: OutputTile, left: Left, weights: Right) {
        let OutputTile { row, rows, panels, k } = place;
        let column = panels.start * PANEL;
        let span = (rows - 1) * self.columns + panels.len() * PANEL;
        let size = Size { rows, panels: panels.len(), k: k.len() };
        // SAFETY: row and column lie inside the result. The caller promises the rest.
        unsafe {
            let out = Output { start: self.out.at(row * self.columns + column, span), row_stride: self.columns };
            tile(self.set, size, left, weights, out, k.start == 0);
            if k.end == self.weights.in_features {
                let bias = self.weights.bias[panels].as_flattened();
                let end = Finish { bias, epilogue: self.epilogue, row, column, columns: self.columns };
                finish(self.set, rows, out, &end);
            }
        }
    }
}

/// The `[tokens, out_features]` result of a product that computes whole panels.
///
/// Columns past `out_features` are cut off. Operands with the shape of the result (residual and gate) are applied after
/// that.
pub(super) fn cut_to(
    out_features: usize,
    epilogue: Epilogue<'_>,
    product: impl FnOnce(Epilogue<'_>) -> Vec<f32>,
) -> Vec<f32> {
    if out_features.is_multiple_of(PANEL) {
        return product(epilogue);
    }
    let padded = product(if let Epilogue::Gated { .. } = epilogue { Epilogue::None } else { epilogue });
    let rows = padded.chunks_exact(out_features.next_multiple_of(PANEL));
    let mut out: Vec<f32> = rows.flat_map(|row| &row[..out_features]).copied().collect();
    if let Epilogue::Gated { residual, gate, gate_offsets } = epilogue {
        let rows = out.chunks_exact_mut(out_features).zip(residual.chunks_exact(out_features));
        for ((row, residual), &offset) in rows.zip(gate_offsets) {
            for ((x, residual), gate) in row.iter_mut().zip(residual).zip(&gate[offset..]) {
                *x = *x * gate + residual;
            }
        }
    }
    out
}

/// Rows per block, chosen so that every thread has the same number of blocks.
fn block_rows<S: Simd>(tokens: usize, threads: usize) -> usize {
    let blocks = tokens.div_ceil(S::TILE.tall_rows).next_multiple_of(threads);
    tokens.div_ceil(blocks).next_multiple_of(S::TILE.rows)
}

/// The block size that splits `n` into the fewest equal blocks of at most `most`.
pub(super) fn even_block(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most))
}

/// Calls `work` with the rows of contiguous `[out, in]` weights in host memory, stacked one below the other.
pub(super) fn with_rows<T: WithDType, R>(
    weights: &[Tensor],
    in_features: usize,
    work: impl FnOnce(&[&[T]]) -> R,
) -> Result<R> {
    let storages: Vec<_> = weights.iter().map(Tensor::storage_and_layout).collect();
    let mut rows = Vec::new();
    for (storage, layout) in &storages {
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("weight must be contiguous") };
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("weight must lie in host memory") };
        rows.extend(T::cpu_storage_as_slice(storage)?[start..end].chunks_exact(in_features));
    }
    Ok(work(&rows))
}

fn pack<T: WithDType + Default>(weights: &[Tensor], in_features: usize) -> Result<Vec<T>> {
    with_rows(weights, in_features, |rows: &[&[T]]| {
        let mut panels = vec![T::default(); rows.len().div_ceil(PANEL) * PANEL * in_features];
        panels.par_chunks_mut(PANEL * in_features).zip(rows.par_chunks(PANEL)).for_each(|(panel, rows)| {
            // In parts that stay in the first-level cache while sixteen rows are interleaved into them.
            for (part, from) in panel.chunks_mut(PANEL * 64).zip((0..).step_by(64)) {
                for (column, row) in rows.iter().enumerate() {
                    part.iter_mut().skip(column).step_by(PANEL).zip(&row[from..]).for_each(|(to, x)| *to = *x);
                }
            }
        });
        panels
    })
}

fn unpack<T: WithDType + Default>(panels: &[T], (out_features, in_features): (usize, usize)) -> Vec<T> {
    let mut weight = vec![T::default(); out_features * in_features];
    for (column, row) in weight.chunks_exact_mut(in_features).enumerate() {
        let panel = &panels[column / PANEL * PANEL * in_features..];
        row.iter_mut().zip(panel.iter().skip(column % PANEL).step_by(PANEL)).for_each(|(to, x)| *to = *x);
    }
    weight
}
