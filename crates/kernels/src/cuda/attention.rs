//! Attention by the kernels of `cuda/attention_*.cu`. Before them `qkv.rs` normalises and rotates the heads.

use std::sync::OnceLock;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::argument::{Address, argument};
use super::gpu::{Gpu, Kernel, gpu, grid, is_served};
use super::qkv::{self, Turned};
use crate::RowLayout;
use crate::operands::{CausalAttention, JointAttention, SelfAttention};

/// The environment variable that names the attention to use.
const VARIABLE: &str = "LATENTD_CUDA_ATTENTION";

/// An implementation of attention.
pub(super) struct Method {
    name: &'static str,
    /// Whether it supports a type and a number of features per head.
    takes: fn(DType, usize) -> bool,
    run: fn(&Gpu, &Problem<'_>) -> Result<()>,
}

impl Method {
    #[cfg(test)]
    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// All methods, from the simplest to the fastest. A new method is one line here.
pub(super) static METHODS: [Method; 2] = [
    Method { name: "tiled", takes: |dtype, head_dim| is_served(dtype) && is_tiled(head_dim), run: run_tiled },
    Method { name: "mma", takes: |dtype, head_dim| dtype == DType::BF16 && is_tiled(head_dim), run: run_mma },
];

/// Whether the kernels are compiled for heads of this many features.
fn is_tiled(head_dim: usize) -> bool {
    matches!(head_dim, 16 | 32 | 64 | 128)
}

/// The name of candle's operations.
const REFERENCE: &str = "reference";

/// The current methods.
fn methods() -> &'static [Method] {
    chosen().as_ref().copied().unwrap_or(&METHODS)
}

/// The choice of the environment variable, read once.
fn chosen() -> &'static std::result::Result<&'static [Method], String> {
    static CHOSEN: OnceLock<std::result::Result<&'static [Method], String>> = OnceLock::new();
    CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() => named(&name).map_err(|err| format!("{VARIABLE} {err}")),
        _ => Ok(&METHODS),
    })
}

fn named(name: &str) -> std::result::Result<&'static [Method], String> {
    match (name, METHODS.iter().find(|method| method.name == name)) {
        ("auto", _) => Ok(&METHODS),
        (REFERENCE, _) => Ok(&[]),
        (_, Some(method)) => Ok(std::slice::from_ref(method)),
        (_, None) => {
            let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
            Err(format!("must be auto, {REFERENCE} or one of {}. Given: {name}", names.join(", ")))
        }
    }
}

/// The attention of CUDA devices in this process. The environment variable `LATENTD_CUDA_ATTENTION` can name it
/// (`reference`, `tiled`, `mma`). Otherwise it is the fastest for bf16 in heads of 128 features. Candle's operations
/// compute what the method does not support.
///
/// # Errors
/// `LATENTD_CUDA_ATTENTION` names no method. The fastest is used then.
pub fn cuda_attention() -> std::result::Result<&'static str, String> {
    let methods = chosen().clone()?;
    Ok(method_for(methods, DType::BF16, 128).map_or(REFERENCE, |method| method.name))
}

/// Attention of every row over its own tokens. The text of a row precedes its image.
pub(super) struct Problem<'t> {
    /// `[tokens, num_heads * head_dim]`. Like `k` and `v`, it may be a view of wider rows.
    pub(super) q: Tensor,
    /// `[tokens, num_kv_heads * head_dim]`
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    /// Rows of text and image. Without them all tokens are the image of one row.
    pub(super) rows: Option<[&'t RowLayout; 2]>,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    /// The number of tokens of a row that are keys. Padding follows them.
    pub(super) valid: Option<usize>,
    /// Whether a query sees no key after its own position.
    pub(super) causal: bool,
    /// Outputs: the attended values of the text's tokens and of the image's.
    pub(super) out: [Tensor; 2],
}

/// The last of `methods` that supports a type and a number of features per head.
fn method_for(methods: &[Method], dtype: DType, head_dim: usize) -> Option<&Method> {
    methods.iter().rfind(|method| (method.takes)(dtype, head_dim))
}

