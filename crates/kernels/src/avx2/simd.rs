//! Eight floats at a time: loads, sums and the exponential functions.

use std::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_max_ps, _mm_max_ss, _mm_movehl_ps, _mm_shuffle_ps,
    _mm256_add_epi32, _mm256_add_ps, _mm256_andnot_ps, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtps_epi32,
    _mm256_div_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_max_ps,
    _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

/// Eight floats.
pub(super) type F32x8 = __m256;

/// Reads eight floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load(x: &[f32; 8]) -> F32x8 {
    // SAFETY: the array is eight floats long.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// Reads eight floats from `index` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load_at(x: &[f32], index: usize) -> F32x8 {
    load(x[index..].first_chunk().expect("eight floats lie from the index on. This is a bug."))
}

/// Writes eight floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(x: &mut [f32; 8], value: F32x8) {
    // SAFETY: the array is eight floats long.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), value) }
}

/// Writes eight floats from `index` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store_at(x: &mut [f32], index: usize, value: F32x8) {
    store(x[index..].first_chunk_mut().expect("eight floats lie from the index on. This is a bug."), value)
}

/// `x` eight times.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn splat(x: f32) -> F32x8 {
    _mm256_set1_ps(x)
}

/// The sum of the eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn sum(x: F32x8) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// The largest of the eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn max(x: F32x8) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// The magnitudes of the eight.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn abs(x: F32x8) -> F32x8 {
    _mm256_andnot_ps(splat(-0.0), x)
}

/// `e^x` within 1.2e-7 of it, `x` held to -87.3..=88.3 (so -inf gives about 1e-38). NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp(x: F32x8) -> F32x8 {
    // The second operand is what comes out where one of the two is NaN.
    let x = _mm256_max_ps(splat(-87.3), _mm256_min_ps(splat(88.3), x));
    // x = n ln 2 + r, ln 2 in two parts; then a polynomial in r (Cephes' expf).
    let n = _mm256_round_ps::<8>(_mm256_mul_ps(x, splat(std::f32::consts::LOG2_E)));
    let r = _mm256_fnmadd_ps(n, splat(-2.121_944_4e-4), _mm256_fnmadd_ps(n, splat(0.693_359_4), x));
    let mut p = splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm256_fmadd_ps(p, r, splat(c));
    }
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, splat(1.0)));
    let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
    _mm256_mul_ps(p, _mm256_castsi256_ps(exponent))
}

/// The tanh approximation of GELU, which is `x * sigmoid(2 u)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn gelu(x: F32x8) -> F32x8 {
    const MINUS_2_SQRT_2_OVER_PI: f32 = -1.595_769;
    let (a, b) = (splat(MINUS_2_SQRT_2_OVER_PI), splat(MINUS_2_SQRT_2_OVER_PI * 0.044_715));
    let minus_2u = _mm256_mul_ps(x, _mm256_fmadd_ps(_mm256_mul_ps(x, x), b, a));
    _mm256_div_ps(x, _mm256_add_ps(splat(1.0), exp(minus_2u)))
}

/// `x * sigmoid(x)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn silu(x: F32x8) -> F32x8 {
    _mm256_div_ps(x, _mm256_add_ps(splat(1.0), exp(_mm256_mul_ps(x, splat(-1.0)))))
}

#[cfg(test)]
mod tests {
    use super::super::Avx2;
    use super::*;

    /// The largest relative error of `kernel` against `exact` from -20 to 20.
    fn error(kernel: impl Fn(&mut [f32; 8]), exact: impl Fn(f64) -> f64) -> f64 {
        let mut worst = 0f64;
        for i in -20_000..20_000 {
            let x = i as f32 * 1e-3;
            let mut given = [x; 8];
            kernel(&mut given);
            let exact = exact(f64::from(x));
            worst = worst.max((f64::from(given[7]) - exact).abs() / exact.abs().max(1e-6));
        }
        worst
    }

    #[test]
    fn exponential_functions_are_exact_to_a_few_ulp() {
        let Some(_) = Avx2::detect() else { return };
        // SAFETY: the processor has the features.
        let (exp, silu, gelu) = unsafe {
            (
                error(|x| store(x, exp(load(x))), f64::exp),
                error(|x| store(x, silu(load(x))), |x| x / (1.0 + (-x).exp())),
                error(
                    |x| store(x, gelu(load(x))),
                    |x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
                ),
            )
        };
        println!("exp {exp:.1e}, silu {silu:.1e}, gelu {gelu:.1e}");
        assert!(exp < 2.5e-7 && silu < 4e-7 && gelu < 3e-6, "exp {exp:e}, silu {silu:e}, gelu {gelu:e}");
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let Some(_) = Avx2::detect() else { return };
        let x = [0.0, f32::NAN, 1.0, -f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 2.0, 3.0];
        let mut powers = [0.0; 8];
        // SAFETY: the processor has the features.
        unsafe { store(&mut powers, exp(load(&x))) };
        let expected = [false, true, false, true, false, false, false, false];
        assert_eq!(powers.map(f32::is_nan), expected, "{powers:?}");
    }

    #[test]
    fn eight_are_reduced_to_one() {
        let Some(_) = Avx2::detect() else { return };
        let x = [1.0, -9.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5];
        // SAFETY: the processor has the features.
        let (sum, max, abs) = unsafe { (sum(load(&x)), max(load(&x)), max(abs(load(&x)))) };
        assert_eq!((sum, max, abs), (25.5, 8.5, 9.0));
    }
}
