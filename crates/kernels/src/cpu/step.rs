//! Sums of the cached step, in one pass over memory.

use rayon::prelude::*;

use super::parallel::split_rows;
use super::simd::{Simd, vectorized};

/// Size in floats below which a second thread costs more than it gains.
const MIN_PARALLEL: usize = 1 << 15;
/// The number of floats that are summed in f32 before the sum continues in f64.
const BLOCK: usize = 1024;

/// `sum(|previous - current|)` and `sum(|previous|)`.
///
/// Blocks of 1024 are summed a vector at a time in f32, and their sums in f64. The order depends only on the length.
pub(super) fn abs_sums<S: Simd>(s: S, current: &[f32], previous: &[f32]) -> (f64, f64) {
    let block = |(current, previous): (&[f32], &[f32])| vectorized!(s, block_sums(s, current, previous));
    let sums: Vec<_> = if current.len() < 2 * MIN_PARALLEL {
        current.chunks(BLOCK).zip(previous.chunks(BLOCK)).map(block).collect()
    } else {
        let blocks = current.par_chunks(BLOCK).zip(previous.par_chunks(BLOCK));
        blocks.with_min_len(MIN_PARALLEL / BLOCK).map(block).collect()
    };
    sums.iter().fold((0.0, 0.0), |(diff, size), block| (diff + f64::from(block.0), size + f64::from(block.1)))
}

/// `sum(weight * term)` of at least one term. All terms have the same length.
pub(super) fn weighted_sum<S: Simd>(s: S, terms: &[(f32, &[f32])]) -> Vec<f32> {
    let mut out = vec![0.0; terms[0].1.len()];
    split_rows(&mut out, 1, MIN_PARALLEL, &|first, out| {
        let range = first..first + out.len();
        let terms: Vec<_> = terms.iter().map(|(weight, term)| (*weight, &term[range.clone()])).collect();
        vectorized!(s, weighted_sum_part(s, &terms, out));
    });
    out
}

#[inline(always)]
fn block_sums<S: Simd>(s: S, current: &[f32], previous: &[f32]) -> (f32, f32) {
    let ((c, c_rest), (p, p_rest)) = (split(s, current), split(s, previous));
    let (mut diff, mut size) = (s.splat(0.0), s.splat(0.0));
    for (current, previous) in c.chunks_exact(S::LANES).zip(p.chunks_exact(S::LANES)) {
        let (current, previous) = (s.load(current), s.load(previous));
        diff = s.add(diff, s.abs(s.sub(previous, current)));
        size = s.add(size, s.abs(previous));
    }
    let rest = c_rest.iter().zip(p_rest);
    rest.fold((s.sum(diff), s.sum(size)), |(diff, size), (c, p)| (diff + (p - c).abs(), size + p.abs()))
}

/// Splits `x` into whole vectors and the rest.
#[inline(always)]
fn split<S: Simd>(_: S, x: &[f32]) -> (&[f32], &[f32]) {
    x.split_at(x.len() / S::LANES * S::LANES)
}

/// The partial vector at the end uses the same fused operation, so that a number does not depend on where the work was
/// cut.
#[inline(always)]
fn weighted_sum_part<S: Simd>(s: S, terms: &[(f32, &[f32])], out: &mut [f32]) {
    let whole = out.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        let mut total = s.splat(0.0);
        for (weight, term) in terms {
            total = s.fma(s.splat(*weight), s.load(&term[i..]), total);
        }
        s.store(&mut out[i..], total);
    }
    if whole < out.len() {
        let mut total = s.splat(0.0);
        for (weight, term) in terms {
            total = s.fma(s.splat(*weight), s.load_part(&term[whole..]), total);
        }
        s.store_part(&mut out[whole..], total);
    }
}
