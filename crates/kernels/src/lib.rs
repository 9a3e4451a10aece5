//! Fused tensor operations of the denoising step, each with a plain candle reference.
//!
//! The transformer runs on a *ragged* batch: the tokens of all rows (request, guidance branch) lie one after another in
//! a `[sum(tokens), dim]` matrix. A [`RowLayout`] records where each row begins. A [`Linear`] multiplies one tall
//! matrix, modulation picks the vector of each row, and attention stays inside a row.
//!
//! Every operation has a reference made of candle operations, correct for any device and float type. The tests compare
//! with it, and it runs where nothing faster exists. Faster implementations belong to a *backend* (`backend.rs`). The
//! CPU's kernels are in `cpu`, one source for all vector instruction sets (`cpu/sets.rs`). Those of CUDA devices are in
//! `cuda`, behind the feature `cuda`.

mod activation;
mod allocator;
mod attention;
mod backend;
mod causal;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod devices;
mod e4m3;
mod fp8;
mod group_norm;
mod guidance;
mod interrupt;
mod layers;
mod linear;
mod linear_stack;
mod norm;
mod operands;
mod parameters;
#[cfg(any(test, feature = "cuda"))]
mod ring;
mod rope;
mod rows;
mod self_attention;
mod step;
#[cfg(test)]
mod testing;
mod threads;

pub use activation::swiglu;
pub use allocator::return_memory;
pub use attention::attention;
pub use conv::Conv3x3;
pub use cpu::sets::{instruction_set, instruction_sets, multiplies_bf16, with_instruction_set, with_reference};
#[cfg(feature = "cuda")]
pub use cuda::cuda_attention;
pub use devices::{free_memory, is_lost};
pub use guidance::guided;
pub use interrupt::{Watch, check_interrupt, interruptible};
pub use layers::Layers;
pub use linear::Linear;
pub use linear_stack::{ForwardInTurn, LinearStack};
pub use norm::{channel_norm, modulated_layer_norm, rms_norm};
pub use operands::{
    AttentionStream, CausalAttention, GroupNorm, Guided, HeadNorms, JointAttention, Products, SelfAttention,
    WeightedTensors,
};
pub use parameters::Parameters;
pub use rope::RopeTable;
pub use rows::RowLayout;
pub use step::{add_weighted, cat_rows, inner_products, residual_diffs, weighted_sums};
pub use threads::{in_pool, threads_from_env};
