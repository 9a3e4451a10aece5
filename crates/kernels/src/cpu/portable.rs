//! Arrays of eight floats, which the compiler turns into the vectors of the target. On 64-bit ARM that is NEON, and
//! this set is the default. Elsewhere it serves tests and comparisons: without a hardware fused multiply-add each one
//! is a function call.

use half::{bf16, f16};

use super::simd::{Simd, Tile};

/// The portable set, which needs no processor feature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Computes each lane by `f`.
#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; 8] {
    let mut out = [0.0; 8];
    for (lane, out) in out.iter_mut().enumerate() {
        *out = f(lane);
    }
    out
}

impl Simd for Portable {
    type Vector = [f32; 8];
    type Octets = Portable;
    const LANES: usize = 8;
    /// Twenty-four of NEON's thirty-two registers of four floats hold sums.
    const TILE: Tile = Tile { rows: 6, panels: 1, short_k: 512, tall_k: 320, tall_rows: 144 };

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }

    #[inline(always)]
    fn octets(self) -> Portable {
        self
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn load_from(self, x: *const f32) -> [f32; 8] {
        // SAFETY: the caller promises eight floats; an array has the alignment of one.
        unsafe { *x.cast() }
    }

    #[inline(always)]
    unsafe fn store_to(self, out: *mut f32, x: [f32; 8]) {
        // SAFETY: the caller promises room for eight floats.
        unsafe { *out.cast() = x }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> [f32; 8] {
        lanes(|lane| x.get(lane).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn store_part(self, out: &mut [f32], x: [f32; 8]) {
        out.copy_from_slice(&x[..out.len()]);
    }

    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| a[lane] / b[lane])
    }

    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        lanes(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn fnma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        lanes(|lane| (-a[lane]).mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn abs(self, x: [f32; 8]) -> [f32; 8] {
        lanes(|lane| x[lane].abs())
    }

    #[inline(always)]
    fn round(self, x: [f32; 8]) -> [f32; 8] {
        lanes(|lane| x[lane].round_ties_even())
    }

    #[inline(always)]
    fn scale_by_power(self, x: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        lanes(|lane| x[lane] * f32::from_bits(((n[lane] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn sum(self, [a, b, c, d, e, f, g, h]: [f32; 8]) -> f32 {
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }

    #[inline(always)]
    fn largest(self, x: [f32; 8]) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, |largest, x| if x > largest { x } else { largest })
    }

    #[inline(always)]
    fn rotate_pairs(self, x: [f32; 8], cos: &[f32], sin: &[f32]) -> [f32; 8] {
        let (cos, sin) = (self.load_some(cos), self.load_some(sin));
        let (even, odd) = (|lane: usize| x[lane / 2 * 2], |lane: usize| x[lane / 2 * 2 + 1]);
        lanes(|lane| {
            let (cos, sin) = (cos[lane / 2], sin[lane / 2]);
            if lane % 2 == 0 {
                even(lane).mul_add(cos, -(odd(lane) * sin))
            } else {
                odd(lane).mul_add(cos, even(lane) * sin)
            }
        })
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_f32());
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_f32());
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
