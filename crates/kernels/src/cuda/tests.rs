//! Every kernel against candle's operations on the CPU, on ragged rows, in both float types.
//!
//! They need a device, or a driver that pretends to be one.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};

use super::Cuda;
use super::attention::{METHODS, causal_attention_by, joint_attention_by};
use crate::backend::Backend;
use crate::operands::{
    AttentionStream, CausalAttention, Epilogue, GroupNorm, HeadNorms, JointAttention, Products, SelfAttention,
};
use crate::testing::{assert_close, numbers, randn};
use crate::{RopeTable, RowLayout, with_reference};

pub(super) const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// One device with a stream of its own for all tests.
pub(super) fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::new_cuda_with_stream(0).unwrap())
}

/// How far a result may be from that of f32 operations on the same numbers.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { 4e-6 } else { 6e-3 }
}

/// The numbers that `dtype` keeps of `tensors`: on the device in that type, and on the CPU in f32.
fn both(tensors: &[Tensor], dtype: DType) -> [Vec<Tensor>; 2] {
    let rounded: Vec<Tensor> = tensors.iter().map(|t| t.to_dtype(dtype).unwrap()).collect();
    let on_device = rounded.iter().map(|t| t.to_device(device()).unwrap()).collect();
    [on_device, rounded.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect()]
}

/// Compares what a kernel makes of `tensors` with what `reference` does, in both types.
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

/// Shapes of several tokens a block, of one, of several pieces a thread; rows of which one is empty.
const SHAPES: [(usize, usize); 5] = [(1, 8), (7, 40), (13, 192), (21, 1032), (3, 4128)];

fn rows_of(tokens: usize) -> RowLayout {
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

/// Every product of a map with and without a bias.
#[test]
fn linear_maps_agree() {
    for (tokens, k, n) in [(1, 8, 16), (2, 192, 64), (7, 40, 8), (13, 160, 480), (5, 16, 3)] {
        for with_bias in [true, false] {
            let weight = (randn(1, (n, k)) * 0.1).unwrap();
            let given = [randn(3, (tokens, k)), weight, randn(2, n), randn(4, (tokens, n)), randn(5, (3, 2 * n))];
            let rows = rows_of(tokens);
            let bias = |t: &[Tensor]| with_bias.then(|| t[2].clone());
            let packed = |t: &[Tensor]| Cuda.pack_linear(&t[1..2], bias(t).as_ref()).unwrap().unwrap();
            let plain = |t: &[Tensor]| crate::Linear::new(&t[1], bias(t).as_ref()).unwrap();
            let gate = |t: &[Tensor]| t[4].narrow(1, n, n).unwrap();
            let name = |op| format!("{op} {tokens}x{k}x{n}, bias {with_bias}");
            check(&name("product"), &given, |t| packed(t).forward(&t[0], Epilogue::None), |t| plain(t).forward(&t[0]));
            check(
                &name("gelu"),
                &given,
                |t| packed(t).forward(&t[0], Epilogue::Gelu),
                |t| plain(t).forward_gelu(&t[0]),
            );
            if !n.is_multiple_of(8) {
                continue;
            }
            check(
                &name("gated"),
                &given,
                |t| packed(t).forward(&t[0], Epilogue::Gated { residual: &t[3], gate: &gate(t), rows: &rows }),
                |t| plain(t).forward_gated(&t[0], &t[3], &gate(t), &rows),
            );
        }
    }
}

#[test]
fn parts_of_a_linear_map_lie_side_by_side() {
    let parts = [randn(1, (24, 16)), randn(2, (8, 16)), randn(3, (5, 16))];
    check(
        "cat",
        &parts,
        |t| Cuda.pack_linear(&t[..2], None).unwrap().unwrap().forward(&t[2], Epilogue::None),
        |t| crate::Linear::cat(&[(&t[0], None), (&t[1], None)])?.forward(&t[2]),
    );
}

/// Joint attention over rows of some text and image tokens.
struct Joint {
    /// qkv, norm of queries and norm of keys of the text, then of the image.
    tensors: Vec<Tensor>,
    rows: [RowLayout; 2],
    /// Angles of each row.
    angles: Vec<Tensor>,
    num_heads: usize,
}

impl Joint {
    fn new(text: &[usize], image: &[usize], num_heads: usize, head_dim: usize) -> Self {
        let rows = [RowLayout::new(text), RowLayout::new(image)];
        let width = 3 * num_heads * head_dim;
        let of_stream = |seed: u64, rows: &RowLayout| {
            // Loud queries make softmax weights that differ.
            [randn(seed, (rows.total(), width)), (randn(seed + 1, head_dim) * 2.0).unwrap(), randn(seed + 2, head_dim)]
        };
        let tensors = [of_stream(1, &rows[0]), of_stream(4, &rows[1])].concat();
        let angles = text.iter().zip(image).zip(10..);
        let angles = angles.map(|((text, image), seed)| randn(seed, (text + image, head_dim / 2))).collect();
        Joint { tensors, rows, angles, num_heads }
    }

    /// One row alone.
    fn row(&self, row: usize) -> Joint {
        let range = |i: usize| self.rows[i].range(row);
        let mut tensors = self.tensors.clone();
        for i in [0, 1] {
            tensors[3 * i] = tensors[3 * i].narrow(0, range(i).start, range(i).len()).unwrap();
        }
        let rows = [0, 1].map(|i| RowLayout::new(&[range(i).len()]));
        Joint { tensors, rows, angles: vec![self.angles[row].clone()], num_heads: self.num_heads }
    }

    fn tables(&self, device: &Device) -> Vec<Arc<RopeTable>> {
        let table = |angles: &Tensor| {
            let on_device = |t: Result<Tensor>| t.and_then(|t| t.to_device(device)).unwrap();
            Arc::new(RopeTable::new(&on_device(angles.cos()), &on_device(angles.sin())).unwrap())
        };
        self.angles.iter().map(table).collect()
    }

    fn inputs<'t>(&'t self, tensors: &'t [Tensor], rope: &'t [Arc<RopeTable>]) -> JointAttention<'t> {
        let stream = |i: usize| {
            let [qkv, norm_q, norm_k] = [0, 1, 2].map(|j| &tensors[3 * i + j]);
            AttentionStream { qkv, norm_q, norm_k, rows: &self.rows[i] }
        };
        let (text, image) = (stream(0), stream(1));
        JointAttention { text, image, rope, num_heads: self.num_heads, eps: 1e-6, products: Products::F32 }
    }

    /// By each method that takes the type, its name first.
    fn on_device(&self, dtype: DType) -> Vec<(&'static str, [Tensor; 2])> {
        let ([tensors, _], rope) = (both(&self.tensors, dtype), self.tables(device()));
        let inputs = self.inputs(&tensors, &rope);
        let by = METHODS.iter().filter_map(|method| {
            let attended = joint_attention_by(std::slice::from_ref(method), &inputs).unwrap()?;
            let attended = <[Tensor; 2]>::from(attended).map(|t| t.to_device(&Device::Cpu).unwrap());
            Some((method.name(), attended))
        });
        by.collect()
    }

    fn on_cpu(&self, dtype: DType) -> [Tensor; 2] {
        let ([_, tensors], rope) = (both(&self.tensors, dtype), self.tables(&Device::Cpu));
        with_reference(|| self.inputs(&tensors, &rope).forward()).unwrap().into()
    }
}

