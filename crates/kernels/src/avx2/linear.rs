//! Weights packed into panels, and the product with them.
//!
//! Half-precision weights stay so in memory and are widened a panel at a time; sums are f32.

use std::arch::x86_64::{
    __m128i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_slli_epi32, _mm256_storeu_ps,
};
use std::ops::Range;

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::Avx2;
use super::gemm::{Finish, Left, Output, PANEL, STRIP, strip};
use super::parallel::{SharedMut, split};
use crate::Watch;
use crate::linear::Epilogue;

/// Multiply-adds below which a product is not worth a second thread.
const MIN_PARALLEL: usize = 200_000;
/// Rows from which the left operand is packed too, if it is also larger than [`MIN_TALL`].
const MIN_TALL_ROWS: usize = 48;
/// Floats of a left operand that the caches near a core no longer hold.
const MIN_TALL: usize = 1 << 16;
/// Most rows of a packed left operand.
const BLOCK_ROWS: usize = 144;
/// Longest part of a sum in one go: what keeps a panel in the first-level cache.
const SHORT_BLOCK_K: usize = 512;
const TALL_BLOCK_K: usize = 320;

/// The weight of a linear map as panels of 16 outputs, `[out / 16][in][16]`, the last one
/// filled up with zeros. There are none without AVX2.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
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

impl Packed {
    /// Packs `[out, in]` weights, one below the other. `None` if they are not of one float
    /// type of at most 32 bits, in host memory.
    pub(crate) fn new(_: Avx2, weights: &[Tensor], bias: &[f32]) -> Result<Option<Packed>> {
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
        Ok(Some(Packed { in_features, out_features, panels, bias: padded }))
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

    /// `[tokens, in]` to `[tokens, out]`; nothing, or not all of it, once the work is interrupted.
    pub(crate) fn forward(&self, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        if self.out_features.is_multiple_of(PANEL) {
            return self.padded_forward(x, epilogue);
        }
        // The last panel sticks out: it is computed whole and cut off, and what is read at
        // the places of the result (residual and gate) is added after that.
        let during = if let Epilogue::Gated { .. } = epilogue { Epilogue::None } else { epilogue };
        let padded = self.padded_forward(x, during);
        let rows = padded.chunks_exact(self.bias.len() * PANEL);
        let mut out: Vec<f32> = rows.flat_map(|row| &row[..self.out_features]).copied().collect();
        if let Epilogue::Gated { residual, gate, gate_offsets } = epilogue {
            let rows = out.chunks_exact_mut(self.out_features).zip(residual.chunks_exact(self.out_features));
            for ((row, residual), &offset) in rows.zip(gate_offsets) {
                for ((x, residual), gate) in row.iter_mut().zip(residual).zip(&gate[offset..]) {
                    *x = *x * gate + residual;
                }
            }
        }
        out
    }

    /// The product with as many columns as there are in all panels; nothing once the work is interrupted.
    fn padded_forward(&self, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        let columns = self.bias.len() * PANEL;
        let tokens = x.len() / self.in_features;
        assert_eq!(x.len(), tokens * self.in_features, "rows of x are whole. This is a bug.");
        let mut out = Vec::with_capacity(tokens * columns);
        let product = Product { weights: self, x, tokens, columns, epilogue, out: SharedMut::spare(&mut out) };
        let (watch, work) = (Watch::current(), tokens * columns * self.in_features);
        if tokens >= MIN_TALL_ROWS && x.len() >= MIN_TALL {
            let threads = rayon::current_num_threads();
            let blocks = tokens.div_ceil(BLOCK_ROWS).next_multiple_of(threads);
            let block_rows = tokens.div_ceil(blocks).next_multiple_of(STRIP);
            (0..tokens.div_ceil(block_rows)).into_par_iter().for_each(|block| {
                if watch.is_set() {
                    return;
                }
                let rows = block * block_rows..tokens.min((block + 1) * block_rows);
                // SAFETY: `new` was given the proof of the features; no two blocks share a row.
                unsafe { product.tall_block(rows) }
            });
        } else {
            let min_panels = if work < MIN_PARALLEL { self.bias.len() } else { 1 };
            // SAFETY: `new` was given the proof of the features; no two ranges share a column.
            split(self.bias.len(), min_panels, &|panels| unsafe { product.columns(panels) });
        }
        if watch.is_set() {
            // Some blocks may be missing.
            return Vec::new();
        }
        // SAFETY: the rows of all blocks, or the columns of all panels, are the whole result: no block left early.
        unsafe { out.set_len(tokens * columns) };
        out
    }

    /// A part of a panel, rows `from` to `from + len` of it, widened into `scratch` if need be.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn panel<'a>(&'a self, panel: usize, from: usize, len: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let start = (panel * self.in_features + from) * PANEL;
        let range = start..start + len * PANEL;
        match &self.panels {
            Panels::F32(panels) => return &panels[range],
            Panels::Bf16(panels) => {
                scratch.resize(len * PANEL, 0.0);
                widen_bf16(&panels[range], scratch);
            }
            Panels::F16(panels) => {
                scratch.resize(len * PANEL, 0.0);
                // SAFETY: `new` was given the proof of F16C.
                unsafe { widen_f16(&panels[range], scratch) };
            }
        }
        scratch
    }

