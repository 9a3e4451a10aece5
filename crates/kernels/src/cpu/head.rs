//! Attention of one head of one row, over keys and values packed for its products.
//!
//! The queries are computed in blocks of 48, so that only 48 rows of scores exist at a time.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Left, Output, PANEL, Right, Size, multiply};
use super::norm::{scaled, sum_of_squares};
use super::parallel::SharedMut;
use super::simd::{Simd, exp, map, vectorized};
use crate::Watch;

/// Queries per block.
const QUERY_BLOCK: usize = 48;
/// Keys whose values are summed at a time. That part of a panel stays in the first-level cache.
const KEY_BLOCK: usize = 256;
/// The number of scores of a head from which its query blocks may run on several threads.
const MIN_PARALLEL_SCORES: usize = 512 * 512;

/// One head's columns of consecutive tokens, as input.
#[derive(Clone, Copy)]
pub(super) struct TokenColumns<'a> {
    /// The row of the first token and all following rows.
    pub(super) rows: &'a [f32],
    pub(super) row_len: usize,
    pub(super) column: usize,
    pub(super) tokens: usize,
    /// The weight of an RMSNorm over the head's features.
    pub(super) norm: Option<&'a [f32]>,
}

/// One head's columns of consecutive tokens, as output.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) out: SharedMut,
    pub(super) first_row: usize,
    pub(super) row_len: usize,
    pub(super) column: usize,
    pub(super) tokens: usize,
}

/// The rotation of a head's features by RoPE, with its `[positions, head_dim / 2]` tables.
#[derive(Clone, Copy)]
pub(super) enum Rotation<'a> {
    None,
    /// Rotates the pairs `(x[2i], x[2i + 1])`.
    Interleaved {
        cos: &'a [f32],
        sin: &'a [f32],
    },
    /// Rotates the pairs `(x[i], x[i + head_dim / 2])`.
    HalfSplit {
        cos: &'a [f32],
        sin: &'a [f32],
    },
}