#[test]
fn joint_attention_agrees_by_every_method() {
    let cases: [(&[usize], &[usize], usize, usize); 6] = [
        (&[18, 11], &[64, 64], 5, 32),
        (&[1], &[1], 1, 64),
        (&[7, 0, 3], &[20, 49, 0], 3, 64),
        (&[5], &[190], 2, 128),
        (&[0, 0], &[9, 5], 2, 32),
        (&[4, 0], &[0, 0], 1, 128),
    ];
    for (text, image, num_heads, head_dim) in cases {
        let joint = Joint::new(text, image, num_heads, head_dim);
        for dtype in TYPES {
            let (given, expected) = (joint.on_device(dtype), joint.on_cpu(dtype));
            assert_eq!(given.len(), if dtype == DType::BF16 { 2 } else { 1 });
            for (method, given) in given {
                for ((given, expected), stream) in given.iter().zip(&expected).zip(["text", "image"]) {
                    assert_eq!(given.dtype(), dtype);
                    let name = format!("{method} {stream} {text:?} {image:?} {num_heads}x{head_dim} {dtype:?}");
                    assert_close(&name, given, expected, if dtype == DType::F32 { 4e-6 } else { 1e-2 });
                }
            }
        }
    }
}

/// Heads that share keys, padding, norms and none.
#[test]
fn causal_attention_agrees_by_every_method() {
    for (tokens, valid, heads, head_dim) in
        [(1, 1, (1, 1), 32), (101, 101, (6, 2), 32), (130, 49, (4, 4), 64), (70, 69, (4, 2), 128)]
    {
        let angles = randn(4, (tokens, head_dim / 2));
        let tables = [angles.cos().unwrap(), angles.sin().unwrap()];
        let qkv = randn(1, (tokens, (heads.0 + 2 * heads.1) * head_dim));
        let given = [qkv, (randn(2, head_dim) * 2.0).unwrap(), randn(3, head_dim)];
        for (method, with_norms) in METHODS.iter().flat_map(|method| [(method, true), (method, false)]) {
            for dtype in TYPES {
                let [on_device, on_cpu] = both(&given, dtype);
                let attention = |t: &[Tensor], tables: &[Tensor], by: &dyn Fn(&CausalAttention<'_>) -> Tensor| {
                    by(&CausalAttention {
                        qkv: &t[0],
                        norms: with_norms.then_some(HeadNorms { q: &t[1], k: &t[2], eps: 1e-6 }),
                        cos: &tables[0],
                        sin: &tables[1],
                        num_heads: heads.0,
                        num_kv_heads: heads.1,
                        valid,
                    })
                };
                let expected = attention(&on_cpu, &tables, &|inputs| with_reference(|| inputs.forward()).unwrap());
                let tables = tables.each_ref().map(|t| t.to_device(device()).unwrap());
                if method.name() == "mma" && dtype == DType::F32 {
                    continue;
                }
                let by_method = |inputs: &CausalAttention<'_>| {
                    causal_attention_by(std::slice::from_ref(method), inputs).unwrap().expect("a kernel")
                };
                let given = attention(&on_device, &tables, &by_method).to_device(&Device::Cpu).unwrap();
                let name = format!("{} causal {valid} of {tokens} {heads:?}x{head_dim} {dtype:?}", method.name());
                assert_close(&name, &given, &expected, if dtype == DType::F32 { 4e-6 } else { 1e-2 });
            }
        }
    }
}

