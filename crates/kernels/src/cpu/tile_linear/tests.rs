//! Products in tiles compared with plain sums.

use super::super::portable::Portable;
use super::super::sets::{Tiles, sets};
use super::super::tile_kernels::{TileLinear, With};
use super::super::tiles::Plain;
use super::super::{bf16::Bf16, int8::Int8};
use super::*;
use crate::testing::{assert_close, numbers, randn};

/// Tokens that are not multiples of 8, 16 or 32, outputs that are not multiples of 16, 32 or 48, sums of half a step
/// and of several parts.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 5, 16), (2, 64, 48), (7, 33, 5), (17, 96, 80), (33, 160, 100), (70, 65, 97), (40, 3200, 40), (350, 130, 35)];

struct Case {
    x: Tensor,
    weight: Tensor,
    bias: Vec<f32>,
    residual: Vec<f32>,
    gate: Vec<f32>,
    gate_offsets: Vec<usize>,
}

impl Case {
    fn new((tokens, k, n): (usize, usize, usize)) -> Case {
        let weight = (randn(1, (n, k)) * (k as f64).powf(-0.5)).unwrap();
        Case {
            x: randn(2, (tokens, k)),
            weight: weight.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap(),
            bias: numbers(&randn(3, n)),
            residual: numbers(&randn(4, (tokens, n))),
            gate: numbers(&randn(5, (2, n))),
            gate_offsets: (0..tokens).map(|token| token % 2 * n).collect(),
        }
    }

    fn packed<F: Format>(&self) -> TiledWeights<F> {
        TiledWeights::new(std::slice::from_ref(&self.weight), &self.bias).unwrap().unwrap()
    }

    /// The products with every epilogue.
    fn products<F: Format>(&self, map: &dyn TileLinear<F>) -> [Vec<f32>; 3] {
        let (packed, x) = (self.packed::<F>(), numbers(&self.x));
        let gated = Epilogue::Gated { residual: &self.residual, gate: &self.gate, gate_offsets: &self.gate_offsets };
        [Epilogue::None, Epilogue::Gelu, gated].map(|epilogue| map.forward(&packed, &x, epilogue))
    }

    /// The expected outputs, row by row: the sum by `dot`, plus the bias.
    fn expected(&self, dot: impl Fn(&[f32], &[f32]) -> f32) -> Vec<f32> {
        let rows: Vec<Vec<f32>> = self.x.to_vec2().unwrap();
        let outputs: Vec<Vec<f32>> = self.weight.to_vec2().unwrap();
        let row = |x: &Vec<f32>| outputs.iter().zip(&self.bias).map(|(w, bias)| dot(x, w) + bias).collect();
        rows.iter().flat_map::<Vec<f32>, _>(row).collect()
    }
}

/// Calls `check` with the products of every instruction set of this processor, and prints the names of those it lacks.
fn on_each_tiles(check: impl Fn(&str, &Tiles)) {
    for set in sets() {
        match &set.tiles {
            Some(tiles) => check(set.name, tiles),
            None => println!("kernels not run here: no {}", set.name),
        }
    }
}

fn int8_numbers(x: &[f32]) -> (Vec<i32>, f32) {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    (x.iter().map(|x| (x * (127.0 / largest)).round_ties_even() as i32).collect(), largest / 127.0)
}

#[test]
fn int8_sums_are_exact_on_every_set() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let expected = case.expected(|x, w| {
            let ((x, x_scale), (w, w_scale)) = (int8_numbers(x), int8_numbers(w));
            x.iter().zip(w).map(|(x, w)| x * w).sum::<i32>() as f32 * (x_scale * w_scale)
        });
        let [_, gelu, gated] = case.products::<Int8>(&With(Portable, Plain));
        on_each_tiles(|set, tiles| {
            let given = case.products(&*tiles.int8);
            assert!(given[0] == expected, "{set} {shape:?}");
            assert!(given[1] == gelu && given[2] == gated, "{set} {shape:?}, epilogues");
        });
    }
}

#[test]
fn bf16_sums_are_those_of_rounded_rows() {
    let round = |x: &f32| f64::from(half::bf16::from_f32(*x).to_f32());
    for shape in SHAPES {
        let case = Case::new(shape);
        let expected = case.expected(|x, w| x.iter().zip(w).map(|(x, w)| round(x) * f64::from(*w)).sum::<f64>() as f32);
        let plain = case.products::<Bf16>(&With(Portable, Plain));
        let tensor = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
        assert_close(&format!("bf16 {shape:?}"), &tensor(&plain[0]), &tensor(&expected), 2e-6);
        on_each_tiles(|set, tiles| {
            let Some(bf16) = &tiles.bf16 else { return };
            for (given, plain) in case.products(&**bf16).iter().zip(&plain) {
                println!("{set} {shape:?}: to the bit as the emulation: {}", given == plain);
                assert_close(&format!("{set} {shape:?}"), &tensor(given), &tensor(plain), 1e-6);
            }
        });
    }
}

