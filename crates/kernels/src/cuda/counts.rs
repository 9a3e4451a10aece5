//! Calls to the driver by the blocks of a transformer, as an emulated driver counts them.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::tests::device;
use crate::testing::randn;
use crate::{
    AttentionStream, Conv3x3, GroupNorm, JointAttention, Linear, LinearStack, Products, RopeTable, RowLayout, cat_rows,
    modulated_layer_norm, residual_diffs, swiglu, weighted_sums,
};

/// Heads per block here, and features per head.
const HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const DIM: usize = HEADS * HEAD_DIM;

/// The counters, in the order of the emulator's file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    launches: u64,
    products: u64,
    copies_to_the_device: u64,
    copies_to_the_host: u64,
    copies_on_the_device: u64,
    fills: u64,
}

/// Positions in the emulator's file: allocated bytes of device memory, and their peak since a test last reset it.
const BYTES_HELD: usize = 11;
const MOST_BYTES_HELD: usize = 12;

/// The emulator's counters; `None` without an emulator.
fn numbers_counted() -> Option<Vec<u64>> {
    let Some(file) = std::env::var_os("EMULATOR_COUNTS") else {
        println!("skipped: EMULATOR_COUNTS names no file");
        return None;
    };
    let bytes = std::fs::read(file).unwrap();
    Some(bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect())
}

/// The peak of the bytes that `work` allocates in addition to those allocated before; `None` without an emulator.
fn most_bytes(work: impl Fn()) -> Option<u64> {
    let before = numbers_counted()?[BYTES_HELD];
    let file = std::env::var_os("EMULATOR_COUNTS").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&before.to_le_bytes(), 8 * MOST_BYTES_HELD as u64).unwrap();
    work();
    Some(numbers_counted()?[MOST_BYTES_HELD] - before)
}

/// The calls that `work` makes; `None` without an emulator.
fn counted(work: impl Fn()) -> Option<Counts> {
    let before = numbers_counted()?;
    work();
    let after = numbers_counted()?;
    let [launches, products, copies_to_the_device, copies_to_the_host, copies_on_the_device, fills] =
        [0, 1, 2, 3, 4, 5].map(|i| after[i] - before[i]);
    let counts = Counts { launches, products, copies_to_the_device, copies_to_the_host, copies_on_the_device, fills };
    println!("{counts:?}");
    Some(counts)
}

fn tensor(seed: u64, shape: (usize, usize)) -> Tensor {
    randn(seed, shape).to_dtype(DType::BF16).unwrap().to_device(device()).unwrap()
}

fn linear(seed: u64, width: usize, out: usize) -> Linear {
    let bias = tensor(seed + 1, (1, out)).get(0).unwrap();
    Linear::new(&tensor(seed, (out, width)), Some(&bias)).unwrap()
}

/// The layers of a block for one of its streams.
struct Layers {
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
    norm: Tensor,
}

impl Layers {
    /// The first layer of the feed-forward network is twice as wide before a SwiGLU.
    fn new(gated: bool) -> Self {
        let up = if gated { 8 * DIM } else { 4 * DIM };
        Layers {
            qkv: linear(3, DIM, 3 * DIM),
            out: linear(5, DIM, DIM),
            up: linear(7, DIM, up),
            down: linear(9, 4 * DIM, DIM),
            norm: tensor(11, (1, HEAD_DIM)).get(0).unwrap(),
        }
    }

    fn modulated(&self, x: &Tensor, vectors: &Tensor, first: usize, rows: &RowLayout) -> Tensor {
        let [shift, scale] = [first, first + 1].map(|i| vectors.narrow(1, i * DIM, DIM).unwrap());
        modulated_layer_norm(x, &shift, &scale, rows, 1e-6).unwrap()
    }

    /// The end of each half of a block: the attention's output or the feed-forward network.
    fn close(&self, layer: &Linear, x: &Tensor, residual: &Tensor, vectors: &Tensor, rows: &RowLayout) -> Tensor {
        layer.forward_gated(x, residual, &vectors.narrow(1, 2 * DIM, DIM).unwrap(), rows).unwrap()
    }
}

