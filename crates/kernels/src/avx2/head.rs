//! Attention of one head of one row, over keys and values packed into panels.
//!
//! The queries go through in blocks of 48, so that only 48 rows of scores exist at a time.

use std::arch::x86_64::{
    _mm_loadu_ps, _mm256_add_ps, _mm256_castps128_ps256, _mm256_fmadd_ps, _mm256_fmaddsub_ps, _mm256_fnmadd_ps,
    _mm256_max_ps, _mm256_mul_ps, _mm256_permute_ps, _mm256_permutevar8x32_ps, _mm256_setr_epi32, _mm256_setzero_ps,
    _mm256_sub_ps,
};
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Left, Output, PANEL, STRIP, strip};
use super::norm::sum_of_squares;
use super::parallel::SharedMut;
use super::simd::{F32x8, exp, load, max, splat, store, sum};
use crate::Watch;

/// Queries of a block.
const QUERY_BLOCK: usize = 48;
/// Keys whose values are summed in one go: that part of a panel stays in the first cache.
const KEY_BLOCK: usize = 256;
/// Scores of a head from which its query blocks may go to several threads.
const MIN_PARALLEL_SCORES: usize = 512 * 512;

/// One head's columns of consecutive tokens.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    /// The row of the first token and all that follow.
    pub(super) rows: &'a [f32],
    pub(super) row_len: usize,
    pub(super) column: usize,
    pub(super) tokens: usize,
    /// The weight of an RMSNorm over the head's features.
    pub(super) norm: Option<&'a [f32]>,
}

/// Where one head's columns of consecutive tokens go.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) out: SharedMut,
    pub(super) first_row: usize,
    pub(super) row_len: usize,
    pub(super) column: usize,
    pub(super) tokens: usize,
}

/// Which rotation RoPE makes of a head's features, with its `[positions, head_dim / 2]` tables.
#[derive(Clone, Copy)]
pub(super) enum Rotation<'a> {
    None,
    /// Of the pairs `(x[2i], x[2i + 1])`.
    Interleaved {
        cos: &'a [f32],
        sin: &'a [f32],
    },
    /// Of the pairs `(x[i], x[i + head_dim / 2])`.
    HalfSplit {
        cos: &'a [f32],
        sin: &'a [f32],
    },
}

