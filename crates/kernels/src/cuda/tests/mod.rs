//! Every kernel compared with candle's operations on the CPU, on ragged rows, in both float types.
//!
//! The tests need a device or an emulated driver.

mod attention;
mod step;

use std::sync::OnceLock;

use candle_core::{DType, Device, Result, Tensor};

use super::Cuda;
use crate::backend::Backend;
use crate::operands::GroupNorm;
use crate::testing::{assert_close, numbers, randn};
use crate::{RowLayout, with_reference};

pub(super) const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// One device with its own stream for all tests.
pub(super) fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::new_cuda_with_stream(0).unwrap())
}

/// The largest deviation from f32 operations on the same numbers.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { 4e-6 } else { 6e-3 }
}

/// The tensors rounded to `dtype`: on the device in that type, and on the CPU in f32.
fn both(tensors: &[Tensor], dtype: DType) -> [Vec<Tensor>; 2] {
    let rounded: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(dtype).unwrap()).collect();
    let on_device = rounded.iter().map(|t| t.to_device(device()).unwrap()).collect();
    [on_device, rounded.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect()]
}

/// Compares the results of `kernel` and `reference` for `tensors`, in both types.
#[track_caller]
pub(super) fn check(
    name: &str,
    tensors: &[Tensor],
    kernel: impl Fn(&[Tensor]) -> Result<Option<Tensor>>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for dtype in TYPES {
        let [on_device, on_cpu] = both(tensors, dtype);
        let given = kernel(&on_device).unwrap().expect("a kernel");
        assert_eq!((given.dtype(), given.device().is_cuda()), (dtype, true), "{name}");
        let given = given.to_device(&Device::Cpu).unwrap();
        let expected = with_reference(|| reference(&on_cpu)).unwrap();
        assert_close(&format!("{name} {dtype:?}"), &given, &expected, tolerance(dtype));
    }
}

/// Shapes with several tokens per block, with one, and with several pieces per thread.
const SHAPES: [(usize, usize); 5] = [(1, 8), (7, 40), (13, 192), (21, 1032), (3, 4128)];

pub(super) fn rows_of(tokens: usize) -> RowLayout {
    RowLayout::new(&[tokens / 2, 0, tokens - tokens / 2])
}

#[test]
fn layer_norms_are_modulated_by_the_vectors_of_their_row() {
    for (tokens, dim) in SHAPES {
        let x = ((randn(1, (tokens, dim)) * 3.0).unwrap() + 1.5).unwrap();
        let rows = rows_of(tokens);
        let vectors = |t: &Tensor| [0, 1].map(|i| t.narrow(1, i * dim, dim).unwrap());
        check(
            &format!("layer norm {tokens}x{dim}"),
            &[x, randn(2, (3, 6 * dim))],
            |t| {
                let [shift, scale] = vectors(&t[1]);
                Cuda.modulated_layer_norm(&t[0], &shift, &scale, &rows, 1e-6)
            },
            |t| {
                let [shift, scale] = vectors(&t[1]);
                crate::modulated_layer_norm(&t[0], &shift, &scale, &rows, 1e-6)
            },
        );
    }
}

#[test]
fn norms_by_length_agree() {
    for (tokens, dim) in SHAPES {
        let given = [randn(1, (tokens, dim)), randn(2, dim)];
        let name = |op| format!("{op} {tokens}x{dim}");
        check(
            &name("rms norm"),
            &given,
            |t| Cuda.rms_norm(&t[0], &t[1], 1e-6),
            |t| crate::rms_norm(&t[0], &t[1], 1e-6),
        );
    }
    for (tokens, dim) in SHAPES.into_iter().chain([(5, 12), (300, 3), (2, 33)]) {
        let name = |op| format!("{op} {tokens}x{dim}");
        let pixels = [randn(3, (tokens, 1, dim)), randn(4, dim)];
        check(
            &name("channel norm"),
            &pixels,
            |t| Cuda.channel_norm(&t[0], &t[1], false),
            |t| crate::channel_norm(&t[0], &t[1]),
        );
        check(
            &name("channel norm and silu"),
            &pixels,
            |t| Cuda.channel_norm(&t[0], &t[1], true),
            |t| crate::channel_norm(&t[0], &t[1])?.silu(),
        );
    }
}

#[test]
fn a_pixel_without_length_stays_zero() {
    let zeros = Tensor::zeros((2, 3, 8), DType::F32, device()).unwrap();
    let normed = Cuda.channel_norm(&zeros, &zeros.get(0).unwrap().get(0).unwrap(), false).unwrap().unwrap();
    assert_eq!(numbers(&normed), [0.0; 48]);
}

#[test]
fn swiglu_agrees() {
    for (tokens, features) in [(1, 8), (7, 24), (13, 640), (0, 8)] {
        let name = format!("swiglu {tokens}x{features}");
        check(&name, &[randn(1, (tokens, 2 * features))], |t| Cuda.swiglu(&t[0]), |t| crate::swiglu(&t[0]));
    }
}

#[test]
fn group_norms_agree() {
    for (height, width, channels, num_groups) in
        [(1, 1, 8, 2), (5, 3, 16, 4), (7, 9, 24, 24), (20, 13, 40, 1), (11, 6, 96, 32)]
    {
        // Each channel has a mean of its own, far from 0.
        let x = randn(4, (height, width, channels)).broadcast_add(&(randn(3, channels) * 5.0).unwrap()).unwrap();
        for with_silu in [false, true] {
            let norm = |t: &[Tensor]| GroupNorm::new(&t[1], &t[2], num_groups, 1e-6).unwrap();
            check(
                &format!("group norm {height}x{width}x{channels}, {num_groups} groups, silu {with_silu}"),
                &[x.clone(), randn(1, channels), randn(2, channels)],
                |t| Cuda.group_norm(&t[0], &norm(t), with_silu),
                |t| if with_silu { norm(t).forward_silu(&t[0]) } else { norm(t).forward(&t[0]) },
            );
        }
    }
}

/// In f32 the mean of the squares minus the square of the mean would be off by a third here.
#[test]
fn a_variance_far_from_zero_keeps_its_digits() {
    let (weight, bias) = (randn(1, 8), randn(2, 8));
    let norm = |device| {
        let [weight, bias] = [&weight, &bias].map(|t| t.to_device(device).unwrap());
        GroupNorm::new(&weight, &bias, 2, 1e-6).unwrap()
    };
    // Multiples of 2^-10, which stay exact at 1000.
    let x = ((randn(5, (20, 20, 8)) * 1024.0).unwrap().round().unwrap() / 1024.0).unwrap();
    let far = (&x + 1000.0).unwrap().to_device(device()).unwrap();
    let far = Cuda.group_norm(&far, &norm(device()), false).unwrap().unwrap();
    assert_close("at 1000", &far.to_device(&Device::Cpu).unwrap(), &norm(&Device::Cpu).forward(&x).unwrap(), 1e-4);
}