/// A key head and the query heads that share it. Tokens lie in two segments, of which the second may be empty.
/// Positions continue from the first segment to the second.
pub(super) struct Head<'a> {
    /// A multiple of 16.
    pub(super) head_dim: usize,
    pub(super) keys: [TokenColumns<'a>; 2],
    pub(super) values: [TokenColumns<'a>; 2],
    pub(super) queries: Vec<([TokenColumns<'a>; 2], [Destination; 2])>,
    pub(super) rotation: Rotation<'a>,
    /// Epsilon of the RMSNorms.
    pub(super) eps: f32,
    /// Whether query i sees only the keys up to i.
    pub(super) causal: bool,
}

/// The two products of an attention: of queries and keys, and of weights and values.
pub(super) trait HeadProducts<S: Simd>: Copy + Send + Sync {
    /// Keys and values in the layout that the products read.
    type Packed: Send + Sync;

    /// Allocates room for `tokens` keys and values.
    fn room(self, head_dim: usize, tokens: usize) -> Self::Packed;
    fn put_key(packed: &mut Self::Packed, token: usize, key: &[f32]);
    fn put_value(packed: &mut Self::Packed, token: usize, value: &[f32]);
    /// `[rows, columns]` scores of `[rows, head_dim]` queries. `columns` is a multiple of a panel.
    fn score(self, s: S, queries: &[f32], packed: &Self::Packed, columns: usize, scores: &mut [f32]);
    /// `[rows, head_dim]` sums of the values, weighted by `[rows, columns]` weights that are 0 from `visible` on.
    fn average(
        self,
        s: S,
        weights: &[f32],
        columns: usize,
        visible: usize,
        packed: &Self::Packed,
        attended: &mut [f32],
    );
}

/// Products in f32.
#[derive(Clone, Copy)]
pub(super) struct InF32;

/// Keys as `[tokens / 16][head_dim][16]`, values as `[head_dim / 16][tokens][16]`.
pub(super) struct Panels {
    head_dim: usize,
    tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Head<'_> {
    /// Computes the attention and writes every destination, unless `watch` is set.
    ///
    /// # Safety
    /// The destinations lie inside their matrices, and no other thread writes there.
    pub(super) unsafe fn attend<S: Simd, P: HeadProducts<S>>(&self, s: S, products: P, watch: &Watch) {
        let packed = vectorized!(s, self.pack(s, products));
        let (num_queries, num_keys) = (tokens(&self.queries[0].0), tokens(&self.keys));
        let blocks = num_queries.div_ceil(QUERY_BLOCK);
        let run = |index: usize| {
            if watch.is_set() {
                return;
            }
            let (queries, destinations) = &self.queries[index / blocks];
            let start = index % blocks * QUERY_BLOCK;
            let block = start..num_queries.min(start + QUERY_BLOCK);
            // SAFETY: the caller's promises; no two blocks share a query.
            vectorized!(s, unsafe { self.attend_block((s, products), &packed, queries, destinations, block) });
        };
        if num_queries * num_keys < MIN_PARALLEL_SCORES {
            (0..self.queries.len() * blocks).for_each(run);
        } else {
            (0..self.queries.len() * blocks).into_par_iter().for_each(run);
        }
    }

    #[inline(always)]
    fn pack<S: Simd, P: HeadProducts<S>>(&self, s: S, products: P) -> P::Packed {
        let (head_dim, tokens) = (self.head_dim, tokens(&self.keys));
        let mut packed = products.room(head_dim, tokens);
        let mut row = vec![0.0; head_dim];
        for token in 0..tokens {
            self.prepare(s, &self.keys, token, 1.0, &mut row);
            P::put_key(&mut packed, token, &row);
            let (value, _) = token_row(&self.values, token, head_dim);
            P::put_value(&mut packed, token, value);
        }
        packed
    }

    /// # Safety
    /// As for `attend`.
    #[inline(always)]
    unsafe fn attend_block<S: Simd, P: HeadProducts<S>>(
        &self,
        (s, products): (S, P),
        packed: &P::Packed,
        queries: &[TokenColumns<'_>; 2],
        destinations: &[Destination; 2],
        block: Range<usize>,
    ) {
        let (head_dim, rows, keys) = (self.head_dim, block.len(), tokens(&self.keys));
        let visible = if self.causal { block.end.min(keys) } else { keys };
        let columns = visible.next_multiple_of(PANEL);
        let mut scratch = vec![0.0; rows * (2 * head_dim + columns)];
        let (prepared, rest) = scratch.split_at_mut(rows * head_dim);
        let (attended, scores) = rest.split_at_mut(rows * head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (token, row) in block.clone().zip(prepared.chunks_exact_mut(head_dim)) {
            self.prepare(s, queries, token, scale, row);
        }
        products.score(s, prepared, packed, columns, scores);
        let mut sums = [0.0; QUERY_BLOCK];
        for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
            let visible = if self.causal { visible.min(block.start + row + 1) } else { visible };
            sums[row] = softmax(s, scores, visible);
        }
        products.average(s, scores, columns, visible, packed, attended);
        for ((token, row), sum) in block.zip(attended.chunks_exact(head_dim)).zip(sums) {
            // SAFETY: the token is in the block.
            unsafe { write(s, destinations, token, row, 1.0 / sum) };
        }
    }

    /// Writes one token's features of this head, normalised, rotated and scaled, to `out`.
    #[inline(always)]
    fn prepare<S: Simd>(&self, s: S, segments: &[TokenColumns<'_>; 2], token: usize, scale: f32, out: &mut [f32]) {
        let (x, norm) = token_row(segments, token, out.len());
        if let Some(norm) = norm {
            let factor = scale / (sum_of_squares(s, x) / x.len() as f32 + self.eps).sqrt();
            scaled(s, x, factor, norm, out);
        } else {
            map(
                s,
                out,
                x,
                #[inline(always)]
                |x| s.mul(x, s.splat(scale)),
            );
        }
        let half = out.len() / 2;
        let at = |table: &[f32]| token * half..(token * half + half).min(table.len());
        match self.rotation {
            Rotation::None => {}
            Rotation::Interleaved { cos, sin } => rotate_interleaved(s, out, &cos[at(cos)], &sin[at(sin)]),
            Rotation::HalfSplit { cos, sin } => rotate_halves(s, out, &cos[at(cos)], &sin[at(sin)]),
        }
    }
}

impl<S: Simd> HeadProducts<S> for InF32 {
    type Packed = Panels;

    #[inline(always)]
    fn room(self, head_dim: usize, tokens: usize) -> Panels {
        let keys = vec![0.0; tokens.div_ceil(PANEL) * PANEL * head_dim];
        Panels { head_dim, tokens, keys, values: vec![0.0; tokens * head_dim] }
    }

    #[inline(always)]
    fn put_key(packed: &mut Panels, token: usize, key: &[f32]) {
        let panel = &mut packed.keys[token / PANEL * PANEL * key.len()..][..PANEL * key.len()];
        panel.iter_mut().skip(token % PANEL).step_by(PANEL).zip(key).for_each(|(to, x)| *to = *x);
    }

    #[inline(always)]
    fn put_value(packed: &mut Panels, token: usize, value: &[f32]) {
        for (panel, part) in value.chunks_exact(PANEL).enumerate() {
            packed.values[(panel * packed.tokens + token) * PANEL..][..PANEL].copy_from_slice(part);
        }
    }

    #[inline(always)]
    fn score(self, s: S, queries: &[f32], packed: &Panels, columns: usize, scores: &mut [f32]) {
        let head_dim = packed.head_dim;
        let rows = queries.len() / head_dim;
        assert!(packed.keys.len() >= columns * head_dim && scores.len() >= rows * columns);
        let left = Left { start: queries.as_ptr(), row_stride: head_dim, stride: 1 };
        let right = Right { start: packed.keys.as_ptr(), stride: head_dim * PANEL };
        let out = Output { start: scores.as_mut_ptr(), row_stride: columns };
        let size = Size { rows, panels: columns / PANEL, k: head_dim };
        // SAFETY: as asserted.
        unsafe { multiply(s, size, left, right, out, true) };
    }

    #[inline(always)]
    fn average(self, s: S, weights: &[f32], columns: usize, visible: usize, packed: &Panels, attended: &mut [f32]) {
        let head_dim = packed.head_dim;
        let rows = attended.len() / head_dim;
        assert!(weights.len() >= rows * columns && packed.values.len() >= packed.tokens * head_dim);
        for key in (0..visible).step_by(KEY_BLOCK) {
            let left = Left { start: weights[key..].as_ptr(), row_stride: columns, stride: 1 };
            let right = Right { start: packed.values[key * PANEL..].as_ptr(), stride: packed.tokens * PANEL };
            let out = Output { start: attended.as_mut_ptr(), row_stride: head_dim };
            let size = Size { rows, panels: head_dim / PANEL, k: KEY_BLOCK.min(visible - key) };
            // SAFETY: as asserted.
            unsafe { multiply(s, size, left, right, out, key == 0) };
        }
    }
}

fn tokens(segments: &[TokenColumns<'_>; 2]) -> usize {
    segments[0].tokens + segments[1].tokens
}

/// The head's columns of a token, and the weight of its norm.
#[inline]
fn token_row<'a>(segments: &[TokenColumns<'a>; 2], token: usize, head_dim: usize) -> (&'a [f32], Option<&'a [f32]>) {
    let [first, second] = segments;
    let (segment, row) = if token < first.tokens { (first, token) } else { (second, token - first.tokens) };
    (&segment.rows[row * segment.row_len + segment.column..][..head_dim], segment.norm)
}

#[inline(always)]
fn rotate_interleaved<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let tables = cos.chunks(S::LANES / 2).zip(sin.chunks(S::LANES / 2));
    for (x, (cos, sin)) in x.chunks_mut(S::LANES).zip(tables) {
        let rotated = s.rotate_pairs(s.load_some(x), cos, sin);
        s.store_some(x, rotated);
    }
}

#[inline(always)]
fn rotate_halves<S: Simd>(s: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    let halves = first.chunks_mut(S::LANES).zip(second.chunks_mut(S::LANES));
    for ((a, b), (cos, sin)) in halves.zip(cos.chunks(S::LANES).zip(sin.chunks(S::LANES))) {
        let (x, y, cos, sin) = (s.load_some(a), s.load_some(b), s.load_some(cos), s.load_some(sin));
        s.store_some(a, s.fnma(y, sin, s.mul(x, cos)));
        s.store_some(b, s.fma(x, sin, s.mul(y, cos)));
    }
}

/// `e^(score - largest)` of the visible scores, 0 for the rest; returns the sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], visible: usize) -> f32 {
    scores[visible..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for x in scores.chunks_exact(S::LANES) {
        largest = s.max(largest, s.load(x));
    }
    let (largest, mut total) = (s.splat(s.largest(largest)), s.splat(0.0));
    for x in scores.chunks_exact_mut(S::LANES) {
        let weight = exp(s, s.sub(s.load(x), largest));
        total = s.add(total, weight);
        s.store(x, weight);
    }
    s.sum(total)
}

/// # Safety
/// The token lies inside its destination, where no other thread writes.
#[inline(always)]
unsafe fn write<S: Simd>(s: S, destinations: &[Destination; 2], token: usize, row: &[f32], factor: f32) {
    let [first, second] = destinations;
    let (to, token) = if token < first.tokens { (first, token) } else { (second, token - first.tokens) };
    let index = (to.first_row + token) * to.row_len + to.column;
    // SAFETY: the caller promises that this row of the destination exists and that no other thread writes it.
    let out = unsafe { std::slice::from_raw_parts_mut(to.out.at(index, row.len()), row.len()) };
    map(
        s,
        out,
        row,
        #[inline(always)]
        |x| s.mul(x, s.splat(factor)),
    );
}