/// AVX512-BF16, if it is used: odd elements first, then even ones, with one rounding per product and sum.
#[cfg(target_arch = "x86_64")]
#[test]
fn dot_products_of_bf16_are_as_the_manual_has_them() {
    use super::super::{avx512::Avx512, dpbf16::DpBf16};
    let Some((set, dots)) = Avx512::detect().and_then(|set| Some((set, DpBf16::detect(set)?))) else {
        println!("kernels not run here: no AVX512-BF16 that pays");
        return;
    };
    let normal = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x };
    let round = |x: &f32| normal(half::bf16::from_f32(*x).to_f32());
    for shape in SHAPES {
        let mut case = Case::new(shape);
        // Some of the products are then subnormal.
        let small = randn(6, (shape.0, shape.1)).abs().unwrap().powf(120.0).unwrap();
        case.x = case.x.mul(&small.minimum(1.0).unwrap()).unwrap();
        let expected = case.expected(|x, w| {
            x.chunks(2).zip(w.chunks(2)).fold(0.0, |sum, (x, w)| {
                x.iter().zip(w).rev().fold(sum, |sum, (x, w)| normal(round(x).mul_add(round(w), sum)))
            })
        });
        assert!(case.products(&With(set, dots))[0] == expected, "{shape:?}");
    }
}

/// The emulation's epilogues compared with those of f32, which have their own tests.
#[test]
fn epilogues_are_those_of_f32() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let [none, gelu, gated] = case.products::<Bf16>(&With(Portable, Plain));
        let (tokens, _, n) = shape;
        let tensor = |x: &[f32]| Tensor::from_slice(x, (tokens, n), &Device::Cpu).unwrap();
        assert_close("gelu", &tensor(&gelu), &tensor(&none).gelu().unwrap(), 1e-6);
        let gate = (0..tokens).flat_map(|token| &case.gate[case.gate_offsets[token]..][..n]);
        let expected: Vec<_> =
            none.iter().zip(gate).zip(&case.residual).map(|((x, gate), residual)| residual + gate * x).collect();
        assert_close("gated", &tensor(&gated), &tensor(&expected), 1e-6);
    }
}

/// Root mean square errors, relative to the exact product.
#[test]
fn accuracy_is_that_of_the_formats() {
    let case = Case::new((64, 1024, 64));
    let exact = case.expected(|x, w| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32);
    let without_bias = |x: &[f32]| -> Vec<f64> {
        x.iter().zip(case.bias.iter().cycle()).map(|(x, bias)| f64::from(*x) - f64::from(*bias)).collect()
    };
    let exact = without_bias(&exact);
    let error = |given: &[f32]| {
        let error = without_bias(given).iter().zip(&exact).map(|(x, exact)| (x - exact).powi(2)).sum::<f64>();
        (error / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
    };
    let int8 = error(&case.products::<Int8>(&With(Portable, Plain))[0]);
    let bf16 = error(&case.products::<Bf16>(&With(Portable, Plain))[0]);
    println!("relative rms error: int8 {int8:.1e}, bf16 {bf16:.1e} (weights are bf16 already)");
    assert!((1e-3..9e-3).contains(&int8) && (1e-4..2e-3).contains(&bf16), "int8 {int8:e}, bf16 {bf16:e}");
}

#[test]
fn weights_come_back() {
    for (tokens, k, n) in SHAPES {
        let case = Case::new((tokens, k, n));
        let (weight, bias) = case.packed::<Bf16>().unpack().unwrap();
        assert_eq!((numbers(&weight), numbers(&bias)), (numbers(&case.weight), case.bias.clone()));
        let (weight, _) = case.packed::<Int8>().unpack().unwrap();
        let rows: Vec<Vec<f32>> = case.weight.to_vec2().unwrap();
        let expected = rows.iter().flat_map(|row| {
            let (numbers, scale) = int8_numbers(row);
            numbers.into_iter().map(move |x| x as f32 * scale)
        });
        assert_eq!(numbers(&weight), expected.collect::<Vec<_>>());
    }
}

#[test]
fn an_int8_weight_takes_a_byte() {
    let packed = Case::new((1, 640, 160)).packed::<Int8>();
    assert_eq!(size_of_val(&packed.tiles[..]), 640 * 160);
}

#[test]
fn what_is_no_number_stays_in_its_row() {
    let mut case = Case::new((20, 70, 20));
    let mut x = numbers(&case.x);
    x[3 * 70 + 69] = f32::NAN;
    case.x = Tensor::from_vec(x, (20, 70), &Device::Cpu).unwrap();
    let nans = |out: &[f32]| out.chunks(20).map(|row| row.iter().filter(|x| x.is_nan()).count()).collect::<Vec<_>>();
    let mut expected = vec![0; 20];
    expected[3] = 20;
    on_each_tiles(|set, tiles| {
        assert_eq!(nans(&case.products(&*tiles.int8)[0]), expected, "{set}");
    });
    assert_eq!(nans(&case.products::<Bf16>(&With(Portable, Plain))[0]), expected);
}