pub(super) fn joint_attention(inputs: &JointAttention<'_>) -> Result<Option<(Tensor, Tensor)>> {
    joint_attention_by(methods(), inputs)
}

pub(super) fn joint_attention_by(methods: &[Method], inputs: &JointAttention<'_>) -> Result<Option<(Tensor, Tensor)>> {
    let (dtype, dim, num_heads) = (inputs.image.qkv.dtype(), inputs.image.qkv.dim(1)? / 3, inputs.num_heads);
    let head_dim = dim / num_heads;
    let Some(method) = method_for(methods, dtype, head_dim) else { return Ok(None) };
    if inputs.text.qkv.dtype() != dtype {
        return Ok(None);
    }
    let gpu = gpu(inputs.image.qkv)?;
    let (text, image) = (inputs.text.rows, inputs.image.rows);
    let out = [gpu.output((text.total(), dim), dtype)?, gpu.output((image.total(), dim), dtype)?];
    let num_kv_heads = num_heads;
    if text.total() + image.total() > 0 {
        let [q, k, v] = qkv::joint(&gpu, inputs)?;
        let (rows, out) = (Some([text, image]), out.clone());
        (method.run)(
            &gpu,
            &Problem { q, k, v, rows, num_heads, num_kv_heads, head_dim, valid: None, causal: false, out },
        )?;
    }
    let [text, image] = out;
    Ok(Some((text, image)))
}

pub(super) fn self_attention(inputs: &SelfAttention<'_>) -> Result<Option<Tensor>> {
    let heads = (inputs.num_heads, inputs.num_heads);
    let turned = Turned { qkv: inputs.qkv, norms: None, cos: inputs.cos, sin: inputs.sin, heads };
    let none = RowLayout::new(&vec![0; inputs.rows.num_rows()]);
    turned_attention(methods(), &turned, Some([&none, inputs.rows]), None)
}

pub(super) fn causal_attention(inputs: &CausalAttention<'_>) -> Result<Option<Tensor>> {
    causal_attention_by(methods(), inputs)
}

pub(super) fn causal_attention_by(methods: &[Method], inputs: &CausalAttention<'_>) -> Result<Option<Tensor>> {
    let CausalAttention { qkv, norms, cos, sin, num_heads, num_kv_heads, valid } = *inputs;
    turned_attention(methods, &Turned { qkv, norms, cos, sin, heads: (num_heads, num_kv_heads) }, None, Some(valid))
}

/// Attention with half-split RoPE: causal if `valid` is given, full otherwise.
fn turned_attention(
    methods: &[Method],
    turned: &Turned<'_>,
    rows: Option<[&RowLayout; 2]>,
    valid: Option<usize>,
) -> Result<Option<Tensor>> {
    let (dtype, (tokens, width), (num_heads, num_kv_heads)) = (turned.qkv.dtype(), turned.qkv.dims2()?, turned.heads);
    let head_dim = width / (num_heads + 2 * num_kv_heads);
    let Some(method) = method_for(methods, dtype, head_dim) else { return Ok(None) };
    let gpu = gpu(turned.qkv)?;
    let out = gpu.output((tokens, num_heads * head_dim), dtype)?;
    if tokens > 0 {
        let [q, k, v] = qkv::turned(&gpu, turned)?;
        let (causal, outs) = (valid.is_some(), [out.clone(), out.clone()]);
        (method.run)(&gpu, &Problem { q, k, v, rows, num_heads, num_kv_heads, head_dim, valid, causal, out: outs })?;
    }
    Ok(Some(out))
}

/// `Attention` of `attention.cuh`, with the same layout.
#[repr(C)]
struct Operands<'t> {
    q: Address<'t>,
    k: Address<'t>,
    v: Address<'t>,
    text_out: Address<'t>,
    image_out: Address<'t>,
    text_offsets: Address<'t>,
    image_offsets: Address<'t>,
    strides: [i32; 3],
    num_heads: i32,
    heads_a_key: i32,
    tokens: i32,
    valid: i32,
    causal: i32,
    scale: f32,
}

