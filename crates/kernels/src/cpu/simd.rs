//! The interface of a vector instruction set. Every kernel is written once over it.
//!
//! A kernel is a chain of `#[inline(always)]` functions and closures over an `S: Simd`. [`vectorized!`] enters it, and
//! inside the compiler may use the instructions. So one source yields the kernels of every set, each compiled as a
//! whole. A function that is not inlined is compiled without the instructions and is ten times slower.

use half::{bf16, f16};

/// The instructions of one set, and proof that this processor has them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// [`Simd::LANES`] floats.
    type Vector: Copy;
    /// A set with vectors of eight floats, for data that is at most eight numbers wide.
    type Octets: Simd;
    /// Floats of a vector: 8 or 16.
    const LANES: usize;
    /// The register tile of a matrix product.
    const TILE: Tile;

    /// Runs `work` compiled for these instructions, if it is inlined: see [`vectorized!`].
    fn call<R>(self, work: impl FnOnce() -> R) -> R;
    /// The set with vectors of eight floats.
    fn octets(self) -> Self::Octets;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::Vector;
    /// Loads a whole vector.
    ///
    /// # Safety
    /// `x` is readable for [`Simd::LANES`] floats.
    unsafe fn load_from(self, x: *const f32) -> Self::Vector;
    /// # Safety
    /// `out` is writable for [`Simd::LANES`] floats.
    unsafe fn store_to(self, out: *mut f32, x: Self::Vector);
    /// Loads a partial vector, padded with zeros. `x` has fewer numbers than [`Simd::LANES`].
    fn load_part(self, x: &[f32]) -> Self::Vector;
    /// Stores as many numbers as `out` has, fewer than [`Simd::LANES`].
    fn store_part(self, out: &mut [f32], x: Self::Vector);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger of each pair; `b` if one of them is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller of each pair; `b` if one of them is NaN.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The magnitudes.
    fn abs(self, x: Self::Vector) -> Self::Vector;
    /// The nearest integers.
    fn round(self, x: Self::Vector) -> Self::Vector;
    /// `x * 2^n` for an integer `n` from -126 to 127.
    fn scale_by_power(self, x: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// The sum of all lanes.
    fn sum(self, x: Self::Vector) -> f32;
    /// The largest lane.
    fn largest(self, x: Self::Vector) -> f32;
    /// Rotates the pairs `(x, y)` of neighbouring lanes to `(x cos - y sin, y cos + x sin)`. `cos` and `sin` hold one
    /// number per pair and may end early.
    fn rotate_pairs(self, x: Self::Vector, cos: &[f32], sin: &[f32]) -> Self::Vector;

    /// Converts bf16 to f32. Both slices have the same length.
    fn widen_bf16(self, from: &[bf16], to: &mut [f32]);
    /// Converts f16 to f32. Both slices have the same length.
    fn widen_f16(self, from: &[f16], to: &mut [f32]);
    /// Prefetches memory. The address need not be valid.
    fn prefetch(self, address: *const u8);

    /// The first vector of `x`.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::Vector {
        assert!(x.len() >= Self::LANES);
        // SAFETY: as asserted.
        unsafe { self.load_from(x.as_ptr()) }
    }

    /// Writes the first vector of `out`.
    #[inline(always)]
    fn store(self, out: &mut [f32], x: Self::Vector) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: as asserted.
        unsafe { self.store_to(out.as_mut_ptr(), x) }
    }

    /// Loads a vector, or a partial one if `x` is shorter.
    #[inline(always)]
    fn load_some(self, x: &[f32]) -> Self::Vector {
        if x.len() >= Self::LANES { self.load(x) } else { self.load_part(x) }
    }

    /// Stores a vector, or a partial one if `out` is shorter.
    #[inline(always)]
    fn store_some(self, out: &mut [f32], x: Self::Vector) {
        if out.len() >= Self::LANES { self.store(out, x) } else { self.store_part(out, x) }
    }
}

