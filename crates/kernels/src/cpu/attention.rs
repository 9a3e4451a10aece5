//! All kinds of attention, split into heads of rows for [`super::head`].

use rayon::prelude::*;

use super::head::{Destination, Head, HeadProducts, InF32, Rotation, TokenColumns};
use super::parallel::SharedMut;
use super::simd::Simd;
use crate::{RowLayout, Watch};

/// The operands of one token stream of a joint attention.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(super) qkv: &'a [f32],
    pub(super) norm_q: &'a [f32],
    pub(super) norm_k: &'a [f32],
    pub(super) rows: &'a RowLayout,
}

/// The operands of a causal attention.
#[derive(Clone, Copy)]
pub(crate) struct Causal<'a> {
    pub(super) qkv: &'a [f32],
    /// The norm weights of queries and keys.
    pub(super) norms: Option<(&'a [f32], &'a [f32])>,
    pub(super) eps: f64,
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) valid: usize,
}

/// Work, in multiply-adds, below which a whole attention stays on one thread.
const MIN_PARALLEL: usize = 100_000;

/// See [`crate::JointAttention`]. `rope` holds the cosines and sines of each row. The head's dimension, which is the
/// length of the norms, is a multiple of 16.
pub(super) fn joint<S: Simd>(
    s: S,
    products: impl HeadProducts<S>,
    streams: [Stream<'_>; 2],
    rope: &[(&[f32], &[f32])],
    num_heads: usize,
    eps: f64,
) -> [Vec<f32>; 2] {
    let head_dim = streams[0].norm_q.len();
    let dim = num_heads * head_dim;
    let mut outs = streams.map(|stream| vec![0.0; stream.rows.total() * dim]);
    let shared = outs.each_mut().map(|out| SharedMut::new(out));
    let lengths = |row: usize| streams[0].rows.length(row) + streams[1].rows.length(row);
    let head = |task: usize| {
        let (row, head) = (task / num_heads, task % num_heads);
        let part = |part: usize| {
            streams.map(|stream| {
                let tokens = stream.rows.range(row);
                let norm = [Some(stream.norm_q), Some(stream.norm_k), None][part];
                let column = part * dim + head * head_dim;
                let rows = &stream.qkv[tokens.start * 3 * dim..];
                TokenColumns { rows, row_len: 3 * dim, column, tokens: tokens.len(), norm }
            })
        };
        let destinations = [0, 1].map(|i| {
            let tokens = streams[i].rows.range(row);
            let (first_row, column) = (tokens.start, head * head_dim);
            Destination { out: shared[i], first_row, row_len: dim, column, tokens: tokens.len() }
        });
        let (cos, sin) = rope[row];
        let rotation = Rotation::Interleaved { cos, sin };
        let queries = vec![(part(0), destinations)];
        Head { head_dim, keys: part(1), values: part(2), queries, rotation, eps: eps as f32, causal: false }
    };
    let work = (0..rope.len()).map(|row| lengths(row).pow(2) * dim).sum();
    let tasks = (0..rope.len() * num_heads).filter(|task| lengths(task / num_heads) > 0);
    // SAFETY: a head of a row writes columns and rows of its own.
    run(tasks.collect(), work, |task, watch| unsafe { head(task).attend(s, products, watch) });
    outs
}

/// See [`crate::attention()`]. The head's dimension is a multiple of 16.
pub(super) fn plain<S: Simd>(s: S, q: &[f32], k: &[f32], v: &[f32], num_heads: usize, dim: usize) -> Vec<f32> {
    let head_dim = dim / num_heads;
    let mut out = vec![0.0; q.len()];
    let shared = SharedMut::new(&mut out);
    let head = |head: usize| {
        let segments = |rows| whole(rows, dim, head * head_dim);
        let queries = vec![(segments(q), destination(shared, q.len() / dim, dim, head * head_dim))];
        let (keys, values) = (segments(k), segments(v));
        Head { head_dim, keys, values, queries, rotation: Rotation::None, eps: 0.0, causal: false }
    };
    let work = q.len() * k.len() / dim;
    // SAFETY: a head writes columns of its own.
    run((0..num_heads).collect(), work, |task, watch| unsafe { head(task).attend(s, InF32, watch) });
    out
}

/// See [`crate::CausalAttention`]. The head's dimension is a multiple of 16.
pub(super) fn causal<S: Simd>(s: S, inputs: Causal<'_>) -> Vec<f32> {
    let Causal { qkv, norms, eps, cos, sin, num_heads, num_kv_heads, head_dim, valid } = inputs;
    let (dim, group) = (num_heads * head_dim, num_heads / num_kv_heads);
    let row_len = dim + 2 * num_kv_heads * head_dim;
    let tokens = qkv.len() / row_len;
    let mut out = vec![0.0; tokens * dim];
    let shared = SharedMut::new(&mut out);
    let segments = |head: usize, tokens, norm| {
        let segment = |rows, tokens| TokenColumns { rows, row_len, column: head * head_dim, tokens, norm };
        [segment(qkv, tokens), segment(&[], 0)]
    };
    let (norm_q, norm_k) = norms.unzip();
    let head = |kv_head: usize| {
        let queries = (kv_head * group..(kv_head + 1) * group)
            .map(|head| (segments(head, tokens, norm_q), destination(shared, tokens, dim, head * head_dim)));
        let keys = segments(num_heads + kv_head, valid, norm_k);
        let values = segments(num_heads + num_kv_heads + kv_head, valid, None);
        let rotation = Rotation::HalfSplit { cos, sin };
        Head { head_dim, keys, values, queries: queries.collect(), rotation, eps: eps as f32, causal: true }
    };
    // SAFETY: the heads of a group write columns of their own.
    run((0..num_kv_heads).collect(), tokens * valid * dim, |task, watch| unsafe { head(task).attend(s, InF32, watch) });
    out
}

/// See [`crate::SelfAttention`]. The head's dimension is a multiple of 16.
pub(super) fn rotary_rows<S: Simd>(
    s: S,
    qkv: &[f32],
    (cos, sin): (&[f32], &[f32]),
    rows: &RowLayout,
    num_heads: usize,
    dim: usize,
) -> Vec<f32> {
    let (head_dim, row_len) = (dim / num_heads, 3 * dim);
    let mut out = vec![0.0; rows.total() * dim];
    let shared = SharedMut::new(&mut out);
    let head = |task: usize| {
        let (tokens, head) = (rows.range(task / num_heads), task % num_heads);
        let part = |part: usize| {
            let column = part * dim + head * head_dim;
            let segment = |rows, tokens| TokenColumns { rows, row_len, column, tokens, norm: None };
            [segment(&qkv[tokens.start * row_len..], tokens.len()), segment(&[], 0)]
        };
        let destination =
            Destination { first_row: tokens.start, ..destination(shared, tokens.len(), dim, head * head_dim)[0] };
        let nowhere = Destination { tokens: 0, ..destination };
        let angles = tokens.start * head_dim / 2..tokens.end * head_dim / 2;
        let rotation = Rotation::HalfSplit { cos: &cos[angles.clone()], sin: &sin[angles] };
        let queries = vec![(part(0), [destination, nowhere])];
        Head { head_dim, keys: part(1), values: part(2), queries, rotation, eps: 0.0, causal: false }
    };
    let work = rows.iter().map(|tokens| tokens.len().pow(2) * dim).sum();
    let tasks = (0..rows.num_rows() * num_heads).filter(|task| rows.length(task / num_heads) > 0);
    // SAFETY: a head of a row writes columns and rows of its own.
    run(tasks.collect(), work, |task, watch| unsafe { head(task).attend(s, InF32, watch) });
    out
}

/// Runs the tasks until the work is interrupted.
fn run(tasks: Vec<usize>, work: usize, attend: impl Fn(usize, &Watch) + Sync + Send) {
    let watch = Watch::current();
    let attend = |task| {
        if !watch.is_set() {
            attend(task, &watch);
        }
    };
    if work < MIN_PARALLEL { tasks.into_iter().for_each(attend) } else { tasks.into_par_iter().for_each(attend) }
}

/// A head's columns of all rows of a matrix.
fn whole(rows: &[f32], row_len: usize, column: usize) -> [TokenColumns<'_>; 2] {
    let segment = |rows, tokens| TokenColumns { rows, row_len, column, tokens, norm: None };
    [segment(rows, rows.len() / row_len), segment(&[], 0)]
}

fn destination(out: SharedMut, tokens: usize, row_len: usize, column: usize) -> [Destination; 2] {
    [tokens, 0].map(|tokens| Destination { out, first_row: 0, row_len, column, tokens })
}
