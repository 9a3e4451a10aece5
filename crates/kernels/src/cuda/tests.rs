//! Every kernel against candle's operations on the CPU, on ragged rows, in both float types.
//!
//! They need a device, or a driver that pretends to be one.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor};

use super::Cuda;
use super::attention::{METHODS, causal_attention_by, joint_attention_by};
use crate::backend::Backend;
use crate::operands::{
    AttentionStream, CausalAttention, GroupNorm, HeadNorms, JointAttention, Products, SelfAttention,
};
use crate::testing::{assert_close, numbers, randn};
use crate::{Guided, RopeTable, RowLayout, Terms, with_reference};

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
    let cases: [(&[usize], &[usize], usize, usize); 7] = [
        (&[18, 11], &[64, 64], 5, 32),
        (&[9, 70], &[65, 3], 3, 16),
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
                    assert_close(&name, given, expected, if dtype == DType::F32 { 4e-6 } else { 1.5e-2 });
                }
            }
        }
    }
}

/// Heads that share keys, padding, norms and none.
#[test]
fn causal_attention_agrees_by_every_method() {
    for (tokens, valid, heads, head_dim) in
        [(1, 1, (1, 1), 32), (77, 70, (4, 2), 16), (101, 101, (6, 2), 32), (130, 49, (4, 4), 64), (70, 69, (4, 2), 128)]
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
    for (lengths, num_heads, head_dim) in
        [(&[64usize, 48, 0, 12][..], 2, 32), (&[90, 7], 1, 64), (&[3, 80], 3, 16), (&[0, 0], 2, 32)]
    {
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
    check_diffs(&lengths, 8);
}

/// The numbers of each row now and before, in a type: on the device and on the CPU.
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

#[test]
fn diffs_agree() {
    for (lengths, dim) in [(&[18usize, 0, 64, 3][..], 160), (&[5], 8), (&[30, 4, 70], 192)] {
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

/// Rows of several lengths, sums of one term to many, and more of both than a launch takes.
#[test]
fn weighted_sums_agree() {
    let shapes = [(1usize, 8usize), (64, 160), (0, 8), (7, 24)];
    let num_terms = |sum: usize| 1 + sum * 3 % 7;
    for num_sums in [1, 4, 50] {
        let shape = |sum: usize| shapes[sum % shapes.len()];
        let numbers: Vec<Tensor> = (0..num_sums)
            .flat_map(|sum| (0..num_terms(sum)).map(move |term| randn((sum * 8 + term) as u64, shape(sum))))
            .collect();
        let sums = |t: &[Tensor], by: &dyn Fn(&[Terms<'_>]) -> Vec<Tensor>| {
            let mut rest = t;
            let sums: Vec<Terms<'_>> = (0..num_sums)
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

/// Views of some rows, one of them of none, and more parts than a launch takes.
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

/// Requests of several sizes and scales, and more than a launch takes.
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
        let sum = |t: &[Tensor]| Ok(Cuda.weighted_sums(&[vec![(2.5, &of(t))]])?.map(|mut sums| sums.remove(0)));
        check(&name, &[randn(1, (9, 24))], sum, |t| &of(t) * 2.5);
    }
}
