//! Queries, keys and values in the layout of the attention kernels: `cuda/qkv.cu`.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::argument::{Address, argument};
use super::gpu::{Gpu, Kernel, grid};
use super::layout::dense;
use crate::operands::{AttentionStream, HeadNorms, JointAttention};

const BLOCK: usize = 256;
const TURNED_QK: Kernel = Kernel { module: "qkv", name: "turned_qk" };
const JOINT_QKV: Kernel = Kernel { module: "qkv", name: "joint_qkv" };

/// As in `qkv.cu`.
const MAX_ROWS: usize = 64;

#[repr(C)]
struct Tables<'t> {
    cos: [Address<'t>; MAX_ROWS],
    sin: [Address<'t>; MAX_ROWS],
}

#[repr(C)]
struct Stream<'t> {
    qkv: Address<'t>,
    norm_q: Address<'t>,
    norm_k: Address<'t>,
    offsets: Address<'t>,
}

// SAFETY: addresses in the layout of the kernel.
unsafe impl DeviceRepr for Tables<'_> {}
// SAFETY: as above.
unsafe impl DeviceRepr for Stream<'_> {}

argument!(Tables<'_>, Stream<'_>);

/// The tensors of a stream in the layout of the kernel.
struct StreamTensors {
    qkv: Tensor,
    norm_q: Tensor,
    norm_k: Tensor,
    offsets: Option<Tensor>,
}

impl StreamTensors {
    fn of(stream: &AttentionStream<'_>) -> Result<Self> {
        let dtype = stream.qkv.dtype();
        let norm = |weight: &Tensor| dense(&weight.to_dtype(dtype)?);
        Ok(StreamTensors {
            qkv: dense(stream.qkv)?,
            norm_q: norm(stream.norm_q)?,
            norm_k: norm(stream.norm_k)?,
            offsets: stream.rows.offsets_if_any(stream.qkv.device())?,
        })
    }

    fn addresses(&self) -> Result<Stream<'_>> {
        Ok(Stream {
            qkv: Address::of(&self.qkv)?,
            norm_q: Address::of(&self.norm_q)?,
            norm_k: Address::of(&self.norm_k)?,
            offsets: Address::or_null(self.offsets.as_ref())?,
        })
    }
}

/// Queries, keys and values of each row's text, then of its image, `[tokens, dim]` each. Without text the values stay
/// in place.
pub(super) fn joint(gpu: &Gpu, inputs: &JointAttention<'_>) -> Result<[Tensor; 3]> {
    let (text, image, dim) = (inputs.text.rows, inputs.image.rows, inputs.image.qkv.dim(1)? / 3);
    let (tokens, parts) = (text.total() + image.total(), if text.total() == 0 { 2 } else { 3 });
    let out = gpu.output((parts, tokens, dim), inputs.image.qkv.dtype())?;
    let streams = (StreamTensors::of(&inputs.text)?, StreamTensors::of(&inputs.image)?);
    for first in (0..image.num_rows()).step_by(MAX_ROWS) {
        let end = image.num_rows().min(first + MAX_ROWS);
        let in_rows: usize = (first..end).map(|row| text.length(row) + image.length(row)).sum();
        if in_rows == 0 {
            continue;
        }
        let mut tables = Tables { cos: [Address::NULL; MAX_ROWS], sin: [Address::NULL; MAX_ROWS] };
        for (i, table) in inputs.rope[first..end].iter().enumerate() {
            (tables.cos[i], tables.sin[i]) = (Address::of(table.cos())?, Address::of(table.sin())?);
        }
        gpu.launch(
            JOINT_QKV,
            out.dtype(),
            grid((in_rows, 1, 1), (BLOCK, 1), 0),
            &[
                &streams.0.addresses()?,
                &streams.1.addresses()?,
                &tables,
                &(first as i32),
                &(end as i32),
                &Address::of(&out)?,
                &(tokens as i64),
                &(parts as i32),
                &(inputs.num_heads as i32),
                &((dim / inputs.num_heads) as i32),
                &(inputs.eps as f32),
            ],
        )?;
    }
    let v = if parts == 3 { out.get(2)? } else { streams.1.qkv.narrow(1, 2 * dim, dim)? };
    Ok([out.get(0)?, out.get(1)?, v])
}

/// Heads that half-split RoPE rotates.
pub(super) struct Turned<'t> {
    /// `[tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values side by side.
    pub(super) qkv: &'t Tensor,
    pub(super) norms: Option<HeadNorms<'t>>,
    /// `[tokens, head_dim / 2]`, like `sin`.
    pub(super) cos: &'t Tensor,
    pub(super) sin: &'t Tensor,
    /// The numbers of query heads, and of key and value heads.
    pub(super) heads: (usize, usize),
}

/// Returns views of rotated queries and keys, and of the values, which stay in place.
pub(super) fn turned(gpu: &Gpu, inputs: &Turned<'_>) -> Result<[Tensor; 3]> {
    let (qkv, (num_heads, num_kv_heads)) = (dense(inputs.qkv)?, inputs.heads);
    let (tokens, width) = qkv.dims2()?;
    let head_dim = width / (num_heads + 2 * num_kv_heads);
    let (of_queries, of_keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let out = gpu.output((tokens, of_queries + of_keys), qkv.dtype())?;
    let norm = |weight: &Tensor| dense(&weight.to_dtype(qkv.dtype())?);
    let norms = inputs.norms.map(|norms| Ok::<_, candle_core::Error>((norm(norms.q)?, norm(norms.k)?))).transpose()?;
    let (norm_q, norm_k) = norms.as_ref().map_or((None, None), |(q, k)| (Some(q), Some(k)));
    let wide = |table: &Tensor| dense(&table.to_dtype(DType::F32)?);
    let (cos, sin) = (wide(inputs.cos)?, wide(inputs.sin)?);
    gpu.launch(
        TURNED_QK,
        qkv.dtype(),
        grid((tokens, 1, 1), (BLOCK, 1), 0),
        &[
            &Address::of(&qkv)?,
            &Address::or_null(norm_q)?,
            &Address::or_null(norm_k)?,
            &Address::of(&cos)?,
            &Address::of(&sin)?,
            &Address::of(&out)?,
            &(num_heads as i32),
            &(num_kv_heads as i32),
            &(head_dim as i32),
            &(inputs.norms.map_or(0.0, |norms| norms.eps) as f32),
        ],
    )?;
    Ok([
        out.narrow(1, 0, of_queries)?,
        out.narrow(1, of_queries, of_keys)?,
        qkv.narrow(1, of_queries + of_keys, of_keys)?,
    ])
}
