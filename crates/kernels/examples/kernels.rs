//! Times every operation with the kernels of each instruction set and with its plain candle reference.
//!
//!     cargo run --release -p kernels --example kernels [--sets avx2,fastest] [--processor-time] [word of an operation's name]...
//!
//! Times are in milliseconds: medians over half a second of runs. `--processor-time` is for a loaded machine and one
//! thread (`RAYON_NUM_THREADS=1`): means of the thread's processor time as Linux counts it.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use kernels::{
    AttentionStream, CausalAttention, Conv3x3, GroupNorm, JointAttention, Linear, Products, RopeTable, RowLayout,
    SelfAttention, add_weighted, attention, channel_norm, modulated_layer_norm, residual_diffs, rms_norm, swiglu,
    with_instruction_set,
};

// A server should do the same. glibc returns large results to the system, and for a batch of small pictures the page
// faults then cost as much as the work.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    kernels::threads_from_env();
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut sets: Vec<String> = kernels::instruction_sets().map(str::to_string).collect();
    if let Some(flag) = words.iter().position(|word| word == "--sets").filter(|flag| flag + 1 < words.len()) {
        let named = words.drain(flag..flag + 2).nth(1).unwrap_or_default();
        let fastest = kernels::instruction_set().map_err(candle_core::Error::msg)?;
        sets = named.split(',').map(|set| if set == "fastest" { fastest } else { set }.to_string()).collect();
    }
    let processor_time = words.iter().any(|word| word == "--processor-time");
    words.retain(|word| word != "--processor-time");
    println!("{:<56} {}", "operation, ms", sets.iter().map(|set| format!("{set:>12}")).collect::<String>());
    kernels::in_pool(&Device::Cpu, || {
        let mut bench = Bench { words, sets, processor_time };
        blocks(&mut bench)?;
        linears(&mut bench)?;
        tiles(&mut bench)?;
        attentions(&mut bench)?;
        rows(&mut bench)?;
        convolutions(&mut bench)
    })
}

struct Bench {
    words: Vec<String>,
    sets: Vec<String>,
    processor_time: bool,
}

impl Bench {
    /// Times `run` on the result of `build`, once for each set.
    fn time<T, R>(&mut self, name: &str, build: impl Fn() -> Result<T>, run: impl Fn(&T) -> Result<R>) -> Result<()> {
        if !self.words.is_empty() && !self.words.iter().any(|word| name.contains(word.as_str())) {
            return Ok(());
        }
        let on = |set: &str, work: &dyn Fn() -> Result<f64>| {
            with_instruction_set(set, work).map_err(candle_core::Error::msg).flatten()
        };
        let mut line = format!("{name:<56} ");
        for set in &self.sets {
            // One after the other: candle's own pool spins for a while after each of its operations.
            line += &format!("{:>12.4}", on(set, &|| build().and_then(|built| self.measure(|| run(&built))))?);
        }
        println!("{line}");
        Ok(())
    }

    fn measure<R>(&self, run: impl Fn() -> Result<R>) -> Result<f64> {
        if self.processor_time { mean_on_processor(run) } else { median(run) }
    }
}

