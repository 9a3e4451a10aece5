//! Group norm: computes the moments of a picture in one pass and applies them to its pixels.
//!
//! Moments are pooled from blocks of a fixed number of pixels, in order and in f64. So the result does not depend on
//! the number of threads.

use rayon::prelude::*;

use super::norm::MIN_PARALLEL;
use super::parallel::split_rows;
use super::simd::{Simd, silu, vectorized};
use crate::Watch;

/// The number of pixels whose deviations are summed in f32.
const BLOCK: usize = 256;

/// A group norm as it applies to the channels of one picture: `(x - mean) * scale + bias`.
pub(crate) struct Affine {
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Moments of some numbers: their count, their mean, and the sum of the squared deviations from it.
#[derive(Clone, Copy, Default)]
struct Moments {
    len: f64,
    mean: f64,
    squares: f64,
}

/// The norm of the picture `x`, `[.., c]`; weight and bias are `[c]`. If the work is interrupted the result is
/// meaningless, and the kernel that uses it reports the interrupt.
pub(super) fn affine<S: Simd>(
    s: S,
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    num_groups: usize,
    eps: f64,
) -> Affine {
    let (channels, group_len) = (weight.len(), weight.len() / num_groups);
    let block_len = BLOCK * channels;
    let mut blocks = vec![Moments::default(); x.len().div_ceil(block_len) * num_groups];
    let parts = blocks.par_chunks_mut(num_groups).zip(x.par_chunks(block_len));
    let watch = Watch::current();
    parts.with_min_len(MIN_PARALLEL.div_ceil(block_len)).for_each(|(groups, block)| {
        if watch.is_set() {
            return;
        }
        let per_channel = vectorized!(s, channel_moments(s, block, channels));
        for (group, channels) in groups.iter_mut().zip(per_channel.chunks_exact(group_len)) {
            *group = pool(channels.iter());
        }
    });
    let mut affine = Affine { mean: Vec::new(), scale: Vec::new(), bias: bias.to_vec() };
    for (group, weight) in weight.chunks_exact(group_len).enumerate() {
        let Moments { len, mean, squares } = pool(blocks[group..].iter().step_by(num_groups));
        let factor = 1.0 / (squares / len + eps).sqrt();
        affine.mean.resize(affine.mean.len() + group_len, mean as f32);
        affine.scale.extend(weight.iter().map(|&weight| (f64::from(weight) * factor) as f32));
    }
    affine
}

/// `(x - mean) * scale + bias` of every pixel, followed by SiLU if `with_silu`.
pub(super) fn apply<S: Simd>(s: S, x: &[f32], affine: &Affine, with_silu: bool) -> Vec<f32> {
    let channels = affine.bias.len();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, channels, MIN_PARALLEL, &|first, out| {
        let pixels = out.chunks_exact_mut(channels).zip(x[first * channels..].chunks_exact(channels));
        vectorized!(
            s,
            for (out, x) in pixels {
                if with_silu {
                    silu_pixel(s, x, affine, out)
                } else {
                    pixel(s, x, affine, out)
                };
            }
        );
    });
    out
}

/// The norm of one pixel, then SiLU.
#[inline(always)]
pub(super) fn silu_pixel<S: Simd>(s: S, x: &[f32], affine: &Affine, out: &mut [f32]) {
    normed(
        s,
        x,
        affine,
        out,
        #[inline(always)]
        |x| silu(s, x),
    );
}

#[inline(always)]
fn pixel<S: Simd>(s: S, x: &[f32], affine: &Affine, out: &mut [f32]) {
    normed(
        s,
        x,
        affine,
        out,
        #[inline(always)]
        |x| x,
    );
}