#[test]
fn self_attention_stays_inside_its_rows() {
    for (lengths, num_heads, head_dim) in [(&[64usize, 48, 0, 12][..], 2, 32), (&[90, 7], 1, 64), (&[0, 0], 2, 32)] {
        let rows = RowLayout::new(lengths);
        let angles = randn(2, (rows.total(), head_dim / 2));
        let qkv = randn(1, (rows.total(), 3 * num_heads * head_dim));
        let tables =
            |t: &Tensor| [angles.cos(), angles.sin()].map(|table| table.unwrap().to_device(t.device()).unwrap());
        fn attention<'t>(
            t: &'t Tensor,
            [cos, sin]: &'t [Tensor; 2],
            rows: &'t RowLayout,
            num_heads: usize,
        ) -> SelfAttention<'t> {
            SelfAttention { qkv: t, cos, sin, rows, num_heads }
        }
        check(
            &format!("self-attention {lengths:?} {num_heads}x{head_dim}"),
            &[qkv],
            |t| Cuda.self_attention(&attention(&t[0], &tables(&t[0]), &rows, num_heads)),
            |t| attention(&t[0], &tables(&t[0]), &rows, num_heads).forward(),
        );
    }
}

#[test]
fn attention_leaves_other_heads_to_candle() {
    let joint = Joint::new(&[3], &[4], 2, 24);
    assert!(joint.on_device(DType::BF16).is_empty());
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let joint = Joint::new(&[18, 0, 7], &[64, 70, 31], 2, 32);
    let together = joint.on_device(DType::BF16);
    for row in 0..3 {
        let alone = joint.row(row).on_device(DType::BF16);
        for ((method, together), (_, alone)) in together.iter().zip(&alone) {
            for i in [0, 1] {
                let tokens = joint.rows[i].range(row);
                let of_row = together[i].narrow(0, tokens.start, tokens.len()).unwrap();
                assert_eq!(numbers(&of_row), numbers(&alone[i]), "{method}, row {row}");
            }
        }
    }
}

/// More rows than one launch takes, of which many are empty.
#[test]
fn rows_beyond_a_launch_are_served_too() {
    let lengths: Vec<usize> = (0..70).map(|row| row % 3).collect();
    let joint = Joint::new(&lengths, &lengths, 1, 32);
    let ([(_, given)], expected) = (&joint.on_device(DType::F32)[..], joint.on_cpu(DType::F32)) else { panic!() };
    for (given, expected) in given.iter().zip(&expected) {
        assert_close("70 rows", given, expected, 4e-6);
    }
    let rows = RowLayout::new(&lengths);
    let current = randn(1, (rows.total(), 8));
    let previous: Vec<_> = lengths.iter().zip(2..).map(|(n, seed)| randn(seed, (*n, 8))).collect();
    check_diffs(&current, &previous, &rows);
}

