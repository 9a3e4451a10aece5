//! Fused tensor operations of the denoising step, each beside its plain-candle reference.
//!
//! The transformer runs on a *ragged* batch: the tokens of all rows (request, guidance
//! branch) lie one after another in a `[sum(tokens), dim]` matrix, and a [`RowLayout`] says
//! where each row begins. A [`Linear`] sees one tall matrix, modulation picks the vector of
//! its row, attention stays inside its row.
//!
//! Every operation has a reference made of candle operations, right for any device and float
//! type: it is what the tests compare with and what runs where there is nothing faster.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, unreachable_code, reason = "nobody there calls the kernels that this is for")
)]

mod activation;
mod attention;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_avx2.rs")]
mod avx2;
mod causal;
mod conv;
mod dispatch;
mod group_norm;
mod interrupt;
mod linear;
mod norm;
mod rope;
mod rows;
mod self_attention;
mod step;
#[cfg(test)]
mod testing;
mod threads;

pub use activation::swiglu;
pub use attention::{AttentionStream, JointAttention, attention};
pub use causal::{CausalAttention, HeadNorms};
pub use conv::Conv3x3;
pub use dispatch::with_reference;
pub use group_norm::GroupNorm;
pub use interrupt::{Watch, check_interrupt, interruptible};
pub use linear::Linear;
pub use norm::{channel_norm, modulated_layer_norm, rms_norm};
pub use rope::RopeTable;
pub use rows::RowLayout;
pub use self_attention::SelfAttention;
pub use step::{add_weighted, residual_diffs};
pub use threads::{in_pool, threads_from_env};
