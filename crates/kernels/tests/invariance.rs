//! A result has the same bits for every number of threads.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::{
    AttentionStream, CausalAttention, Conv3x3, GroupNorm, JointAttention, Linear, Products, RopeTable, RowLayout,
    SelfAttention, add_weighted, modulated_layer_norm, residual_diffs,
};

/// Numbers from -1 to 1 without a pattern that could hide a mix-up.
fn numbers(seed: usize, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let numbers = (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618).sin());
    Tensor::from_vec(numbers.collect(), shape, &Device::Cpu)
}

/// Every operation that runs on several threads, large enough to do so.
fn everything() -> Result<Vec<f32>> {
    let rows = RowLayout::new(&[301, 0, 411]);
    let (x, vectors) = (numbers(1, &[712, 192])?, numbers(2, &[3, 192])?);
    let wide = Linear::new(&numbers(3, &[576, 192])?, Some(&numbers(4, &[576])?))?;
    let narrow = Linear::new(&numbers(5, &[192, 576])?, None)?;
    let qkv = wide.forward(&modulated_layer_norm(&x, &vectors, &vectors, &rows, 1e-6)?)?;
    let text = numbers(6, &[20, 576])?;
    let text_rows = RowLayout::new(&[13, 7, 0]);
    let rope = [314, 7, 411].map(|positions| {
        let angles = numbers(7, &[positions, 16])?;
        RopeTable::new(&angles.cos()?, &angles.sin()?).map(Arc::new)
    });
    let rope = rope.into_iter().collect::<Result<Vec<_>>>()?;
    let norm = numbers(8, &[32])?;
    let stream = |qkv, rows| AttentionStream { qkv, norm_q: &norm, norm_k: &norm, rows };
    let (text, image) = (stream(&text, &text_rows), stream(&qkv, &rows));
    let joint = |products| JointAttention { text, image, rope: &rope, num_heads: 6, eps: 1e-6, products }.forward();
    let (_, in_bf16) = joint(Products::Bf16)?;
    let (text, image) = joint(Products::F32)?;
    let int8 = Linear::int8(&[(&numbers(15, &[500, 192])?, Some(&numbers(16, &[500])?))])?;
    let bf16 = Linear::new(&numbers(17, &[500, 192])?.to_dtype(DType::BF16)?, None)?;
    let in_fewer_bits = [int8.forward(&x)?, int8.forward_gelu(&x.narrow(0, 0, 37)?)?, bf16.forward(&x)?, in_bf16];
    let hidden = narrow.forward_gated(&wide.forward_gelu(&image)?, &x, &vectors, &rows)?;
    let angles = numbers(9, &[712, 16])?;
    let grouped = Tensor::cat(&[&hidden, &x.narrow(1, 0, 128)?], 1)?;
    let (cos, sin) = (&angles, &angles);
    let causal = CausalAttention { qkv: &grouped, norms: None, cos, sin, num_heads: 6, num_kv_heads: 2, valid: 650 };
    let causal = causal.forward()?;
    let windows = SelfAttention { qkv: &qkv, cos, sin, rows: &rows, num_heads: 6 }.forward()?;
    let conv = Conv3x3::new(&numbers(10, &[48, 24, 3, 3])?, &numbers(11, &[48])?)?;
    let picture = numbers(12, &[50, 34, 24])?;
    let norm = GroupNorm::new(&numbers(13, &[24])?, &numbers(14, &[24])?, 4, 1e-6)?;
    let pictures = [
        conv.forward(&picture)?,
        conv.forward_upsampled(&picture)?,
        conv.forward_stride2(&picture)?,
        conv.forward_group_norm_silu(&picture, &norm, None)?,
        norm.forward_silu(&picture)?,
    ];
    let sum = add_weighted(&causal, &[(0.5, &hidden)])?;
    let [current, previous] = [&sum, &hidden].map(|t| t.narrow(0, 301, 411));
    let mut all = residual_diffs(&[(&current?, &previous?)])?;
    for tensor in [&text, &sum, &windows].into_iter().chain(&pictures).chain(&in_fewer_bits) {
        all.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

#[test]
fn a_result_does_not_depend_on_the_number_of_threads() {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(everything).unwrap()
    };
    let alone = with(1);
    assert!(alone.iter().all(|x| x.is_finite()));
    for threads in [2, 3, 7] {
        assert!(with(threads) == alone, "{threads} threads");
    }
}