// SAFETY: addresses and numbers in the layout of the kernel.
unsafe impl DeviceRepr for Operands<'_> {}

argument!(Operands<'_>);

/// Queries per block, in both kernels.
const BLOCK_Q: usize = 64;

/// Launches `attention_tiled.cu` with f32 queries, keys, values and weights in shared memory. Rows are padded by one
/// number so that the elements of a column lie in different banks.
fn run_tiled(gpu: &Gpu, problem: &Problem<'_>) -> Result<()> {
    let (head_dim, keys) = (problem.head_dim, 32);
    let floats = (BLOCK_Q + keys) * (head_dim + 1) + keys * head_dim + BLOCK_Q * (keys + 1);
    let name = match head_dim {
        16 => "attention_tiled_16",
        32 => "attention_tiled_32",
        64 => "attention_tiled_64",
        _ => "attention_tiled_128",
    };
    launch(gpu, problem, Kernel { module: "attention_tiled", name }, 256, floats * size_of::<f32>())
}

/// Launches `attention_mma.cu` with two tiles of 64 keys and their values in shared memory.
fn run_mma(gpu: &Gpu, problem: &Problem<'_>) -> Result<()> {
    let name = match problem.head_dim {
        16 => "attention_mma_16",
        32 => "attention_mma_32",
        64 => "attention_mma_64",
        _ => "attention_mma_128",
    };
    let bytes = 2 * 2 * 64 * problem.head_dim * DType::BF16.size_in_bytes();
    launch(gpu, problem, Kernel { module: "attention_mma", name }, 128, bytes)
}

fn launch(gpu: &Gpu, problem: &Problem<'_>, kernel: Kernel, threads: usize, shared_bytes: usize) -> Result<()> {
    let Problem { q, k, v, rows, out: [text_out, image_out], .. } = problem;
    let tokens = q.dim(0)?;
    let (num_rows, longest) = match rows {
        Some([text, image]) => {
            let lengths = text.iter().zip(image.iter()).map(|(text, image)| text.len() + image.len());
            (image.num_rows(), lengths.max().unwrap_or(0))
        }
        None => (1, tokens),
    };
    let text_offsets = rows.map_or(Ok(None), |[text, _]| text.offsets_if_any(q.device()))?;
    let image_offsets = rows.map(|[_, image]| image.offsets_on(q.device())).transpose()?;
    let stride = |tensor: &Tensor| tensor.stride()[0] as i32;
    let operands = Operands {
        q: Address::of(q)?,
        k: Address::of(k)?,
        v: Address::of(v)?,
        text_out: Address::of(text_out)?,
        image_out: Address::of(image_out)?,
        text_offsets: Address::or_null(text_offsets.as_ref())?,
        image_offsets: Address::or_null(image_offsets.as_ref())?,
        strides: [stride(q), stride(k), stride(v)],
        num_heads: problem.num_heads as i32,
        heads_a_key: (problem.num_heads / problem.num_kv_heads) as i32,
        tokens: tokens as i32,
        valid: problem.valid.map_or(i32::MAX, |valid| valid as i32),
        causal: i32::from(problem.causal),
        scale: std::f32::consts::LOG2_E / (problem.head_dim as f32).sqrt(),
    };
    let blocks = (longest.div_ceil(BLOCK_Q), problem.num_heads, num_rows);
    gpu.launch(kernel, q.dtype(), grid(blocks, (threads, 1), shared_bytes), &[&operands])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_chosen_by_its_name() {
        let names = |name: &str| named(name).map(|methods| methods.iter().map(|m| m.name).collect::<Vec<_>>());
        assert_eq!(names("auto").unwrap(), ["tiled", "mma"]);
        assert_eq!(names("tiled").unwrap(), ["tiled"]);
        assert!(names(REFERENCE).unwrap().is_empty());
        let expected = "must be auto, reference or one of tiled, mma. Given: flash";
        assert_eq!(names("flash").unwrap_err(), expected);
    }
}