/// The median time of a run in milliseconds, over half a second.
fn median<R>(run: impl Fn() -> Result<R>) -> Result<f64> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || (start.elapsed().as_secs_f64() < 0.5 && times.len() < 1000) {
        let start = Instant::now();
        std::hint::black_box(run()?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The mean processor time of a run on this thread in milliseconds, over half a second, because the kernel counts it in
/// ticks.
fn mean_on_processor<R>(run: impl Fn() -> Result<R>) -> Result<f64> {
    run()?;
    let (start, mut end, mut runs) = (processor_ms()?, 0.0, 0);
    while runs < 3 || end < start + 500.0 {
        std::hint::black_box(run()?);
        (end, runs) = (processor_ms()?, runs + 1);
    }
    Ok((end - start) / f64::from(runs))
}

/// The processor time of this thread in milliseconds.
fn processor_ms() -> Result<f64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = told.split(' ').next().unwrap_or_default().parse::<f64>();
    nanoseconds.map(|ns| ns * 1e-6).map_err(candle_core::Error::msg)
}

fn randn(shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

/// The number format of a block's products.
#[derive(Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    Int8,
}

impl Kind {
    fn linear(self, n: usize, k: usize) -> Result<Linear> {
        match self {
            Kind::F32 => linear(n, k, DType::F32),
            Kind::Bf16 => linear(n, k, DType::BF16),
            Kind::Int8 => int8(n, k),
        }
    }
}

fn int8(n: usize, k: usize) -> Result<Linear> {
    Linear::int8(&[(&randn((n, k))?, Some(&randn(n)?))])
}

fn linear(out_features: usize, in_features: usize, dtype: DType) -> Result<Linear> {
    let weight = (randn((out_features, in_features))? * (in_features as f64).powf(-0.5))?.to_dtype(dtype)?;
    Linear::new(&weight, Some(&randn(out_features)?.to_dtype(dtype)?))
}

/// A dual-stream block of Qwen-Image's DiT.
struct Block {
    modulation: [Linear; 2],
    qkv: [Linear; 2],
    norms: [Tensor; 4],
    to_out: [Linear; 2],
    up: [Linear; 2],
    down: [Linear; 2],
    rows: [RowLayout; 2],
    rope: Vec<Arc<RopeTable>>,
    num_heads: usize,
    products: Products,
}

impl Block {
    fn new(kind: Kind, num_heads: usize, head_dim: usize, text: &[usize], image: &[usize]) -> Result<Self> {
        let dim = num_heads * head_dim;
        let pair = |n, k| -> Result<_> { Ok([kind.linear(n, k)?, kind.linear(n, k)?]) };
        let rope = text.iter().zip(image).map(|(text, image)| {
            let angles = randn((text + image, head_dim / 2))?;
            Ok(Arc::new(RopeTable::new(&angles.cos()?, &angles.sin()?)?))
        });
        let norm = || randn(head_dim);
        Ok(Block {
            modulation: pair(6 * dim, dim)?,
            qkv: pair(3 * dim, dim)?,
            norms: [norm()?, norm()?, norm()?, norm()?],
            to_out: pair(dim, dim)?,
            up: pair(4 * dim, dim)?,
            down: pair(dim, 4 * dim)?,
            rows: [RowLayout::new(text), RowLayout::new(image)],
            rope: rope.collect::<Result<_>>()?,
            num_heads,
            products: if let Kind::Bf16 = kind { Products::Bf16 } else { Products::F32 },
        })
    }

    /// `hidden` is text and image, `temb` is `[num_rows, dim]` after its SiLU.
    fn forward(&self, hidden: &[Tensor; 2], temb: &Tensor) -> Result<[Tensor; 2]> {
        let dim = hidden[0].dim(1)?;
        let modulation = [self.modulation[0].forward(temb)?, self.modulation[1].forward(temb)?];
        let chunk = |i: usize, chunk: usize| modulation[i].narrow(1, chunk * dim, dim);
        let qkv = |i: usize| {
            self.qkv[i].forward(&modulated_layer_norm(&hidden[i], &chunk(i, 0)?, &chunk(i, 1)?, &self.rows[i], 1e-6)?)
        };
        let qkv = [qkv(0)?, qkv(1)?];
        let stream = |i: usize| AttentionStream {
            qkv: &qkv[i],
            norm_q: &self.norms[2 * i],
            norm_k: &self.norms[2 * i + 1],
            rows: &self.rows[i],
        };
        let (text, image) = (stream(0), stream(1));
        let (num_heads, products) = (self.num_heads, self.products);
        let joint = JointAttention { text, image, rope: &self.rope, num_heads, eps: 1e-6, products };
        let (text, image) = joint.forward()?;
        let rest = |i: usize, attended: &Tensor| {
            let rows = &self.rows[i];
            let hidden = self.to_out[i].forward_gated(attended, &hidden[i], &chunk(i, 2)?, rows)?;
            let normed = modulated_layer_norm(&hidden, &chunk(i, 3)?, &chunk(i, 4)?, rows, 1e-6)?;
            self.down[i].forward_gated(&self.up[i].forward_gelu(&normed)?, &hidden, &chunk(i, 5)?, rows)
        };
        Ok([rest(0, &text)?, rest(1, &image)?])
    }
}

fn blocks(bench: &mut Bench) -> Result<()> {
    let mut block = |name: &str, kind, num_heads, head_dim, text: &[usize], image: &[usize]| {
        let dim = num_heads * head_dim;
        let hidden = [randn((text.iter().sum::<usize>(), dim))?, randn((image.iter().sum::<usize>(), dim))?];
        let temb = randn((text.len(), dim))?;
        let build = || Block::new(kind, num_heads, head_dim, text, image);
        bench.time(&format!("block {name}"), build, |block| block.forward(&hidden, &temb))
    };
    block("192 (6x32), 64+16 tokens", Kind::F32, 6, 32, &[16], &[64])?;
    block("192 (6x32), 2 rows of 64+16", Kind::F32, 6, 32, &[16, 16], &[64, 64])?;
    block("160 (5x32), 64+18", Kind::F32, 5, 32, &[18], &[64])?;
    block("160 (5x32), ragged 64+18, 64+6", Kind::F32, 5, 32, &[18, 6], &[64, 64])?;
    block("160 (5x32), 16 rows of 64+18", Kind::F32, 5, 32, &[18; 16], &[64; 16])?;
    block("3072 (24x128), 1024+128, f32", Kind::F32, 24, 128, &[128], &[1024])?;
    block("3072 (24x128), 1024+128, bf16", Kind::Bf16, 24, 128, &[128], &[1024])?;
    block("3072 (24x128), 1024+128, int8", Kind::Int8, 24, 128, &[128], &[1024])
}

fn linears(bench: &mut Bench) -> Result<()> {
    for (tokens, n, k, dtype) in [
        (2, 960, 160, DType::F32),
        (64, 192, 192, DType::F32),
        (64, 768, 192, DType::F32),
        (64, 192, 768, DType::F32),
        (512, 768, 192, DType::F32),
        (1, 3072, 3072, DType::BF16),
        (128, 3072, 3072, DType::F32),
        (1024, 3072, 3072, DType::F32),
        (1024, 3072, 3072, DType::BF16),
        (1024, 12288, 3072, DType::F32),
        (1024, 3072, 12288, DType::F32),
        (1024, 3072, 12288, DType::BF16),
    ] {
        let x = randn((tokens, k))?;
        let name = format!("linear {tokens}x{k}x{n} {dtype:?}");
        bench.time(&name, || linear(n, k, dtype), |linear| linear.forward(&x))?;
    }
    let x = randn((64, 192))?;
    bench.time("linear + gelu 64x192x768", || linear(768, 192, DType::F32), |linear| linear.forward_gelu(&x))
}

/// Products in fewer bits.
fn tiles(bench: &mut Bench) -> Result<()> {
    for (tokens, n, k) in [(64, 480, 160), (1, 3072, 3072), (1024, 3072, 3072), (1024, 3072, 12288), (4608, 3072, 3072)]
    {
        let x = randn((tokens, k))?;
        bench.time(&format!("linear {tokens}x{k}x{n} int8"), || int8(n, k), |linear| linear.forward(&x))?;
    }
    let x = randn((1024, 3072))?;
    for dtype in [DType::F32, DType::BF16] {
        let name = format!("linear + gelu 1024x3072x12288 {dtype:?}");
        bench.time(&name, || linear(12288, 3072, dtype), |up| up.forward_gelu(&x))?;
    }
    bench.time("linear + gelu 1024x3072x12288 int8", || int8(12288, 3072), |up| up.forward_gelu(&x))
}

fn attentions(bench: &mut Bench) -> Result<()> {
    for (num_heads, head_dim, text, image) in [(6, 32, 16, 64), (24, 128, 128, 1024), (24, 128, 64, 4096)] {
        let tokens = text + image;
        let [q, k, v] = [0; 3].map(|_| randn((tokens, num_heads * head_dim)));
        let (q, k, v) = (q?, k?, v?);
        let name = format!("attention {num_heads}x{tokens}x{head_dim}");
        bench.time(&name, || Ok(()), |()| attention(&q, &k, &v, num_heads))?;
    }
    for (num_heads, head_dim, tokens) in [(5, 32, 82), (24, 128, 144), (24, 128, 320), (24, 128, 1152), (24, 128, 4608)]
    {
        let (none, rows) = (RowLayout::new(&[0]), RowLayout::new(&[tokens]));
        let (qkv, norm, angles) =
            (randn((tokens, 3 * num_heads * head_dim))?, randn(head_dim)?, randn((tokens, head_dim / 2))?);
        let nothing = qkv.narrow(0, 0, 0)?;
        let rope = [Arc::new(RopeTable::new(&angles.cos()?, &angles.sin()?)?)];
        let stream = |qkv, rows| AttentionStream { qkv, norm_q: &norm, norm_k: &norm, rows };
        let (text, image) = (stream(&nothing, &none), stream(&qkv, &rows));
        for products in [Products::F32, Products::Bf16] {
            let joint = JointAttention { text, image, rope: &rope, num_heads, eps: 1e-6, products };
            let name = format!("joint attention {num_heads}x{tokens}x{head_dim} {products:?}");
            bench.time(&name, || Ok(()), |()| joint.forward())?;
        }
    }
    let (tokens, num_heads, num_kv_heads, head_dim) = (512, 28, 4, 128);
    let qkv = randn((tokens, (num_heads + 2 * num_kv_heads) * head_dim))?;
    let angles = randn((tokens, head_dim / 2))?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    for valid in [512, 40] {
        let (qkv, cos, sin) = (&qkv, &cos, &sin);
        let causal = CausalAttention { qkv, norms: None, cos, sin, num_heads, num_kv_heads, valid };
        bench.time(&format!("causal attention 28/4x512x128, {valid} valid"), || Ok(()), |()| causal.forward())?;
    }
    for (name, lengths) in [("windows", vec![64; 12]), ("picture", vec![768])] {
        let (rows, num_heads, head_dim) = (RowLayout::new(&lengths), 16, 80);
        let (qkv, angles) = (randn((768, 3 * num_heads * head_dim))?, randn((768, head_dim / 2))?);
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let attention = SelfAttention { qkv: &qkv, cos: &cos, sin: &sin, rows: &rows, num_heads };
        bench.time(&format!("self-attention 16x768x80, {name}"), || Ok(()), |()| attention.forward())?;
    }
    Ok(())
}

fn rows(bench: &mut Bench) -> Result<()> {
    for (tokens, dim) in [(64, 192), (1024, 3072)] {
        let (x, y) = (randn((tokens, dim))?, randn((tokens, dim))?);
        let (modulation, weight) = (randn((1, 6 * dim))?, randn(dim)?);
        let (shift, scale) = (modulation.narrow(1, 0, dim)?, modulation.narrow(1, dim, dim)?);
        let layout = RowLayout::new(&[tokens]);
        let size = format!("{tokens}x{dim}");
        let nothing = || Ok(());
        bench.time(&format!("modulated layer norm {size}"), nothing, |()| {
            modulated_layer_norm(&x, &shift, &scale, &layout, 1e-6)
        })?;
        bench.time(&format!("rms norm {size}"), nothing, |()| rms_norm(&x, &weight, 1e-6))?;
        bench.time(&format!("swiglu {size}"), nothing, |()| swiglu(&x))?;
        bench.time(&format!("residual diffs {size}"), nothing, |()| residual_diffs(&[(&x, &y)]))?;
        bench
            .time(&format!("add weighted {size}, 2 terms"), nothing, |()| add_weighted(&x, &[(0.5, &y), (2.0, &x)]))?;
    }
    let (x, gamma) = (randn((256, 256, 96))?, randn(96)?);
    bench.time("channel norm 256x256x96", || Ok(()), |()| channel_norm(&x, &gamma))?;
    let (x, weight) = (randn((256, 256, 128))?, randn(128)?);
    let norm = || GroupNorm::new(&weight, &weight, 32, 1e-6);
    bench.time("group norm 256x256x128", norm, |norm| norm.forward(&x))?;
    bench.time("group norm + silu 256x256x128", norm, |norm| norm.forward_silu(&x))
}

fn convolutions(bench: &mut Bench) -> Result<()> {
    let conv = |ci: usize, co: usize| Conv3x3::new(&(randn((co, ci, 3, 3))? * 0.05)?, &randn(co)?);
    for (side, ci, co) in [(32, 16, 384), (32, 384, 384), (64, 384, 384), (128, 192, 192), (256, 96, 96), (256, 96, 3)]
    {
        let (x, gamma, size) = (randn((side, side, ci))?, randn(ci)?, format!("{side}x{side} {ci}->{co}"));
        bench.time(&format!("conv {size}"), || conv(ci, co), |conv| conv.forward(&x))?;
        let residual = randn((side, side, co))?;
        bench.time(
            &format!("norm + silu + conv + residual {size}"),
            || conv(ci, co),
            |conv| conv.forward_norm_silu(&x, &gamma, Some(&residual)),
        )?;
    }
    let (x, weight) = (randn((128, 128, 256))?, randn(256)?);
    let norm = GroupNorm::new(&weight, &weight, 32, 1e-6)?;
    bench.time(
        "group norm + silu + conv + residual 128x128 256->256",
        || conv(256, 256),
        |conv| conv.forward_group_norm_silu(&x, &norm, Some(&x)),
    )?;
    let x = randn((128, 128, 192))?;
    bench.time("upsampled conv 128x128 192->96", || conv(192, 96), |conv| conv.forward_upsampled(&x))?;
    let x = randn((256, 256, 96))?;
    bench.time("conv, stride 2, 256x256 96->96", || conv(96, 96), |conv| conv.forward_stride2(&x))
}
