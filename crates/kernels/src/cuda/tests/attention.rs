//! Attention by every method, and the independence of rows.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::{TYPES, both, check, device};
use crate::backend::Backend;
use crate::cuda::Cuda;
use crate::cuda::attention::{METHODS, causal_attention_by, joint_attention_by};
use crate::operands::{AttentionStream, CausalAttention, HeadNorms, JointAttention, Products, SelfAttention};
use crate::testing::{assert_close, numbers, randn};
use crate::{RopeTable, RowLayout, with_reference};

/// Operands of a joint attention over rows of text and image tokens.
struct Joint {
    /// The qkv and the norms of queries and keys, of the text, then of the image.
    tensors: Vec<Tensor>,
    rows: [RowLayout; 2],
    /// The angles of each row.
    angles: Vec<Tensor>,
    num_heads: usize,
}

impl Joint {
    fn new(text: &[usize], image: &[usize], num_heads: usize, head_dim: usize) -> Self {
        let rows = [RowLayout::new(text), RowLayout::new(image)];
        let width = 3 * num_heads * head_dim;
        let of_stream = |seed: u64, rows: &RowLayout| {
            // Large queries make softmax weights that differ.
            [randn(seed, (rows.total(), width)), (randn(seed + 1, head_dim) * 2.0).unwrap(), randn(seed + 2, head_dim)]
        };
        let tensors = [of_stream(1, &rows[0]), of_stream(4, &rows[1])].concat();
        let angles = text.iter().zip(image).zip(10..);
        let angles = angles.map(|((text, image), seed)| randn(seed, (text + image, head_dim / 2))).collect();
        Joint { tensors, rows, angles, num_heads }
    }

    /// The operands of one row alone.
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

    /// The results on the device by each method that supports the type, with its name.
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

/// Shared key heads, padding, with and without norms.
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

/// More rows than fit into one launch, many of them empty.
#[test]
fn rows_beyond_a_launch_are_served_too() {
    let lengths: Vec<usize> = (0..70).map(|row| row % 3).collect();
    let joint = Joint::new(&lengths, &lengths, 1, 32);
    let ([(_, given)], expected) = (&joint.on_device(DType::F32)[..], joint.on_cpu(DType::F32)) else { panic!() };
    for (given, expected) in given.iter().zip(&expected) {
        assert_close("70 rows", given, expected, 4e-6);
    }
}
