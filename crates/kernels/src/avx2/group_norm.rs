//! Group norm: the moments of a picture in one pass over it, and what they make of its pixels.
//!
//! Moments are pooled from blocks of a fixed number of pixels, in order and in f64: how many
//! threads there are does not show in them.

use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_setzero_ps, _mm256_sub_ps};

use rayon::prelude::*;

use super::Avx2;
use super::norm::MIN_PARALLEL;
use super::parallel::split_rows;
use super::simd::{F32x8, load, load_at, silu, splat, store, store_at};
use crate::Watch;
use crate::group_norm::Affine;

/// Pixels whose deviations are summed in f32.
const BLOCK: usize = 256;

/// Of some numbers: how many, their mean, and the sum of the squared deviations from it.
#[derive(Clone, Copy, Default)]
struct Moments {
    len: f64,
    mean: f64,
    squares: f64,
}

/// The norm of the picture `x`, `[.., c]` with `c` a multiple of 8; weight and bias are `[c]`. Once the work is
/// interrupted it is of no use, and whatever kernel takes it says so.
pub(crate) fn affine(_: Avx2, x: &[f32], (weight, bias): (&[f32], &[f32]), num_groups: usize, eps: f64) -> Affine {
    let (channels, group_len) = (weight.len(), weight.len() / num_groups);
    let block_len = BLOCK * channels;
    let mut blocks = vec![Moments::default(); x.len().div_ceil(block_len) * num_groups];
    let parts = blocks.par_chunks_mut(num_groups).zip(x.par_chunks(block_len));
    let watch = Watch::current();
    parts.with_min_len(MIN_PARALLEL.div_ceil(block_len)).for_each(|(groups, block)| {
        if watch.is_set() {
            return;
        }
        // SAFETY: the token proves the features.
        let per_channel = unsafe { channel_moments(block, channels) };
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

/// `(x - mean) * scale + bias` of every pixel, and perhaps its SiLU.
pub(crate) fn apply(_: Avx2, x: &[f32], affine: &Affine, with_silu: bool) -> Vec<f32> {
    let channels = affine.bias.len();
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, channels, MIN_PARALLEL, &|first, out| {
        for (out, x) in out.chunks_exact_mut(channels).zip(x[first * channels..].chunks_exact(channels)) {
            // SAFETY: the token proves the features.
            unsafe { if with_silu { silu_pixel(x, affine, out) } else { pixel(x, affine, out) } };
        }
    });
    out
}

/// The norm of one pixel, then SiLU.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn silu_pixel(x: &[f32], affine: &Affine, out: &mut [f32]) {
    for (i, (out, x)) in out.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0).enumerate() {
        store(out, silu(normed(load(x), affine, 8 * i)));
    }
}

#[target_feature(enable = "avx2,fma")]
fn pixel(x: &[f32], affine: &Affine, out: &mut [f32]) {
    for (i, (out, x)) in out.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0).enumerate() {
        store(out, normed(load(x), affine, 8 * i));
    }
}

/// Of eight channels from `channel` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn normed(x: F32x8, affine: &Affine, channel: usize) -> F32x8 {
    let centred = _mm256_sub_ps(x, load_at(&affine.mean, channel));
    _mm256_fmadd_ps(centred, load_at(&affine.scale, channel), load_at(&affine.bias, channel))
}

/// The moments of all these numbers together.
fn pool<'a>(parts: impl Iterator<Item = &'a Moments> + Clone) -> Moments {
    let len: f64 = parts.clone().map(|part| part.len).sum();
    let mean = parts.clone().map(|part| part.len * part.mean).sum::<f64>() / len;
    let squares = parts.map(|part| part.squares + part.len * (part.mean - mean).powi(2)).sum();
    Moments { len, mean, squares }
}

/// The moments of each channel of a block of pixels.
#[target_feature(enable = "avx2,fma")]
fn channel_moments(x: &[f32], channels: usize) -> Vec<Moments> {
    let mut moments = Vec::with_capacity(channels);
    // Four vectors at once: a single sum would wait for itself.
    let fours = channels / 32 * 32;
    for first in (0..fours).step_by(32) {
        octets_moments::<4>(x, channels, first, &mut moments);
    }
    for first in (fours..channels).step_by(8) {
        octets_moments::<1>(x, channels, first, &mut moments);
    }
    moments
}

/// Of `8 * OCTETS` channels from `first` on.
///
/// Deviations are taken from the first pixel: from 0, a mean far from it would eat the digits of
/// the variance.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn octets_moments<const OCTETS: usize>(x: &[f32], channels: usize, first: usize, moments: &mut Vec<Moments>) {
    let mut pivots = [splat(0.0); OCTETS];
    for (i, pivot) in pivots.iter_mut().enumerate() {
        *pivot = load_at(x, first + 8 * i);
    }
    let (mut sums, mut squares) = ([_mm256_setzero_ps(); OCTETS], [_mm256_setzero_ps(); OCTETS]);
    for pixel in x.chunks_exact(channels) {
        for i in 0..OCTETS {
            let deviation = _mm256_sub_ps(load_at(pixel, first + 8 * i), pivots[i]);
            sums[i] = _mm256_add_ps(sums[i], deviation);
            squares[i] = _mm256_fmadd_ps(deviation, deviation, squares[i]);
        }
    }
    let len = (x.len() / channels) as f64;
    for i in 0..OCTETS {
        let mut octet = [[0.0; 8]; 3];
        for (out, value) in octet.iter_mut().zip([pivots[i], sums[i], squares[i]]) {
            store_at(out, 0, value);
        }
        let [pivots, sums, squares] = octet;
        moments.extend(pivots.iter().zip(sums).zip(squares).map(|((&pivot, sum), squares)| {
            let (mean, squares) = (f64::from(sum) / len, f64::from(squares));
            Moments { len, mean: f64::from(pivot) + mean, squares: squares - len * mean * mean }
        }));
    }
}
