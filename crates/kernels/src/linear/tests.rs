//! Every kind of product compared with its reference.

use super::*;
use crate::testing::{assert_close, numbers, on_each_set, randn};
use crate::with_reference;

/// Shapes with partial tiles: tokens not a multiple of 6, outputs not a multiple of 16, and sums of several blocks.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 8, 16),
    (1, 1000, 48),
    (2, 192, 1152),
    (7, 33, 5),
    (82, 160, 480),
    (101, 700, 100),
    (64, 1100, 3),
    (130, 641, 96),
    (300, 650, 35),
];

fn linears(dtype: DType, n: usize, k: usize) -> (Linear, Linear) {
    let weight = (randn(1, (n, k)) * 0.1).unwrap().to_dtype(dtype).unwrap();
    let bias = randn(2, n).to_dtype(dtype).unwrap();
    let new = || Linear::new(&weight, Some(&bias)).unwrap();
    (new(), with_reference(new))
}

fn int8(n: usize, k: usize) -> (Linear, Linear) {
    let (weight, bias) = ((randn(1, (n, k)) * 0.1).unwrap(), randn(2, n));
    let new = || Linear::int8(&[(&weight, Some(&bias))]).unwrap();
    (new(), with_reference(new))
}

/// Tolerance of the current instruction set against candle. Products of bf16 tiles round their rows.
fn tolerance(dtype: DType) -> f32 {
    let rounded = dtype == DType::BF16 && crate::multiplies_bf16();
    if rounded { 6e-3 } else { 2e-6 }
}

fn rows_of(tokens: usize) -> RowLayout {
    RowLayout::new(&[tokens / 3, 0, tokens - tokens / 3])
}

/// Compares every kind of product of two maps from `[k]` to `[n]`.
fn check(name: &str, (fast, plain): (Linear, Linear), (tokens, k, n): (usize, usize, usize), tolerance: f32) {
    assert!(matches!(plain.0, LinearWeights::Plain { .. }));
    let (x, residual) = (randn(3, (tokens, k)), randn(4, (tokens, n)));
    let (gate, rows) = (randn(5, (3, 6 * n)).narrow(1, 2 * n, n).unwrap(), rows_of(tokens));
    let name = |op| format!("{op} {tokens}x{k}x{n} {name}");
    assert_close(&name("forward"), &fast.forward(&x).unwrap(), &plain.forward(&x).unwrap(), tolerance);
    assert_close(&name("gelu"), &fast.forward_gelu(&x).unwrap(), &plain.forward_gelu(&x).unwrap(), tolerance);
    let gated = |linear: &Linear| linear.forward_gated(&x, &residual, &gate, &rows).unwrap();
    assert_close(&name("gated"), &gated(&fast), &gated(&plain), tolerance);
}

#[test]
fn kernels_agree_with_candle() {
    on_each_set(|set| {
        for shape in SHAPES {
            let (_, k, n) = shape;
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                check(&format!("{dtype:?} {set}"), linears(dtype, n, k), shape, tolerance(dtype));
            }
            // The reference rounds no rows.
            check(&format!("int8 {set}"), int8(n, k), shape, 2e-2);
        }
    });
}

