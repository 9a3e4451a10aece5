//! Eight-bit floats: e4m3 of <https://arxiv.org/abs/2209.05433>, with four exponent bits, three mantissa bits and a
//! largest number of 448.

/// The largest e4m3 number.
const LARGEST: f32 = 448.0;

/// Scales `row` and rounds it to e4m3, and returns the factor that undoes the scaling. The factor is NaN if the row has
/// a NaN or an infinity, so that its sums become NaN.
pub(crate) fn round_row(row: &mut [f32]) -> f32 {
    // Magnitudes compare like their bit patterns, with NaN as the largest.
    let largest = row.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & !(1 << 31)));
    let largest = f32::from_bits(largest);
    let (scale, factor) = if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < 1e-30 {
        // The inverse may be infinite.
        (0.0, 0.0)
    } else {
        (largest / LARGEST, LARGEST / largest)
    };
    row.iter_mut().for_each(|x| *x = nearest(*x * factor));
    scale
}

/// The nearest e4m3 number, ties to even. `x` has a magnitude of about 448 at most; NaN becomes 0.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    /// Mantissa bits that f32 has and e4m3 lacks.
    const LACKING: u32 = 20;
    /// The smallest normal e4m3 number. Smaller numbers are multiples of an eighth of it.
    const SMALLEST: f32 = 1.0 / 64.0;
    /// f32 numbers of this magnitude are whole multiples of that eighth.
    const MAGIC: f32 = 12_582_912.0 * SMALLEST / 8.0;
    let bits = x.to_bits();
    let normal = bits.wrapping_add((1 << (LACKING - 1)) - 1 + (bits >> LACKING & 1)) & !((1 << LACKING) - 1);
    let normal = f32::from_bits(normal).clamp(-LARGEST, LARGEST);
    let rounded = if x.abs() < SMALLEST { x + MAGIC - MAGIC } else { normal };
    if x.is_nan() { 0.0 } else { rounded }
}

/// Decodes an e4m3 byte.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn decoded(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        15 if byte & 7 == 7 => f32::NAN,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// All finite e4m3 numbers, in order.
    fn all() -> Vec<f32> {
        let mut all: Vec<f32> = (0..=255).map(decoded).filter(|x| x.is_finite()).collect();
        all.sort_by(f32::total_cmp);
        all
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        let all = all();
        assert_eq!((all.len(), all[253], decoded(1), decoded(8)), (254, 448.0, 2f32.powi(-9), 2f32.powi(-6)));
        assert!(all.iter().all(|x| bf16::from_f32(*x).to_f32() == *x && nearest(*x) == *x));
    }

    /// Rounds to the nearer neighbour. A tie goes to the neighbour whose last bit is 0.
    #[test]
    fn rounding_is_to_the_nearest() {
        let mut positive: Vec<f32> = (0..0x7f).map(decoded).collect();
        positive.sort_by(f32::total_cmp);
        for (even, pair) in positive.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            let middle = (low + high) / 2.0;
            let below = f32::from_bits(middle.to_bits() - 1);
            let above = f32::from_bits(middle.to_bits() + 1);
            let tie = if even % 2 == 0 { low } else { high };
            assert_eq!((nearest(below), nearest(middle), nearest(above)), (low, tie, high), "{low} {high}");
            assert_eq!((nearest(-below), nearest(-middle), nearest(-above)), (-low, -tie, -high), "{low} {high}");
        }
        assert_eq!((nearest(449.0), nearest(-470.0), nearest(f32::NAN)), (448.0, -448.0, 0.0));
    }

    #[test]
    fn a_row_is_scaled_by_its_largest_number() {
        let mut row = [0.5, -2.0, 0.0, 1e-9];
        assert_eq!((round_row(&mut row), row), (2.0 / 448.0, [112.0, -448.0, 0.0, 0.0]));
        assert_eq!(round_row(&mut [0.0, -1e-40]), 0.0);
        for x in [f32::NAN, f32::INFINITY] {
            assert!(round_row(&mut [1.0, x]).is_nan());
        }
    }
}