#[inline(always)]
fn normed<S: Simd>(s: S, x: &[f32], affine: &Affine, out: &mut [f32], f: impl Fn(S::Vector) -> S::Vector) {
    let Affine { mean, scale, bias } = affine;
    assert!(out.len() == x.len() && [mean, scale, bias].iter().all(|numbers| numbers.len() == x.len()));
    let whole = x.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let centred = s.sub(s.load(&x[i..]), s.load(&mean[i..]));
        s.store(&mut out[i..], f(s.fma(centred, s.load(&scale[i..]), s.load(&bias[i..]))));
    }
    if whole < x.len() {
        let centred = s.sub(s.load_part(&x[whole..]), s.load_part(&mean[whole..]));
        s.store_part(&mut out[whole..], f(s.fma(centred, s.load_part(&scale[whole..]), s.load_part(&bias[whole..]))));
    }
}

/// The moments of the union of `parts`.
fn pool<'a>(parts: impl Iterator<Item = &'a Moments> + Clone) -> Moments {
    let len: f64 = parts.clone().map(|part| part.len).sum();
    let mean = parts.clone().map(|part| part.len * part.mean).sum::<f64>() / len;
    let squares = parts.map(|part| part.squares + part.len * (part.mean - mean).powi(2)).sum();
    Moments { len, mean, squares }
}

/// The moments of each channel of a block of pixels.
#[inline(always)]
fn channel_moments<S: Simd>(s: S, x: &[f32], channels: usize) -> Vec<Moments> {
    let mut moments = Vec::with_capacity(channels);
    // Four vectors at once, because the additions of a single sum would wait for each other.
    let fours = channels / (4 * S::LANES) * (4 * S::LANES);
    for first in (0..fours).step_by(4 * S::LANES) {
        vector_moments::<S, 4>(s, x, channels, first, &mut moments);
    }
    for first in (fours..channels).step_by(S::LANES) {
        vector_moments::<S, 1>(s, x, channels, first, &mut moments);
    }
    moments
}

/// The moments of `VECTORS` vectors of channels from `first` on. The last vector may be partial.
///
/// Deviations are taken from the first pixel. Taken from 0, a mean far from 0 would cost the variance its digits.
#[inline(always)]
fn vector_moments<S: Simd, const VECTORS: usize>(
    s: S,
    x: &[f32],
    channels: usize,
    first: usize,
    moments: &mut Vec<Moments>,
) {
    let mut pivots = [s.splat(0.0); VECTORS];
    let (mut sums, mut squares) = (pivots, pivots);
    for (i, pivot) in pivots.iter_mut().enumerate() {
        *pivot = s.load_some(&x[first + i * S::LANES..channels]);
    }
    let width = channels - first;
    if width >= VECTORS * S::LANES {
        for pixel in x.chunks_exact(channels) {
            let pixel = &pixel[first..first + VECTORS * S::LANES];
            for i in 0..VECTORS {
                let deviation = s.sub(s.load(&pixel[i * S::LANES..]), pivots[i]);
                sums[i] = s.add(sums[i], deviation);
                squares[i] = s.fma(deviation, deviation, squares[i]);
            }
        }
    } else {
        for pixel in x.chunks_exact(channels) {
            let deviation = s.sub(s.load_part(&pixel[first..]), pivots[0]);
            sums[0] = s.add(sums[0], deviation);
            squares[0] = s.fma(deviation, deviation, squares[0]);
        }
    }
    let len = (x.len() / channels) as f64;
    for i in 0..VECTORS {
        let width = S::LANES.min(width - i * S::LANES);
        let mut lanes = [[0.0; 16]; 3];
        for (out, value) in lanes.iter_mut().zip([pivots[i], sums[i], squares[i]]) {
            s.store(out, value);
        }
        let [pivots, sums, squares] = lanes;
        moments.extend(pivots[..width].iter().zip(sums).zip(squares).map(|((&pivot, sum), squares)| {
            let (mean, squares) = (f64::from(sum) / len, f64::from(squares));
            Moments { len, mean: f64::from(pivot) + mean, squares: squares - len * mean * mean }
        }));
    }
}