struct Batch {
    text: Tensor,
    image: Tensor,
    time: Tensor,
    rows: [RowLayout; 2],
    rope: Vec<Arc<RopeTable>>,
}

/// One row, with its offsets already on the device.
fn batch(text: usize, image: usize) -> Batch {
    let angles = randn(1, (text + image, HEAD_DIM / 2)).to_device(device()).unwrap();
    let rows = [text, image].map(|tokens| RowLayout::new(&[tokens]));
    for rows in &rows {
        rows.offsets_on(device()).unwrap();
    }
    Batch {
        text: tensor(2, (text, DIM)),
        image: tensor(3, (image, DIM)),
        time: tensor(4, (1, DIM)),
        rows,
        rope: vec![Arc::new(RopeTable::new(&angles.cos().unwrap(), &angles.sin().unwrap()).unwrap())],
    }
}

fn attend([text, image]: [(&Layers, &Tensor); 2], batch: &Batch) -> [Tensor; 2] {
    let qkv = [text, image].map(|(layers, x)| layers.qkv.forward(x).unwrap());
    let norms = [&text.0.norm, &image.0.norm];
    let stream = |i: usize| {
        let (qkv, norm_q, norm_k, rows) = (&qkv[i], norms[i], norms[i], &batch.rows[i]);
        AttentionStream { qkv, norm_q, norm_k, rows }
    };
    let (text, image) = (stream(0), stream(1));
    JointAttention { text, image, rope: &batch.rope, num_heads: HEADS, eps: 1e-6, products: Products::F32 }
        .forward()
        .unwrap()
        .into()
}

/// The modulations of the streams of `blocks` blocks.
fn modulations(blocks: usize) -> LinearStack {
    let mut stack = LinearStack::with_capacity(blocks);
    for seed in 0..blocks as u64 {
        stack.push(&tensor(seed, (6 * DIM, DIM)), Some(&tensor(seed, (1, 6 * DIM)).get(0).unwrap())).unwrap();
    }
    stack
}

/// A dual-stream block as in Qwen-Image. Its modulation was computed together with others.
fn dual_block(layers: &[Layers; 2], vectors: &[Tensor; 2], batch: &Batch) -> [Tensor; 2] {
    let (streams, rows) = ([&batch.text, &batch.image], &batch.rows);
    let normed = [0, 1].map(|i| layers[i].modulated(streams[i], &vectors[i], 0, &rows[i]));
    let attended = attend([(&layers[0], &normed[0]), (&layers[1], &normed[1])], batch);
    [0, 1].map(|i| {
        let layers = &layers[i];
        let x = layers.close(&layers.out, &attended[i], streams[i], &vectors[i], &rows[i]);
        let inner = layers.up.forward_gelu(&layers.modulated(&x, &vectors[i], 3, &rows[i])).unwrap();
        layers.close(&layers.down, &inner, &x, &vectors[i], &rows[i])
    })
}

/// A single-stream block as in FLUX.2. Its modulation is computed once per step.
fn single_block(layers: &Layers, vectors: &Tensor, batch: &Batch) -> Tensor {
    let (x, rows) = (&batch.image, &batch.rows[1]);
    let normed = layers.modulated(x, vectors, 0, rows);
    let nothing = batch.text.narrow(0, 0, 0).unwrap();
    let [_, attended] = attend([(layers, &nothing), (layers, &normed)], batch);
    let inner = swiglu(&layers.up.forward(&normed).unwrap()).unwrap();
    let x = layers.close(&layers.out, &attended, x, vectors, rows);
    layers.close(&layers.down, &inner, &x, vectors, rows)
}

/// Per stream two norms, two gates and four products; attention takes two launches.
#[test]
fn counts_of_a_dual_block() {
    let (layers, batch, stack) = ([Layers::new(false), Layers::new(false)], batch(5, 20), modulations(2));
    let vectors: Vec<_> = stack.forward(&batch.time, 0..2).unwrap().map(Result::unwrap).collect();
    let vectors = vectors.try_into().unwrap();
    dual_block(&layers, &vectors, &batch);
    let Some(counts) = counted(|| drop(dual_block(&layers, &vectors, &batch))) else { return };
    assert_eq!(counts, Counts { launches: 10, products: 8, ..Counts::default() });
}

