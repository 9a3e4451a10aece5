//! Operations of the cached step: diffs, sums, concatenated rows, guidance.

use candle_core::{DType, Device, Tensor};

use super::{TYPES, both, check, device, tolerance};
use crate::backend::Backend;
use crate::cuda::Cuda;
use crate::testing::{assert_close, numbers, randn};
use crate::{Guided, RowLayout, WeightedTensors, with_reference};

/// The current and previous numbers of each row in a type, on the device and on the CPU.
fn changes(lengths: &[usize], dim: usize, dtype: DType) -> [Vec<(Tensor, Tensor)>; 2] {
    let total = lengths.iter().sum();
    let before: Vec<_> = lengths.iter().zip(2..).map(|(tokens, seed)| randn(seed, (*tokens, dim))).collect();
    let ([current, cpu_current], [before, cpu_before]) = (both(&[randn(1, (total, dim))], dtype), both(&before, dtype));
    let rows = RowLayout::new(lengths);
    let pairs = |current: &Tensor, before: Vec<Tensor>| -> Vec<(Tensor, Tensor)> {
        let of_row = |row: usize| current.narrow(0, rows.range(row).start, rows.length(row)).unwrap();
        before.into_iter().enumerate().map(|(row, before)| (of_row(row), before)).collect()
    };
    [pairs(&current[0], before), pairs(&cpu_current[0], cpu_before)]
}

fn diffs(rows: &[(Tensor, Tensor)]) -> Vec<f32> {
    let rows: Vec<_> = rows.iter().map(|(current, previous)| (current, previous)).collect();
    match rows[0].0.device() {
        Device::Cpu => with_reference(|| crate::residual_diffs(&rows)).unwrap(),
        _ => Cuda.residual_diffs(&rows).unwrap().unwrap(),
    }
}

#[track_caller]
fn check_diffs(lengths: &[usize], dim: usize) {
    for dtype in TYPES {
        let [given, expected] = changes(lengths, dim, dtype).map(|rows| diffs(&rows));
        assert_eq!(given.len(), expected.len());
        for (given, expected) in given.iter().zip(&expected) {
            let are_none = given.is_nan() && expected.is_nan();
            assert!(are_none || (given / expected - 1.0).abs() < 3e-6, "{given} {expected}");
        }
    }
}

/// The last case has more rows than fit into one launch, many of them empty.
#[test]
fn diffs_agree() {
    let many: Vec<usize> = (0..70).map(|row| row % 3).collect();
    for (lengths, dim) in [(&[18usize, 0, 64, 3][..], 160), (&[5], 8), (&[30, 4, 70], 192), (&many, 8)] {
        check_diffs(lengths, dim);
    }
}

#[test]
fn nothing_of_nothing_is_no_number_and_something_of_nothing_infinite() {
    let zeros = Tensor::zeros((1, 8), DType::F32, device()).unwrap();
    let given = diffs(&[(zeros.clone(), zeros.clone()), (zeros.ones_like().unwrap(), zeros)]);
    assert!(given[0].is_nan() && given[1] == f32::INFINITY, "{given:?}");
}

#[test]
fn a_row_s_diff_does_not_depend_on_its_company() {
    let [rows, _] = changes(&[37, 90], 192, DType::BF16);
    assert_eq!(diffs(&rows)[1], diffs(&rows[1..])[0]);
}

