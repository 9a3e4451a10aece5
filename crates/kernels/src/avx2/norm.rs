//! Operations on one token or pixel at a time: norms, and activations with two operands.

use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_setzero_ps, _mm256_sub_ps};

use super::Avx2;
use super::parallel::split_rows;
use super::simd::{F32x8, load, silu, splat, store, sum};
use crate::RowLayout;
use crate::dispatch::RowVectors;
use crate::norm::MIN_LENGTH;

/// Floats below which a second thread costs more than it gains.
pub(super) const MIN_PARALLEL: usize = 1 << 14;

/// `[tokens, dim]`, `dim` a multiple of 8: see [`crate::modulated_layer_norm`].
pub(crate) fn modulated_layer_norm(
    _: Avx2,
    x: &[f32],
    dim: usize,
    (shift, scale): (&RowVectors<'_>, &RowVectors<'_>),
    rows: &RowLayout,
    eps: f64,
) -> Vec<f32> {
    let row_of: Vec<_> = rows.iter().enumerate().flat_map(|(row, tokens)| tokens.map(move |_| row)).collect();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, dim, MIN_PARALLEL, &|first, out| {
        let tokens = out.chunks_exact_mut(dim).zip(x[first * dim..].chunks_exact(dim)).zip(&row_of[first..]);
        for ((out, x), &row) in tokens {
            let shift = &shift.as_slice()[row * shift.stride()..][..dim];
            let scale = &scale.as_slice()[row * scale.stride()..][..dim];
            // SAFETY: the token proves the features.
            unsafe { modulated_layer_norm_token(x, shift, scale, eps as f32, out) };
        }
    });
    out
}

/// `[.., dim]`, `dim` a multiple of 8: see [`crate::rms_norm`].
pub(crate) fn rms_norm(_: Avx2, x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let dim = weight.len();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, dim, MIN_PARALLEL, &|first, out| {
        for (out, x) in out.chunks_exact_mut(dim).zip(x[first * dim..].chunks_exact(dim)) {
            // SAFETY: the token proves the features.
            unsafe {
                let factor = 1.0 / (sum_of_squares(x) / dim as f32 + eps as f32).sqrt();
                scaled(x, factor, weight, out);
            }
        }
    });
    out
}

/// `[.., channels]`, `channels` a multiple of 8: see [`crate::channel_norm`].
pub(crate) fn channel_norm(_: Avx2, x: &[f32], gamma: &[f32]) -> Vec<f32> {
    let channels = gamma.len();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, channels, MIN_PARALLEL, &|first, out| {
        for (out, x) in out.chunks_exact_mut(channels).zip(x[first * channels..].chunks_exact(channels)) {
            // SAFETY: the token proves the features.
            unsafe { scaled(x, channel_norm_factor(x), gamma, out) };
        }
    });
    out
}

/// `[tokens, 2 * features]`: see [`crate::swiglu`].
pub(crate) fn swiglu(_: Avx2, gate_up: &[f32], features: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    split_rows(&mut out, features, MIN_PARALLEL, &|first, out| {
        let tokens = gate_up[first * 2 * features..].chunks_exact(2 * features);
        for (out, gate_up) in out.chunks_exact_mut(features).zip(tokens) {
            // SAFETY: the token proves the features.
            unsafe { swiglu_token(gate_up, out) };
        }
    });
    out
}

#[target_feature(enable = "avx2,fma")]
fn modulated_layer_norm_token(x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    let (x, dim) = (x.as_chunks::<8>().0, x.len() as f32);
    let total = x.iter().fold(_mm256_setzero_ps(), |total, x| _mm256_add_ps(total, load(x)));
    let mean = splat(sum(total) / dim);
    let squares = x.iter().fold(_mm256_setzero_ps(), |squares, x| {
        let centred = _mm256_sub_ps(load(x), mean);
        _mm256_fmadd_ps(centred, centred, squares)
    });
    let factor = splat(1.0 / (sum(squares) / dim + eps).sqrt());
    let modulation = shift.as_chunks::<8>().0.iter().zip(scale.as_chunks::<8>().0);
    for ((out, x), (shift, scale)) in out.as_chunks_mut::<8>().0.iter_mut().zip(x).zip(modulation) {
        let normed = _mm256_mul_ps(_mm256_sub_ps(load(x), mean), factor);
        store(out, _mm256_fmadd_ps(normed, _mm256_add_ps(load(scale), splat(1.0)), load(shift)));
    }
}

#[target_feature(enable = "avx2,fma")]
fn swiglu_token(gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    let ((gate, last_gate), (up, last_up)) = (gate.as_chunks::<8>(), up.as_chunks::<8>());
    let (out, last_out) = out.as_chunks_mut::<8>();
    for (out, (gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
        store(out, _mm256_mul_ps(silu(load(gate)), load(up)));
    }
    if !last_out.is_empty() {
        let [gate, up] = [last_gate, last_up].map(|last| {
            let mut eight = [0.0; 8];
            eight[..last.len()].copy_from_slice(last);
            eight
        });
        let mut eight = [0.0; 8];
        store(&mut eight, _mm256_mul_ps(silu(load(&gate)), load(&up)));
        last_out.copy_from_slice(&eight[..last_out.len()]);
    }
}

/// `silu(channel_norm(x))` of one pixel.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn channel_norm_silu_pixel(x: &[f32], gamma: &[f32], out: &mut [f32]) {
    let factor = splat(channel_norm_factor(x));
    let operands = x.as_chunks::<8>().0.iter().zip(gamma.as_chunks::<8>().0);
    for (out, (x, gamma)) in out.as_chunks_mut::<8>().0.iter_mut().zip(operands) {
        store(out, silu(_mm256_mul_ps(_mm256_mul_ps(load(x), factor), load(gamma))));
    }
}

/// The sum of the squares, whose length is a multiple of 8.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    // Four sums at once: a single one would wait for itself.
    let (fours, rest) = x.as_chunks::<32>();
    let mut sums = [_mm256_setzero_ps(); 4];
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four.as_chunks::<8>().0) {
            *sum = square_add(x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.as_chunks::<8>().0) {
        *sum = square_add(x, *sum);
    }
    sum(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn square_add(x: &[f32; 8], sum: F32x8) -> F32x8 {
    _mm256_fmadd_ps(load(x), load(x), sum)
}

/// `sqrt(c) / max(||x||, 1e-12)`
#[inline]
#[target_feature(enable = "avx2,fma")]
fn channel_norm_factor(x: &[f32]) -> f32 {
    (x.len() as f32).sqrt() / sum_of_squares(x).sqrt().max(MIN_LENGTH as f32)
}

/// `x * factor * weight`
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scaled(x: &[f32], factor: f32, weight: &[f32], out: &mut [f32]) {
    let operands = x.as_chunks::<8>().0.iter().zip(weight.as_chunks::<8>().0);
    for (out, (x, weight)) in out.as_chunks_mut::<8>().0.iter_mut().zip(operands) {
        store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), splat(factor)), load(weight)));
    }
}