#[test]
fn counts_of_the_modulation_of_three_blocks() {
    let (stack, time) = (modulations(4), tensor(4, (1, DIM)));
    let of = || stack.forward(&time, 1..4).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    of();
    let Some(counts) = counted(|| assert_eq!(of().len(), 3)) else { return };
    assert_eq!(counts, Counts { products: 1, ..Counts::default() });
}

/// A norm, attention in two launches, a SwiGLU and two gates. An empty text needs no product.
#[test]
fn counts_of_a_single_block() {
    let (layers, batch) = (Layers::new(true), batch(0, 20));
    let vectors = linear(1, DIM, 3 * DIM).forward(&batch.time).unwrap();
    single_block(&layers, &vectors, &batch);
    let Some(counts) = counted(|| drop(single_block(&layers, &vectors, &batch))) else { return };
    assert_eq!(counts, Counts { launches: 6, products: 4, ..Counts::default() });
}

#[test]
fn counts_of_what_a_cached_step_asks() {
    let rows = [5, 7, 9].map(|tokens| (tensor(1, (tokens, DIM)), tensor(2, (tokens, DIM))));
    let [one, two, three] = &rows;
    let work = || {
        let rows = rows.each_ref().map(|(current, previous)| (current, previous));
        let forecasts = rows.map(|(x, residual)| vec![(1.0, x), (2.0, residual), (-1.0, residual)]);
        residual_diffs(&rows).unwrap();
        weighted_sums(&forecasts).unwrap();
        cat_rows(&[&one.0, &two.0, &three.0]).unwrap();
    };
    work();
    let Some(counts) = counted(work) else { return };
    assert_eq!(counts, Counts { launches: 3, copies_to_the_host: 1, ..Counts::default() });
}

/// The number of clones of a layout and of calls does not matter.
#[test]
fn offsets_are_copied_once() {
    let rows = RowLayout::new(&[5, 0, 9]);
    let of = |rows: &RowLayout| rows.offsets_on(device()).unwrap();
    assert_eq!(of(&rows).id(), of(&rows.clone()).id());
    assert_eq!(of(&rows).to_vec1::<u32>().unwrap(), [0, 5, 5, 14]);
    assert!(RowLayout::new(&[0, 0]).offsets_if_any(device()).unwrap().is_none());
}

/// The norm and the convolution only. Memory holds only their outputs: im2col columns would be nine times the picture.
#[test]
fn counts_of_a_convolution() {
    let (side, channels) = (40, 32);
    let tensor = |seed, shape: &[usize]| randn(seed, shape).to_dtype(DType::BF16).unwrap().to_device(device()).unwrap();
    let conv = Conv3x3::new(&tensor(1, &[channels, channels, 3, 3]), &tensor(2, &[channels])).unwrap();
    let (x, gamma) = (tensor(3, &[side, side, channels]), tensor(4, &[channels]));
    let norm = GroupNorm::new(&gamma, &gamma, 4, 1e-6).unwrap();
    let one = (x.elem_count() * DType::BF16.size_in_bytes()) as u64;
    let plain = || drop(conv.forward(&x).unwrap());
    let upsampled = || drop(conv.forward_upsampled(&x).unwrap());
    let normed = || drop(conv.forward_norm_silu(&x, &gamma, Some(&x)).unwrap());
    let group_normed = || drop(conv.forward_group_norm_silu(&x, &norm, Some(&x)).unwrap());
    let halved = || drop(conv.forward_stride2(&x).unwrap());
    let cases: [(&dyn Fn(), u64, u64); 5] = [
        (&plain, 1, one),
        (&upsampled, 1, 4 * one),
        (&normed, 2, 2 * one),
        (&group_normed, 4, 2 * one),
        (&halved, 1, one / 4),
    ];
    for (work, launches, bytes) in cases {
        work();
        let Some(counts) = counted(work) else { return };
        assert_eq!(counts, Counts { launches, ..Counts::default() });
        let most = most_bytes(work).unwrap();
        println!("{most} bytes at most, {bytes} of pictures");
        // The rest are the sums of a group norm's slices.
        assert!((bytes..bytes + bytes / 8).contains(&most), "{most} bytes, {bytes} are of pictures");
    }
}
