//! Operations on one token or pixel at a time: norms, and activations with two operands.

use super::numbers::RowVectors;
use super::parallel::split_rows;
use super::simd::{Simd, map2, map3, silu, vectorized};
use crate::RowLayout;

/// Size in floats below which a second thread costs more than it gains.
pub(super) const MIN_PARALLEL: usize = 1 << 14;
/// The smallest length that [`channel_norm`] divides by.
const MIN_LENGTH: f32 = 1e-12;

/// `[tokens, dim]`: see [`crate::modulated_layer_norm`].
pub(super) fn modulated_layer_norm<S: Simd>(
    s: S,
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
        vectorized!(
            s,
            for ((out, x), &row) in tokens {
                let shift = &shift.as_slice()[row * shift.stride()..][..dim];
                let scale = &scale.as_slice()[row * scale.stride()..][..dim];
                modulated_layer_norm_token(s, x, shift, scale, eps as f32, out);
            }
        );
    });
    out
}

/// `[.., dim]`: see [`crate::rms_norm`].
pub(super) fn rms_norm<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    each_row(
        s,
        x,
        weight,
        #[inline(always)]
        move |s, x| 1.0 / (sum_of_squares(s, x) / x.len() as f32 + eps as f32).sqrt(),
    )
}

/// `[.., channels]`: see [`crate::channel_norm`].
pub(super) fn channel_norm<S: Simd>(s: S, x: &[f32], gamma: &[f32]) -> Vec<f32> {
    each_row(
        s,
        x,
        gamma,
        #[inline(always)]
        |s, x| channel_norm_factor(s, x),
    )
}

/// `x * factor(x) * weight` of every row; a row is as long as the weight.
fn each_row<S: Simd>(s: S, x: &[f32], weight: &[f32], factor: impl Fn(S, &[f32]) -> f32 + Sync) -> Vec<f32> {
    let dim = weight.len();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, dim, MIN_PARALLEL, &|first, out| {
        vectorized!(
            s,
            for (out, x) in out.chunks_exact_mut(dim).zip(x[first * dim..].chunks_exact(dim)) {
                scaled(s, x, factor(s, x), weight, out);
            }
        );
    });
    out
}

/// `[tokens, 2 * features]`: see [`crate::swiglu`].
pub(super) fn swiglu<S: Simd>(s: S, gate_up: &[f32], features: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    split_rows(&mut out, features, MIN_PARALLEL, &|first, out| {
        let tokens = gate_up[first * 2 * features..].chunks_exact(2 * features);
        vectorized!(
            s,
            for (out, gate_up) in out.chunks_exact_mut(features).zip(tokens) {
                swiglu_token(s, gate_up, out);
            }
        );
    });
    out
}

#[inline(always)]
fn modulated_layer_norm_token<S: Simd>(s: S, x: &[f32], shift: &[f32], scale: &[f32], eps: f32, out: &mut [f32]) {
    let dim = x.len() as f32;
    let (whole, rest) = x.split_at(x.len() / S::LANES * S::LANES);
    let mut total = s.splat(0.0);
    for x in whole.chunks_exact(S::LANES) {
        total = s.add(total, s.load(x));
    }
    let mean = (s.sum(total) + rest.iter().sum::<f32>()) / dim;
    let (centre, mut squares) = (s.splat(mean), s.splat(0.0));
    for x in whole.chunks_exact(S::LANES) {
        let centred = s.sub(s.load(x), centre);
        squares = s.fma(centred, centred, squares);
    }
    let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
    let factor = s.splat(1.0 / ((s.sum(squares) + rest) / dim + eps).sqrt());
    map3(
        s,
        out,
        [x, shift, scale],
        #[inline(always)]
        |x, shift, scale| s.fma(s.mul(s.sub(x, centre), factor), s.add(scale, s.splat(1.0)), shift),
    );
}

#[inline(always)]
fn swiglu_token<S: Simd>(s: S, gate_up: &[f32], out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    map2(
        s,
        out,
        gate,
        up,
        #[inline(always)]
        |gate, up| s.mul(silu(s, gate), up),
    );
}

/// `silu(channel_norm(x))` of one pixel.
#[inline(always)]
pub(super) fn channel_norm_silu_pixel<S: Simd>(s: S, x: &[f32], gamma: &[f32], out: &mut [f32]) {
    let factor = s.splat(channel_norm_factor(s, x));
    map2(
        s,
        out,
        x,
        gamma,
        #[inline(always)]
        |x, gamma| silu(s, s.mul(s.mul(x, factor), gamma)),
    );
}

#[inline(always)]
pub(super) fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    // Four sums at once, because the additions of a single sum would wait for each other.
    let mut sums = [s.splat(0.0); 4];
    let (fours, rest) = x.split_at(x.len() / (4 * S::LANES) * (4 * S::LANES));
    for four in fours.chunks_exact(4 * S::LANES) {
        for (index, sum) in sums.iter_mut().enumerate() {
            let x = s.load(&four[index * S::LANES..]);
            *sum = s.fma(x, x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest.chunks(S::LANES)) {
        let x = s.load_some(x);
        *sum = s.fma(x, x, *sum);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// `sqrt(c) / max(||x||, 1e-12)`
#[inline(always)]
fn channel_norm_factor<S: Simd>(s: S, x: &[f32]) -> f32 {
    (x.len() as f32).sqrt() / sum_of_squares(s, x).sqrt().max(MIN_LENGTH)
}

/// `x * factor * weight`
#[inline(always)]
pub(super) fn scaled<S: Simd>(s: S, x: &[f32], factor: f32, weight: &[f32], out: &mut [f32]) {
    let factor = s.splat(factor);
    map2(
        s,
        out,
        x,
        weight,
        #[inline(always)]
        |x, weight| s.mul(s.mul(x, factor), weight),
    );
}
