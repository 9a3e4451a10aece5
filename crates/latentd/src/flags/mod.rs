//! Flags that several commands share, and their conversion to the library's types.

mod cache;
mod calibrated;
mod dtype;
mod edit_positions;
mod model;
mod offload;
mod quantization;
mod sampler;
mod vae_tiling;

pub use cache::{CacheBackend, CacheFlags};
pub use calibrated::Calibrated;
pub use dtype::DtypeName;
pub use edit_positions::EditPositionsName;
pub use model::{Devices, ModelFlags, OneDevice};
pub use offload::OffloadName;
pub use quantization::QuantizationName;
pub use sampler::SamplerName;
pub use vae_tiling::VaeTilingName;