/// Runs `$work` compiled for the instructions of `$set`.
macro_rules! vectorized {
    ($set:expr, $work:expr) => {
        $set.call(
            #[inline(always)]
            || $work,
        )
    };
}
pub(super) use vectorized;

/// The register tile of a matrix product, and the block sizes that keep its operands in the caches.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// The largest number of rows.
    pub(crate) rows: usize,
    /// The largest number of panels of 16 columns.
    pub(crate) panels: usize,
    /// The longest part of a sum if the left operand is read in place.
    pub(crate) short_k: usize,
    /// The longest part of a sum if the left operand is packed.
    pub(crate) tall_k: usize,
    /// The largest number of rows of a packed left operand.
    pub(crate) tall_rows: usize,
}

/// `out = f(a)`, a vector at a time.
#[inline(always)]
pub(super) fn map<S: Simd>(s: S, out: &mut [f32], a: &[f32], f: impl Fn(S::Vector) -> S::Vector) {
    assert_eq!(out.len(), a.len());
    let whole = a.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        s.store(&mut out[i..], f(s.load(&a[i..])));
    }
    if whole < a.len() {
        s.store_part(&mut out[whole..], f(s.load_part(&a[whole..])));
    }
}

/// `out = f(a, b)`, a vector at a time.
#[inline(always)]
pub(super) fn map2<S: Simd>(
    s: S,
    out: &mut [f32],
    a: &[f32],
    b: &[f32],
    f: impl Fn(S::Vector, S::Vector) -> S::Vector,
) {
    assert!(out.len() == a.len() && a.len() == b.len());
    let whole = a.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        s.store(&mut out[i..], f(s.load(&a[i..]), s.load(&b[i..])));
    }
    if whole < a.len() {
        s.store_part(&mut out[whole..], f(s.load_part(&a[whole..]), s.load_part(&b[whole..])));
    }
}

/// `out = f(a, b, c)`, a vector at a time.
#[inline(always)]
pub(super) fn map3<S: Simd>(
    s: S,
    out: &mut [f32],
    [a, b, c]: [&[f32]; 3],
    f: impl Fn(S::Vector, S::Vector, S::Vector) -> S::Vector,
) {
    assert!(out.len() == a.len() && a.len() == b.len() && a.len() == c.len());
    let whole = a.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        s.store(&mut out[i..], f(s.load(&a[i..]), s.load(&b[i..]), s.load(&c[i..])));
    }
    if whole < a.len() {
        let [a, b, c] = [a, b, c].map(|x| s.load_part(&x[whole..]));
        s.store_part(&mut out[whole..], f(a, b, c));
    }
}

/// `e^x` with an error of at most 1.2e-7. `x` is clamped to -87.3..=88.3, so -inf gives about 1e-38. NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    // If one of the two operands is NaN, the result is the second.
    let x = s.max(s.splat(-87.3), s.min(s.splat(88.3), x));
    // x = n ln 2 + r, with ln 2 in two parts; then a polynomial in r (Cephes' expf).
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), s.fnma(n, s.splat(0.693_359_4), x));
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    s.scale_by_power(s.fma(p, s.mul(r, r), s.add(r, s.splat(1.0))), n)
}