#[test]
fn eight_bit_weights_are_multiples_of_a_scale() {
    on_each_set(|_| {
        let weight = Tensor::new(&[[1.27f32, -0.5, 0.004], [0.0, 0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
        let linear = Linear::int8(&[(&weight, None)]).unwrap();
        let plain = with_reference(|| Linear::int8(&[(&weight, None)])).unwrap();
        let expected = Tensor::new(&[[1.27f32, -0.5, 0.0], [0.0, 0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
        let unit = Tensor::eye(3, DType::F32, &candle_core::Device::Cpu).unwrap();
        let expected = expected.t().unwrap().contiguous().unwrap();
        let unpacked = with_reference(|| linear.forward(&unit)).unwrap();
        for given in [linear.forward(&unit).unwrap(), unpacked, plain.forward(&unit).unwrap()] {
            assert_close("rounded", &given, &expected, 1e-6);
        }
    });
}

#[test]
fn a_small_map_by_hand() {
    on_each_set(|_| {
        let cpu = &candle_core::Device::Cpu;
        let (weight, bias) = (Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], cpu), Tensor::new(&[0.5f32, -0.5], cpu));
        let linear = Linear::new(&weight.unwrap(), Some(&bias.unwrap())).unwrap();
        let x = Tensor::new(&[[1f32, 1.0], [10.0, 0.0]], cpu).unwrap();
        let residual = Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], cpu).unwrap();
        let gate = Tensor::new(&[[1f32, 2.0], [0.0, -1.0]], cpu).unwrap();
        let gated =
            |linear: &Linear| numbers(&linear.forward_gated(&x, &residual, &gate, &RowLayout::new(&[1, 1])).unwrap());
        for given in [gated(&linear), with_reference(|| gated(&linear))] {
            assert_eq!(given, [4.5, 14.0, 1.0, -28.5]);
        }
    });
}

/// Checks that row 2 of [`rows_of`] has the same outputs as it has alone.
fn check_company(fast: &Linear, (tokens, k, n): (usize, usize, usize)) {
    let (x, residual) = (randn(3, (tokens, k)), randn(4, (tokens, n)));
    let (gate, rows) = (randn(5, (3, n)), rows_of(tokens));
    let together = [fast.forward_gelu(&x), fast.forward_gated(&x, &residual, &gate, &rows)];
    let row = rows.range(2);
    let of_row = |t: &Tensor| t.narrow(0, row.start, row.len()).unwrap();
    let gate = gate.narrow(0, 2, 1).unwrap();
    let layout = RowLayout::new(&[row.len()]);
    let alone = [fast.forward_gelu(&of_row(&x)), fast.forward_gated(&of_row(&x), &of_row(&residual), &gate, &layout)];
    for (together, alone) in together.iter().zip(&alone) {
        assert_eq!(numbers(&of_row(together.as_ref().unwrap())), numbers(alone.as_ref().unwrap()), "{k}");
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    on_each_set(|_| {
        for shape in SHAPES {
            let (_, k, n) = shape;
            for (fast, _) in [linears(DType::F32, n, k), linears(DType::BF16, n, k), int8(n, k)] {
                check_company(&fast, shape);
            }
        }
    });
}

#[test]
fn parts_lie_side_by_side() {
    on_each_set(|_| {
        let (q, k, x) = (randn(1, (20, 12)), randn(2, (7, 12)), randn(3, (2, 5, 12)));
        let bias = randn(4, 7);
        let fused = Linear::cat(&[(&q, None), (&k, Some(&bias))]).unwrap();
        assert_eq!((fused.in_features(), fused.out_features()), (12, 27));
        let expected =
            [Linear::new(&q, None), Linear::new(&k, Some(&bias))].map(|part| part.unwrap().forward(&x).unwrap());
        assert_close("cat", &fused.forward(&x).unwrap(), &Tensor::cat(&expected, 2).unwrap(), 1e-7);
        let half = [&q, &k].map(|t| t.to_dtype(DType::BF16).unwrap());
        let fused_half = Linear::cat(&[(&half[0], None), (&half[1], None)]).unwrap();
        let plain = with_reference(|| Linear::cat(&[(&half[0], None), (&half[1], None)])).unwrap();
        let tolerance = tolerance(DType::BF16);
        assert_close("cat bf16", &fused_half.forward(&x).unwrap(), &plain.forward(&x).unwrap(), tolerance);
        let int8 = |parts: &[(&Tensor, Option<&Tensor>)]| Linear::int8(parts).unwrap().forward(&x).unwrap();
        let expected = [int8(&[(&q, None)]), int8(&[(&k, Some(&bias))])];
        let fused_int8 = int8(&[(&q, None), (&k, Some(&bias))]);
        assert_close("cat int8", &fused_int8, &Tensor::cat(&expected, 2).unwrap(), 1e-7);
        let (plain, unpacked) = (with_reference(|| fused.forward(&x)), fused.forward(&x));
        assert_close("unpacked", &unpacked.unwrap(), &plain.unwrap(), 1e-6);
    });
}

#[test]
fn half_precision_activations_stay_so() {
    on_each_set(|_| {
        let (linear, _) = linears(DType::BF16, 48, 64);
        let x = randn(3, (5, 64));
        let half = linear.forward(&x.to_dtype(DType::BF16).unwrap()).unwrap();
        assert_eq!(half.dtype(), DType::BF16);
        assert_close("bf16", &half, &linear.forward(&x).unwrap(), 2e-2);
        let (gate, rows) = (randn(5, (1, 48)).to_dtype(DType::BF16).unwrap(), RowLayout::new(&[5]));
        let gated = linear.forward_gated(&x.to_dtype(DType::BF16).unwrap(), &half, &gate, &rows).unwrap();
        assert_eq!(gated.dtype(), DType::BF16);
    });
}

#[test]
fn errors_name_what_was_given() {
    let linear = Linear::new(&randn(1, (4, 8)), None).unwrap();
    let message = linear.forward(&randn(2, (3, 9))).unwrap_err().to_string();
    assert!(message.starts_with("x must have 8 features. Given: 9"), "{message}");
    let gated = linear.forward_gated(&randn(2, (3, 8)), &randn(2, (3, 4)), &randn(2, (2, 4)), &RowLayout::new(&[3]));
    let wide = Tensor::zeros((1, 65_537), DType::F32, &candle_core::Device::Cpu).unwrap();
    let message = Linear::int8(&[(&wide, None)]).unwrap_err().to_string();
    let expected = "weight must have at most 65536 columns for eight-bit products. Given: 65537";
    assert!(message.starts_with(expected), "{message}");
    let message = gated.unwrap_err().to_string();
    assert!(message.starts_with("gate must be [1, 4], one vector a row. Given: [2, 4]"), "{message}");
}
