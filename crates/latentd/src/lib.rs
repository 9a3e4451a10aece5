//! latentd as a library: what its commands are made of, under the names of the Cache-DiT guide.
//!
//! ```no_run
//! use latentd::{Omni, OmniDiffusionSamplingParams};
//!
//! # fn main() -> Result<(), latentd::Error> {
//! let mut omni = Omni::builder().model("Qwen/Qwen-Image").build()?;
//! let images = omni.generate(
//!     "a beautiful landscape",
//!     OmniDiffusionSamplingParams { num_inference_steps: Some(50), ..Default::default() },
//! )?;
//! images[0].save("landscape.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! A picture is edited by giving it along:
//!
//! ```no_run
//! use latentd::{Omni, OmniDiffusionSamplingParams, OmniInput, open_pictures};
//!
//! # fn main() -> Result<(), latentd::Error> {
//! let mut omni = Omni::builder().model("Qwen/Qwen-Image-Edit-2511").build()?;
//! let pictures = open_pictures(&["cat.jpg"], None)?;
//! let input = OmniInput { prompt: "make it night".into(), pictures };
//! let images = omni.generate(input, OmniDiffusionSamplingParams::default())?;
//! images[0].save("night.png")?;
//! # Ok(())
//! # }
//! ```

mod about_device;
mod cache_flags;
mod calibrated;
mod calibrating;
mod device;
mod device_name;
mod edit_positions;
mod error;
mod gmsd;
mod hub;
mod hub_cache;
mod hub_client;
mod hub_download;
mod hub_settings;
mod input;
mod json;
mod offload;
mod omni;
mod plan_store;
mod progress;
mod sampler;
mod source;
mod vae_tiling;
mod whole_file;

pub use about_device::{AboutGpu, about_gpu};
pub use cache_flags::{CacheBackend, CacheFlags};
pub use calibrated::{Calibrated, PlanSource};
pub use device::{DtypeName, QuantizationName};
pub use device_name::DeviceName;
pub use diffusion::{psnr, ssim};
pub use edit_positions::EditPositionsName;
pub use error::Error;
pub use gmsd::gmsd;
pub use hub::{InHubCache, in_hub_cache};
pub use input::{OmniInput, open_pictures};
pub use json::json_by_path;
pub use offload::OffloadName;
pub use omni::{GeneratedImage, Omni, OmniBuilder, OmniDiffusionSamplingParams, StepProgress, Timings, save_image};
pub use pictures::InputPictures;
pub use progress::LoadingBars;
pub use sampler::SamplerName;
pub use source::{ModelSource, builtin_banner};
pub use vae_tiling::VaeTilingName;
pub use whole_file::{check_writable, write_whole};