/// A key head and the query heads that share it. Tokens lie in two segments, the second one
/// perhaps empty, and count on from the first to the second.
pub(super) struct Head<'a> {
    /// A multiple of 16.
    pub(super) head_dim: usize,
    pub(super) keys: [Segment<'a>; 2],
    pub(super) values: [Segment<'a>; 2],
    pub(super) queries: Vec<([Segment<'a>; 2], [Destination; 2])>,
    pub(super) rotation: Rotation<'a>,
    /// Of the RMSNorms.
    pub(super) eps: f32,
    /// Whether query i sees the keys up to i only.
    pub(super) causal: bool,
}

/// Keys as `[tokens / 16][head_dim][16]`, values as `[head_dim / 16][tokens][16]`.
struct Packed {
    tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Head<'_> {
    /// Attends and writes every destination, until `watch` says stop.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; the destinations lie inside their matrices and nobody
    /// else writes there.
    pub(super) unsafe fn attend(&self, watch: &Watch) {
        // SAFETY: the caller promises the features.
        let packed = unsafe { self.pack() };
        let num_queries = tokens(&self.queries[0].0);
        let blocks = num_queries.div_ceil(QUERY_BLOCK);
        let run = |index: usize| {
            if watch.is_set() {
                return;
            }
            let (queries, destinations) = &self.queries[index / blocks];
            let start = index % blocks * QUERY_BLOCK;
            // SAFETY: the caller's promises; no two blocks share a query.
            unsafe { self.attend_block(&packed, queries, destinations, start..num_queries.min(start + QUERY_BLOCK)) };
        };
        if num_queries * packed.tokens < MIN_PARALLEL_SCORES {
            (0..self.queries.len() * blocks).for_each(run);
        } else {
            (0..self.queries.len() * blocks).into_par_iter().for_each(run);
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn pack(&self) -> Packed {
        let (head_dim, tokens) = (self.head_dim, tokens(&self.keys));
        let mut keys = vec![0.0; tokens.div_ceil(PANEL) * PANEL * head_dim];
        let mut values = vec![0.0; tokens * head_dim];
        let mut row = vec![0.0; head_dim];
        for token in 0..tokens {
            self.prepare(&self.keys, token, 1.0, &mut row);
            let panel = &mut keys[token / PANEL * PANEL * head_dim..][..PANEL * head_dim];
            panel.iter_mut().skip(token % PANEL).step_by(PANEL).zip(&row).for_each(|(to, x)| *to = *x);
            let (value, _) = token_row(&self.values, token, head_dim);
            for (panel, part) in value.chunks_exact(PANEL).enumerate() {
                values[(panel * tokens + token) * PANEL..][..PANEL].copy_from_slice(part);
            }
        }
        Packed { tokens, keys, values }
    }

    /// # Safety
    /// As for `attend`.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn attend_block(
        &self,
        packed: &Packed,
        queries: &[Segment<'_>; 2],
        destinations: &[Destination; 2],
        block: Range<usize>,
    ) {
        let (head_dim, rows) = (self.head_dim, block.len());
        let visible = if self.causal { block.end.min(packed.tokens) } else { packed.tokens };
        let columns = visible.next_multiple_of(PANEL);
        let mut scratch = vec![0.0; rows * (2 * head_dim + columns)];
        let (prepared, rest) = scratch.split_at_mut(rows * head_dim);
        let (attended, scores) = rest.split_at_mut(rows * head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (token, row) in block.clone().zip(prepared.chunks_exact_mut(head_dim)) {
            self.prepare(queries, token, scale, row);
        }
        // SAFETY: the promises of the caller are those of these.
        unsafe {
            score(prepared, head_dim, &packed.keys, columns, scores);
            let mut sums = [0.0; QUERY_BLOCK];
            for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
                let visible = if self.causal { visible.min(block.start + row + 1) } else { visible };
                sums[row] = softmax(scores, visible);
            }
            average(scores, columns, visible, packed, head_dim, attended);
            for ((token, row), sum) in block.zip(attended.chunks_exact(head_dim)).zip(sums) {
                write(destinations, token, row, 1.0 / sum);
            }
        }
    }

    /// One token's features of this head: normalised, rotated, scaled.
    #[target_feature(enable = "avx2,fma")]
    fn prepare(&self, segments: &[Segment<'_>; 2], token: usize, scale: f32, out: &mut [f32]) {
        let (x, norm) = token_row(segments, token, out.len());
        if let Some(norm) = norm {
            let factor = splat(scale / (sum_of_squares(x) / x.len() as f32 + self.eps).sqrt());
            let operands = x.as_chunks::<8>().0.iter().zip(norm.as_chunks::<8>().0);
            for (out, (x, norm)) in out.as_chunks_mut::<8>().0.iter_mut().zip(operands) {
                store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), factor), load(norm)));
            }
        } else {
            for (out, x) in out.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0) {
                store(out, _mm256_mul_ps(load(x), splat(scale)));
            }
        }
        let half = out.len() / 2;
        let at = |table: &[f32]| token * half..(token * half + half).min(table.len());
        match self.rotation {
            Rotation::None => {}
            Rotation::Interleaved { cos, sin } => rotate_interleaved(out, &cos[at(cos)], &sin[at(sin)]),
            Rotation::HalfSplit { cos, sin } => rotate_halves(out, &cos[at(cos)], &sin[at(sin)]),
        }
    }
}

fn tokens(segments: &[Segment<'_>; 2]) -> usize {
    segments[0].tokens + segments[1].tokens
}

/// The head's columns of a token, and its norm's weight.
#[inline]
fn token_row<'a>(segments: &[Segment<'a>; 2], token: usize, head_dim: usize) -> (&'a [f32], Option<&'a [f32]>) {
    let [first, second] = segments;
    let (segment, row) = if token < first.tokens { (first, token) } else { (second, token - first.tokens) };
    (&segment.rows[row * segment.row_len + segment.column..][..head_dim], segment.norm)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn rotate_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let tables = cos.as_chunks::<4>().0.iter().zip(sin.as_chunks::<4>().0);
    for (x, (cos, sin)) in x.as_chunks_mut::<8>().0.iter_mut().zip(tables) {
        let pairs = load(x);
        let swapped = _mm256_permute_ps::<0b10_11_00_01>(pairs);
        // x cos - y sin in the even places, y cos + x sin in the odd ones.
        store(x, _mm256_fmaddsub_ps(pairs, twice(cos), _mm256_mul_ps(swapped, twice(sin))));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    let halves = first.as_chunks_mut::<8>().0.iter_mut().zip(second.as_chunks_mut::<8>().0);
    let tables = cos.as_chunks::<8>().0.iter().zip(sin.as_chunks::<8>().0);
    for ((a, b), (cos, sin)) in halves.zip(tables) {
        let (x, y, cos, sin) = (load(a), load(b), load(cos), load(sin));
        store(a, _mm256_fnmadd_ps(y, sin, _mm256_mul_ps(x, cos)));
        store(b, _mm256_fmadd_ps(x, sin, _mm256_mul_ps(y, cos)));
    }
}

/// Four floats as eight: a a b b c c d d.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn twice(x: &[f32; 4]) -> F32x8 {
    // SAFETY: the array is four floats long.
    let four = unsafe { _mm_loadu_ps(x.as_ptr()) };
    _mm256_permutevar8x32_ps(_mm256_castps128_ps256(four), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
}

/// `[rows, columns]` of scores, all columns of whole panels.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn score(queries: &[f32], head_dim: usize, keys: &[f32], columns: usize, scores: &mut [f32]) {
    let rows = queries.len() / head_dim;
    for (panel, keys) in keys.chunks_exact(head_dim * PANEL).take(columns / PANEL).enumerate() {
        for row in (0..rows).step_by(STRIP) {
            let left = Left { start: queries[row * head_dim..].as_ptr(), row_stride: head_dim, stride: 1 };
            let out = Output { start: scores[row * columns + panel * PANEL..].as_mut_ptr(), row_stride: columns };
            // SAFETY: rows from `row` on lie in queries and in scores, and the panel in keys.
            unsafe { strip(STRIP.min(rows - row), head_dim, left, keys.as_ptr(), out, true, None) };
        }
    }
}