    /// Asks for a share of a part of a panel to be brought near.
    #[inline]
    fn prefetch(&self, panel: usize, from: usize, len: usize, share: usize, shares: usize) {
        let (start, size) = match &self.panels {
            Panels::F32(panels) => (panels.as_ptr().cast::<i8>(), size_of::<f32>()),
            Panels::Bf16(panels) => (panels.as_ptr().cast::<i8>(), size_of::<bf16>()),
            Panels::F16(panels) => (panels.as_ptr().cast::<i8>(), size_of::<f16>()),
        };
        let bytes = len * PANEL * size;
        let offset = (panel * self.in_features + from) * PANEL * size;
        for byte in (bytes * share / shares..bytes * (share + 1) / shares).step_by(64) {
            // SAFETY: a prefetch reads nothing; the address need not even exist.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(offset + byte)) };
        }
    }
}

/// One product under way.
struct Product<'a> {
    weights: &'a Packed,
    x: &'a [f32],
    tokens: usize,
    columns: usize,
    epilogue: Epilogue<'a>,
    out: SharedMut,
}

impl Product<'_> {
    /// The columns of some panels, the left operand read where it lies.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, and nobody else writes these columns.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn columns(&self, panels: Range<usize>) {
        let in_features = self.weights.in_features;
        let block = even_block(in_features, SHORT_BLOCK_K);
        let mut scratch = Vec::new();
        for panel in panels {
            for from in (0..in_features).step_by(block) {
                let len = block.min(in_features - from);
                let weights = self.weights.panel(panel, from, len, &mut scratch);
                for row in (0..self.tokens).step_by(STRIP) {
                    let start = self.x[row * in_features + from..].as_ptr();
                    let left = Left { start, row_stride: in_features, stride: 1 };
                    let rows = STRIP.min(self.tokens - row);
                    // SAFETY: `rows` rows of x lie from `row` on, each `len` long from `from` on.
                    unsafe { self.strip(row, rows, panel, from..from + len, left, weights) };
                }
            }
        }
    }

    /// Some rows of the result, the left operand packed so that a tile reads it in order.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, and nobody else writes these rows.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tall_block(&self, rows: Range<usize>) {
        let in_features = self.weights.in_features;
        let block = even_block(in_features, TALL_BLOCK_K);
        let num_panels = self.weights.bias.len();
        let strips = rows.len().div_ceil(STRIP);
        let (mut scratch, mut packed) = (Vec::new(), vec![0.0; strips * STRIP * block]);
        for from in (0..in_features).step_by(block) {
            let len = block.min(in_features - from);
            self.pack_left(rows.clone(), from..from + len, &mut packed);
            for panel in 0..num_panels {
                let weights = self.weights.panel(panel, from, len, &mut scratch);
                for (index, left) in packed.chunks_exact(STRIP * len).take(strips).enumerate() {
                    if panel + 1 < num_panels {
                        self.weights.prefetch(panel + 1, from, len, index, strips);
                    }
                    let row = rows.start + index * STRIP;
                    let left = Left { start: left.as_ptr(), row_stride: 1, stride: STRIP };
                    // SAFETY: a packed strip holds 6 rows of `len`.
                    unsafe { self.strip(row, STRIP.min(rows.end - row), panel, from..from + len, left, weights) };
                }
            }
        }
    }

    /// `[6-row strip][k][6]`; what lies behind the last row is left as it is.
    fn pack_left(&self, rows: Range<usize>, k: Range<usize>, packed: &mut [f32]) {
        let first = rows.start;
        for row in rows {
            let (index, lane) = ((row - first) / STRIP, (row - first) % STRIP);
            let x = &self.x[row * self.weights.in_features..][k.clone()];
            let strip = &mut packed[index * STRIP * k.len()..][..STRIP * k.len()];
            strip.iter_mut().skip(lane).step_by(STRIP).zip(x).for_each(|(to, x)| *to = *x);
        }
    }

    /// Adds the part `k` of the sums of one strip of rows and one panel of columns.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, nobody else writes there, and `left` holds the rows.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn strip(&self, row: usize, rows: usize, panel: usize, k: Range<usize>, left: Left, weights: &[f32]) {
        let column = panel * PANEL;
        let last = k.end == self.weights.in_features;
        let span = (rows - 1) * self.columns + PANEL;
        let finish =
            Finish { bias: &self.weights.bias[panel], epilogue: self.epilogue, row, column, columns: self.columns };
        // SAFETY: row and column lie inside the result; the rest is the caller's promise.
        unsafe {
            let out = Output { start: self.out.at(row * self.columns + column, span), row_stride: self.columns };
            strip(rows, k.len(), left, weights.as_ptr(), out, k.start == 0, last.then_some(&finish));
        }
    }
}