/// Rows of several lengths, sums of one term and of many, and more of both than fit into one launch.
#[test]
fn weighted_sums_agree() {
    let shapes = [(1usize, 8usize), (64, 160), (0, 8), (7, 24)];
    let num_terms = |sum: usize| 1 + sum * 3 % 7;
    for num_sums in [1, 4, 50] {
        let shape = |sum: usize| shapes[sum % shapes.len()];
        let numbers: Vec<Tensor> = (0..num_sums)
            .flat_map(|sum| (0..num_terms(sum)).map(move |term| randn((sum * 8 + term) as u64, shape(sum))))
            .collect();
        let sums = |t: &[Tensor], by: &dyn Fn(&[WeightedTensors<'_>]) -> Vec<Tensor>| {
            let mut rest = t;
            let sums: Vec<WeightedTensors<'_>> = (0..num_sums)
                .map(|sum| {
                    let (now, later) = rest.split_at(num_terms(sum));
                    rest = later;
                    now.iter().enumerate().map(|(i, term)| (1.0 - 0.75 * i as f64, term)).collect()
                })
                .collect();
            by(&sums)
        };
        for dtype in TYPES {
            let [on_device, on_cpu] = both(&numbers, dtype);
            let given = sums(&on_device, &|sums| Cuda.weighted_sums(sums).unwrap().expect("a kernel"));
            let expected = sums(&on_cpu, &|sums| with_reference(|| crate::weighted_sums(sums)).unwrap());
            assert_eq!(given.len(), num_sums);
            for (sum, (given, expected)) in given.iter().zip(&expected).enumerate() {
                assert_eq!((given.dims(), given.dtype()), (expected.dims(), dtype));
                let given = given.to_device(&Device::Cpu).unwrap();
                assert_close(&format!("sum {sum} of {num_sums} {dtype:?}"), &given, expected, tolerance(dtype));
            }
        }
    }
}

/// Views of some rows, one of them empty, and more parts than fit into one launch.
#[test]
fn rows_are_gathered_to_the_bit() {
    for dtype in TYPES {
        for num_parts in [1, 5, 130] {
            let [on_device, on_cpu] = both(&[randn(1, (40, 24))], dtype);
            let parts = |t: &Tensor| -> Vec<Tensor> {
                (0..num_parts).map(|part| t.narrow(0, part * 7 % 30, (part * 5 + 3) % 11).unwrap()).collect()
            };
            let cat = |t: &Tensor| crate::cat_rows(&parts(t).iter().collect::<Vec<_>>()).unwrap();
            let given = cat(&on_device[0]).to_dtype(DType::F32).unwrap();
            assert_eq!(numbers(&given), numbers(&cat(&on_cpu[0])), "{num_parts} {dtype:?}");
        }
    }
}

/// Requests of several sizes and scales, and more than fit into one launch.
#[test]
fn guidance_agrees() {
    for (num_requests, channels) in [(1, 8), (5, 64), (2, 1032), (70, 16)] {
        let tokens = |request: usize| [37, 1, 0, 12, 9][request % 5];
        let passes: Vec<_> = (0..2 * num_requests).map(|i| randn(i as u64, (tokens(i / 2), channels))).collect();
        let requests =
            |t: &'_ [Tensor]| -> Vec<[Tensor; 2]> { t.chunks(2).map(|t| [t[0].clone(), t[1].clone()]).collect() };
        fn guided(passes: &[[Tensor; 2]]) -> Vec<Guided<'_>> {
            passes
                .iter()
                .enumerate()
                .map(|(i, [cond, uncond])| Guided { cond, uncond, scale: 1.5 + i as f64, keeps_length: i % 3 != 1 })
                .collect()
        }
        for dtype in TYPES {
            let [on_device, on_cpu] = both(&passes, dtype).map(|t| requests(&t));
            let given = Cuda.guided(&guided(&on_device)).unwrap().expect("a kernel");
            let expected = crate::guided(&guided(&on_cpu)).unwrap();
            assert_eq!(given.len(), num_requests);
            for (request, (given, expected)) in given.iter().zip(&expected).enumerate() {
                assert_eq!((given.dims(), given.dtype()), (expected.dims(), dtype));
                let given = given.to_device(&Device::Cpu).unwrap();
                let name = format!("request {request} of {num_requests}, {channels} channels {dtype:?}");
                assert_close(&name, &given, expected, tolerance(dtype));
            }
        }
    }
}

/// Views that start at an unaligned address, or whose rows have gaps.
#[test]
fn views_are_read_where_they_begin() {
    let parts = |t: &Tensor| [t.narrow(1, 3, 16).unwrap(), t.narrow(0, 1, 8).unwrap().narrow(1, 8, 16).unwrap()];
    for part in [0, 1] {
        let name = format!("view {part}");
        let of = |t: &[Tensor]| parts(&t[0])[part].clone();
        check(&name, &[randn(1, (9, 24))], |t| Cuda.swiglu(&of(t)), |t| crate::swiglu(&of(t)));
        let sum = |t: &[Tensor]| Ok(Cuda.weighted_sums(&[vec![(2.5, &of(t))]])?.map(|mut sums| sums.remove(0)));
        check(&name, &[randn(1, (9, 24))], sum, |t| &of(t) * 2.5);
    }
}