/// `e^(score - largest)` of the visible scores, 0 for the rest; returns the sum.
#[target_feature(enable = "avx2,fma")]
fn softmax(scores: &mut [f32], visible: usize) -> f32 {
    scores[visible..].fill(f32::NEG_INFINITY);
    let eights = scores.as_chunks_mut::<8>().0;
    let largest = eights.iter().fold(splat(f32::NEG_INFINITY), |largest, x| _mm256_max_ps(largest, load(x)));
    let (largest, mut total) = (splat(max(largest)), _mm256_setzero_ps());
    for x in eights {
        let weight = exp(_mm256_sub_ps(load(x), largest));
        total = _mm256_add_ps(total, weight);
        store(x, weight);
    }
    sum(total)
}

/// Sums of the values by the weights: `[rows, head_dim]`.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn average(weights: &[f32], columns: usize, visible: usize, packed: &Packed, head_dim: usize, out: &mut [f32]) {
    let rows = out.len() / head_dim;
    for (panel, values) in packed.values.chunks_exact(packed.tokens * PANEL).enumerate() {
        for key in (0..visible).step_by(KEY_BLOCK) {
            let keys = KEY_BLOCK.min(visible - key);
            let values = &values[key * PANEL..][..keys * PANEL];
            for row in (0..rows).step_by(STRIP) {
                let left = Left { start: weights[row * columns + key..].as_ptr(), row_stride: columns, stride: 1 };
                let out = Output { start: out[row * head_dim + panel * PANEL..].as_mut_ptr(), row_stride: head_dim };
                // SAFETY: rows from `row` on lie in weights and in out.
                unsafe { strip(STRIP.min(rows - row), keys, left, values.as_ptr(), out, key == 0, None) };
            }
        }
    }
}

/// # Safety
/// The processor has AVX2 and FMA; the token lies inside its destination, where nobody else writes.
#[target_feature(enable = "avx2,fma")]
unsafe fn write(destinations: &[Destination; 2], token: usize, row: &[f32], factor: f32) {
    let [first, second] = destinations;
    let (to, token) = if token < first.tokens { (first, token) } else { (second, token - first.tokens) };
    let index = (to.first_row + token) * to.row_len + to.column;
    // SAFETY: the caller promises that this row of the destination is there and ours.
    let out = unsafe { std::slice::from_raw_parts_mut(to.out.at(index, row.len()), row.len()) };
    for (out, x) in out.as_chunks_mut::<8>().0.iter_mut().zip(row.as_chunks::<8>().0) {
        store(out, _mm256_mul_ps(load(x), splat(factor)));
    }
}