/// The size of the fewest equal blocks of at most `most` that `n` falls into.
fn even_block(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most))
}

fn pack<T: WithDType + Default>(weights: &[Tensor], in_features: usize) -> Result<Vec<T>> {
    let storages: Vec<_> = weights.iter().map(Tensor::storage_and_layout).collect();
    let mut rows = Vec::new();
    for (storage, layout) in &storages {
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("weight must be contiguous") };
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("weight must lie in host memory") };
        rows.extend(T::cpu_storage_as_slice(storage)?[start..end].chunks_exact(in_features));
    }
    let mut panels = vec![T::default(); rows.len().div_ceil(PANEL) * PANEL * in_features];
    panels.par_chunks_mut(PANEL * in_features).zip(rows.par_chunks(PANEL)).for_each(|(panel, rows)| {
        // In parts that stay in the first-level cache while sixteen rows are woven into them.
        for (part, from) in panel.chunks_mut(PANEL * 64).zip((0..).step_by(64)) {
            for (column, row) in rows.iter().enumerate() {
                part.iter_mut().skip(column).step_by(PANEL).zip(&row[from..]).for_each(|(to, x)| *to = *x);
            }
        }
    });
    Ok(panels)
}

fn unpack<T: WithDType + Default>(panels: &[T], (out_features, in_features): (usize, usize)) -> Vec<T> {
    let mut weight = vec![T::default(); out_features * in_features];
    for (column, row) in weight.chunks_exact_mut(in_features).enumerate() {
        let panel = &panels[column / PANEL * PANEL * in_features..];
        row.iter_mut().zip(panel.iter().skip(column % PANEL).step_by(PANEL)).for_each(|(to, x)| *to = *x);
    }
    weight
}

/// Both as long, a multiple of 8.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen_bf16(from: &[bf16], to: &mut [f32]) {
    for (from, to) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: both arrays are eight long. A bf16 is the upper half of an f32.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast::<__m128i>()));
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)));
        }
    }
}

/// Both as long, a multiple of 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_f16(from: &[f16], to: &mut [f32]) {
    for (from, to) in from.as_chunks::<8>().0.iter().zip(to.as_chunks_mut::<8>().0) {
        // SAFETY: both arrays are eight long.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast::<__m128i>()))) };
    }
}
