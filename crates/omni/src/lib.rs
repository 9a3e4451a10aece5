//! Generation without a server: a model in this process, under the names of the Cache-DiT guide.
//!
//! It has no flags, no terminal output, and no HTTP except the Hub's. The caller follows loading through a
//! [`LoadObserver`].
//!
//! ```no_run
//! use omni::{Omni, OmniDiffusionSamplingParams};
//!
//! # fn main() -> Result<(), omni::Error> {
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
//! To edit a picture, pass it with the prompt:
//!
//! ```no_run
//! use omni::{Omni, OmniDiffusionSamplingParams, OmniInput, open_pictures};
//!
//! # fn main() -> Result<(), omni::Error> {
//! let mut omni = Omni::builder().model("Qwen/Qwen-Image-Edit-2511").build()?;
//! let pictures = open_pictures(&["cat.jpg"], None)?;
//! let input = OmniInput { prompt: "make it night".into(), pictures };
//! let images = omni.generate(input, OmniDiffusionSamplingParams::default())?;
//! images[0].save("night.png")?;
//! # Ok(())
//! # }
//! ```

mod about_device;
mod builder;
mod calibrating;
mod device;
mod device_name;
mod dtype;
mod error;
mod generated;
mod hub;
mod input;
mod json;
mod observer;
mod offload;
mod omni;
mod plan_source;
mod plan_store;
mod quantization;
mod sampling_params;
mod source;
mod tiling;
mod whole_file;

pub use about_device::{AboutGpu, about_gpu};
pub use builder::OmniBuilder;
pub use device_name::DeviceName;
pub use diffusion::{psnr, ssim};
pub use dtype::Dtype;
pub use error::{Error, Unsupported, too_small};
pub use generated::{GeneratedImage, Timings, save_image};
pub use hub::{InHubCache, in_hub_cache};
pub use input::{OmniInput, open_pictures};
pub use json::json_by_path;
pub use observer::LoadObserver;
pub use offload::OffloadPolicy;
pub use omni::{Omni, StepProgress};
pub use pictures::InputPictures;
pub use plan_source::{PlanSource, read_calibration};
pub use quantization::check_quantization;
pub use sampling_params::OmniDiffusionSamplingParams;
pub use source::ModelSource;
pub use tiling::TilingPolicy;
pub use whole_file::{check_writable, write_whole};
