//! Every large operation ends early once it is interrupted, and never returns half a result.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Result, Tensor};
use kernels::{
    AttentionStream, CausalAttention, Conv3x3, GroupNorm, JointAttention, Linear, Products, RopeTable, RowLayout,
    SelfAttention, attention, interruptible, with_reference,
};

fn randn(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn ones(width: usize) -> Tensor {
    Tensor::ones(width, candle_core::DType::F32, &Device::Cpu).unwrap()
}

/// An operation, and the least number of times that it checks for an interrupt.
struct Case {
    name: &'static str,
    parts: usize,
    run: Box<dyn Fn() -> Result<Tensor>>,
}

fn case(name: &'static str, parts: usize, run: impl Fn() -> Result<Tensor> + 'static) -> Case {
    Case { name, parts, run: Box::new(run) }
}

/// Two heads of 16; 960 tokens are 20 blocks of queries.
fn attentions() -> Vec<Case> {
    const TOKENS: usize = 960;
    let (qkv, half, norm) = (randn(&[TOKENS, 96]), randn(&[TOKENS, 8]), ones(16));
    let [q, k, v] = [0, 32, 64].map(|from| qkv.narrow(1, from, 32).unwrap().contiguous().unwrap());
    let (rows, none) = (RowLayout::new(&[TOKENS]), RowLayout::new(&[0]));
    let rope = vec![Arc::new(RopeTable::new(&half, &half).unwrap())];
    let joint = {
        let (qkv, norm, rows, text) = (qkv.clone(), norm.clone(), rows.clone(), qkv.narrow(0, 0, 0).unwrap());
        move || {
            let stream = |qkv, rows| AttentionStream { qkv, norm_q: &norm, norm_k: &norm, rows };
            let (text, image) = (stream(&text, &none), stream(&qkv, &rows));
            JointAttention { text, image, rope: &rope, num_heads: 2, eps: 1e-6, products: Products::F32 }
                .forward()
                .map(|(_, image)| image)
        }
    };
    let of_rows = {
        let (qkv, half) = (qkv.clone(), half.clone());
        move || SelfAttention { qkv: &qkv, cos: &half, sin: &half, rows: &rows, num_heads: 2 }.forward()
    };
    let causal = move || {
        let heads = (2, 2);
        let (cos, sin) = (&half, &half);
        let (num_heads, num_kv_heads) = heads;
        CausalAttention { qkv: &qkv, norms: None, cos, sin, num_heads, num_kv_heads, valid: TOKENS }.forward()
    };
    vec![
        case("joint attention", 40, joint),
        case("self-attention", 40, of_rows),
        case("causal attention", 40, causal),
        case("plain attention", 40, move || attention(&q, &k, &v, 2)),
    ]
}

/// 128x128 pixels: 8 bands of 16 rows, or 4 of Winograd's.
fn convolutions() -> Vec<Case> {
    let conv = |input: usize, out: usize| Conv3x3::new(&randn(&[out, input, 3, 3]), &randn(&[out])).unwrap();
    let (narrow, winograd, norm) = (conv(4, 4), conv(16, 16), GroupNorm::new(&ones(16), &ones(16), 4, 1e-6).unwrap());
    let (thin, wide) = (randn(&[128, 128, 4]), randn(&[128, 128, 16]));
    let (thick, halving) = (wide.clone(), narrow.clone());
    let other = thin.clone();
    vec![
        case("direct convolution", 8, move || narrow.forward(&thin)),
        case("halving convolution", 4, move || halving.forward_stride2(&other)),
        case("Winograd", 4, move || winograd.forward_group_norm_silu(&wide, &norm, None)),
        case("group norm", 16, move || GroupNorm::new(&ones(16), &ones(16), 4, 1e-6)?.forward(&thick)),
    ]
}

fn cases() -> Vec<Case> {
    let (linear, x) = (Linear::new(&randn(&[64, 128]), None).unwrap(), randn(&[1440, 128]));
    let (int8, wide) = (Linear::int8(&[(&randn(&[64, 128]), None)]).unwrap(), x.clone());
    let products =
        vec![case("linear", 6, move || linear.forward(&x)), case("int8 linear", 6, move || int8.forward(&wide))];
    [products, attentions(), convolutions()].into_iter().flatten().collect()
}

/// Runs the operation with an interrupt at check number `at`; returns the result and the number of checks.
fn interrupted(run: &dyn Fn() -> Result<Tensor>, at: usize) -> (Result<Tensor>, usize) {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let result = interruptible(move || counted.fetch_add(1, Ordering::SeqCst) + 1 >= at, run);
    (result, looks.load(Ordering::SeqCst))
}

#[test]
fn an_operation_ends_at_whatever_look_says_so() {
    for Case { name, parts, run } in cases() {
        let (whole, looks) = interrupted(&*run, usize::MAX);
        assert!(whole.is_ok() && looks >= parts, "{name} looks {looks} times, not {parts}");
        for at in [1, parts / 2, parts, looks] {
            let (result, _) = interrupted(&*run, at);
            let err = result.err().unwrap_or_else(|| panic!("{name}, stopped at look {at}, gave a result"));
            assert!(err.to_string().starts_with("interrupted"), "{name}: {err}");
        }
        let again = run().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(
            again == whole.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            "{name}: nothing is left over"
        );
    }
}

#[test]
fn the_reference_of_an_attention_looks_too() {
    for Case { name, run, .. } in attentions().into_iter().filter(|case| case.name != "causal attention") {
        assert!(with_reference(|| interrupted(&*run, 1)).0.is_err(), "{name}");
    }
}