#[track_caller]
fn check_diffs(current: &Tensor, previous: &[Tensor], rows: &RowLayout) {
    for dtype in TYPES {
        let ([current, cpu_current], [previous, cpu_previous]) =
            (both(std::slice::from_ref(current), dtype), both(previous, dtype));
        // The second row has no previous value.
        fn known(previous: &[Tensor]) -> Vec<Option<&Tensor>> {
            previous.iter().enumerate().map(|(row, t)| (row != 1).then_some(t)).collect()
        }
        let given = Cuda.residual_diffs(&current[0], &known(&previous), rows).unwrap().unwrap();
        let expected = with_reference(|| crate::residual_diffs(&cpu_current[0], &known(&cpu_previous), rows)).unwrap();
        for (given, expected) in given.iter().zip(expected) {
            match (given, expected) {
                (Some(given), Some(expected)) if expected.is_nan() => assert!(given.is_nan()),
                (Some(given), Some(expected)) => assert!((given / expected - 1.0).abs() < 3e-6, "{given} {expected}"),
                (given, expected) => assert_eq!(*given, expected),
            }
        }
    }
}

#[test]
fn diffs_agree() {
    for (lengths, dim) in [(&[18usize, 0, 64, 3][..], 160), (&[5], 8), (&[30, 4, 70], 192)] {
        let rows = RowLayout::new(lengths);
        let previous: Vec<_> = lengths.iter().zip(2..).map(|(n, seed)| randn(seed, (*n, dim))).collect();
        check_diffs(&randn(1, (rows.total(), dim)), &previous, &rows);
    }
}

#[test]
fn nothing_of_nothing_is_no_number_and_something_of_nothing_infinite() {
    let rows = RowLayout::new(&[1, 1]);
    let on_device = |t: Tensor| t.to_device(device()).unwrap();
    let zeros = Tensor::zeros((1, 8), DType::F32, device()).unwrap();
    let current = Tensor::cat(&[&zeros, &zeros.ones_like().unwrap()], 0).map(on_device).unwrap();
    let given = Cuda.residual_diffs(&current, &[Some(&zeros), Some(&zeros)], &rows).unwrap().unwrap();
    assert!(given[0].unwrap().is_nan() && given[1] == Some(f32::INFINITY), "{given:?}");
}

#[test]
fn a_row_s_diff_does_not_depend_on_its_company() {
    let rows = RowLayout::new(&[37, 90]);
    let [on_device, _] = both(&[randn(1, (127, 192)), randn(2, (90, 192))], DType::BF16);
    let (current, previous) = (&on_device[0], &on_device[1]);
    let together = Cuda.residual_diffs(current, &[None, Some(previous)], &rows).unwrap().unwrap();
    let (current, rows) = (current.narrow(0, 37, 90).unwrap(), RowLayout::new(&[90]));
    assert_eq!(together[1], Cuda.residual_diffs(&current, &[Some(previous)], &rows).unwrap().unwrap()[0]);
}

#[test]
fn weighted_sums_agree() {
    for (tokens, dim) in [(1, 8), (64, 160), (7, 24)] {
        let given: Vec<_> = (1..5).map(|seed| randn(seed, (tokens, dim))).collect();
        for weights in [&[][..], &[1.0], &[-0.5, 2.25], &[0.5, -3.0, 1.5]] {
            fn terms<'t>(t: &'t [Tensor], weights: &[f64]) -> Vec<(f64, &'t Tensor)> {
                weights.iter().copied().zip(&t[1..]).collect()
            }
            check(
                &format!("weighted sum of {} {tokens}x{dim}", weights.len()),
                &given,
                |t| Cuda.add_weighted(&t[0], &terms(t, weights)),
                |t| crate::add_weighted(&t[0], &terms(t, weights)),
            );
        }
    }
}

#[test]
fn guidance_agrees() {
    for (tokens, channels) in [(1, 8), (37, 64), (5, 128), (3, 1032)] {
        for keeps_length in [true, false] {
            check(
                &format!("guidance {tokens}x{channels}, keeps length {keeps_length}"),
                &[randn(1, (tokens, channels)), randn(2, (tokens, channels))],
                |t| Cuda.guided(&t[0], &t[1], 4.0, keeps_length),
                |t| crate::guided(&t[0], &t[1], 4.0, keeps_length),
            );
        }
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

/// In f32 the mean of the squares less the square of the mean would be off by a third here.
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

/// Views that begin where a thread's read may not, or whose rows have gaps.
#[test]
fn views_are_read_where_they_begin() {
    let parts = |t: &Tensor| [t.narrow(1, 3, 16).unwrap(), t.narrow(0, 1, 8).unwrap().narrow(1, 8, 16).unwrap()];
    for part in [0, 1] {
        let name = format!("view {part}");
        let of = |t: &[Tensor]| parts(&t[0])[part].clone();
        check(&name, &[randn(1, (9, 24))], |t| Cuda.swiglu(&of(t)), |t| crate::swiglu(&of(t)));
        let terms = |t: &[Tensor]| Cuda.add_weighted(&of(t), &[(2.0, &of(t))]);
        check(&name, &[randn(1, (9, 24))], terms, |t| &of(t) * 3.0);
    }
}