/// The tanh approximation of GELU, which is `x * sigmoid(2 u)`.
#[inline(always)]
pub(super) fn gelu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    const MINUS_2_SQRT_2_OVER_PI: f32 = -1.595_769;
    let (a, b) = (s.splat(MINUS_2_SQRT_2_OVER_PI), s.splat(MINUS_2_SQRT_2_OVER_PI * 0.044_715));
    let minus_2u = s.mul(x, s.fma(s.mul(x, x), b, a));
    s.div(x, s.add(s.splat(1.0), exp(s, minus_2u)))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) fn silu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, s.splat(-1.0)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_each_simd;

    /// Applies `f` to the numbers, a vector at a time.
    fn mapped<S: Simd>(s: S, x: &[f32], f: fn(S, S::Vector) -> S::Vector) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        vectorized!(
            s,
            map(
                s,
                &mut out,
                x,
                #[inline(always)]
                |x| f(s, x)
            )
        );
        out
    }

    /// The largest relative error of `kernel` against `exact` from -20 to 20.
    fn error<S: Simd>(s: S, kernel: fn(S, S::Vector) -> S::Vector, exact: impl Fn(f64) -> f64) -> f64 {
        let x: Vec<_> = (-20_000..20_000).map(|i| i as f32 * 1e-3).collect();
        let errors = x.iter().zip(mapped(s, &x, kernel)).map(|(x, given)| {
            let exact = exact(f64::from(*x));
            (f64::from(given) - exact).abs() / exact.abs().max(1e-6)
        });
        errors.fold(0.0, f64::max)
    }

    fn check_exponentials<S: Simd>(s: S, name: &str) {
        let tanh_of = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        let exp = error(s, super::exp, f64::exp);
        let silu = error(s, super::silu, |x| x / (1.0 + (-x).exp()));
        let gelu = error(s, super::gelu, |x| 0.5 * x * (1.0 + tanh_of(x).tanh()));
        println!("{name}: exp {exp:.1e}, silu {silu:.1e}, gelu {gelu:.1e}");
        assert!(exp < 2.5e-7 && silu < 4e-7 && gelu < 3e-6, "{name}: exp {exp:e}, silu {silu:e}, gelu {gelu:e}");
    }

    fn check_no_number<S: Simd>(s: S, name: &str) {
        let x = [0.0, f32::NAN, 1.0, -f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 2.0, 3.0].repeat(2);
        let expected = [false, true, false, true, false, false, false, false].repeat(2);
        let powers = mapped(s, &x, super::exp);
        assert_eq!(powers.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), expected, "{name}: {powers:?}");
    }

    fn check_parts<S: Simd>(s: S, name: &str) {
        let x: Vec<_> = (1..=16).map(|i| if i == 2 { -99.0 } else { i as f32 }).collect();
        let whole = vectorized!(s, (s.sum(s.load(&x)), s.largest(s.load(&x)), s.largest(s.abs(s.load(&x)))));
        let sum: f32 = x[..S::LANES].iter().sum();
        assert_eq!(whole, (sum, S::LANES as f32, 99.0), "{name}");
        for len in 1..S::LANES {
            let part = vectorized!(s, s.sum(s.load_part(&x[..len])));
            assert_eq!(part, x[..len].iter().sum::<f32>(), "{name}: {len}");
            let mut out = vec![7.0; len + 1];
            vectorized!(s, s.store_part(&mut out[..len], s.load(&x)));
            assert_eq!((&out[..len], out[len]), (&x[..len], 7.0), "{name}: {len}");
        }
    }

    fn check_pairs<S: Simd>(s: S, name: &str) {
        let x: Vec<_> = (1..=16).map(|i| i as f32).collect();
        let (cos, sin): (Vec<_>, Vec<_>) = (0..8).map(|i| (i as f32 * 0.5, 1.0 - i as f32)).unzip();
        let mut out = vec![0.0; S::LANES];
        vectorized!(s, s.store(&mut out, s.rotate_pairs(s.load(&x), &cos[..S::LANES / 2], &sin[..S::LANES / 2])));
        let expected: Vec<_> = (0..S::LANES / 2)
            .flat_map(|i| {
                let (x, y) = (x[2 * i], x[2 * i + 1]);
                [x * cos[i] - y * sin[i], y * cos[i] + x * sin[i]]
            })
            .collect();
        assert_eq!(out, expected, "{name}");
    }

    #[test]
    fn exponential_functions_are_exact_to_a_few_ulp() {
        on_each_simd!(check_exponentials);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        on_each_simd!(check_no_number);
    }

    #[test]
    fn vectors_are_reduced_and_cut() {
        on_each_simd!(check_parts);
    }

    #[test]
    fn pairs_are_rotated() {
        on_each_simd!(check_pairs);
    }
}
