//! One pass over memory for the sums of the cached step.

use std::arch::x86_64::{_mm256_add_ps, _mm256_fmadd_ps, _mm256_setzero_ps, _mm256_sub_ps};

use rayon::prelude::*;

use super::Avx2;
use super::parallel::split_rows;
use super::simd::{abs, load, splat, store, sum};

/// Floats below which a second thread costs more than it gains.
const MIN_PARALLEL: usize = 1 << 15;
/// Floats that are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 1024;

/// `sum(|previous - current|)` and `sum(|previous|)`.
///
/// Blocks of 1024 are summed eight numbers abreast in f32 and their sums in f64, in an order
/// that depends on the length only.
pub(crate) fn abs_sums(_: Avx2, current: &[f32], previous: &[f32]) -> (f64, f64) {
    // SAFETY: the token proves the features.
    let block = |(current, previous): (&[f32], &[f32])| unsafe { block_sums(current, previous) };
    let sums: Vec<_> = if current.len() < 2 * MIN_PARALLEL {
        current.chunks(BLOCK).zip(previous.chunks(BLOCK)).map(block).collect()
    } else {
        let blocks = current.par_chunks(BLOCK).zip(previous.par_chunks(BLOCK));
        blocks.with_min_len(MIN_PARALLEL / BLOCK).map(block).collect()
    };
    sums.iter().fold((0.0, 0.0), |(diff, size), block| (diff + f64::from(block.0), size + f64::from(block.1)))
}

/// `x + sum(weight * term)`, every term as long as `x`.
pub(crate) fn add_weighted(_: Avx2, x: &[f32], terms: &[(f32, &[f32])]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    split_rows(&mut out, 1, MIN_PARALLEL, &|first, out| {
        let range = first..first + out.len();
        let terms: Vec<_> = terms.iter().map(|(weight, term)| (*weight, &term[range.clone()])).collect();
        // SAFETY: the token proves the features.
        unsafe { add_weighted_part(&x[range], &terms, out) };
    });
    out
}

#[target_feature(enable = "avx2,fma")]
fn block_sums(current: &[f32], previous: &[f32]) -> (f32, f32) {
    let ((c, c_rest), (p, p_rest)) = (current.as_chunks::<8>(), previous.as_chunks::<8>());
    let (mut diff, mut size) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (c, p) in c.iter().zip(p) {
        diff = _mm256_add_ps(diff, abs(_mm256_sub_ps(load(p), load(c))));
        size = _mm256_add_ps(size, abs(load(p)));
    }
    let rest = c_rest.iter().zip(p_rest);
    rest.fold((sum(diff), sum(size)), |(diff, size), (c, p)| (diff + (p - c).abs(), size + p.abs()))
}

#[target_feature(enable = "avx2,fma")]
fn add_weighted_part(x: &[f32], terms: &[(f32, &[f32])], out: &mut [f32]) {
    let eights = x.len() / 8;
    for (i, (out, x)) in out.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0).enumerate() {
        let total = terms.iter().fold(load(x), |total, (weight, term)| {
            _mm256_fmadd_ps(splat(*weight), load(&term.as_chunks::<8>().0[i]), total)
        });
        store(out, total);
    }
    // The end goes through the same fused operation, so that a number does not depend on
    // where the work was cut.
    for i in 8 * eights..x.len() {
        out[i] = terms.iter().fold(x[i], |total, (weight, term)| weight.mul_add(term[i], total));
    }
}
