//! The vocabulary of a diffusion request: the request itself ([`RequestDraft`] → [`ImageRequest`]), its noise levels
//! ([`Sigmas`]) and sampler ([`Sampler`]), the passes of a step ([`CfgBranch`]), and the contract through which a
//! scheduler drives a model ([`Pipeline`]).
//!
//! The crate has no tensor, channel, clock, file or JSON, so that the scheduler and the models can build on it without
//! knowing each other. A request can be sent to another machine: it serializes, with its pictures as bytes of known
//! shape.

mod cost;
mod edit_size;
mod effect;
mod fit;
mod guidance;
mod held;
mod image;
mod input_image;
mod input_image_bounds;
mod interrupt;
mod invalid_request;
mod knowledge;
mod known_steps;
mod likeness;
mod limits;
mod memory;
mod model_card;
pub mod multistep;
mod pipeline;
mod preview;
mod quality;
mod raster;
mod request;
mod sampler;
mod sampling_params;
mod shared;
mod sigma_spacing;
mod sigmas;
mod size;
#[cfg(feature = "test-util")]
pub mod testing;
#[cfg(test)]
mod travel_tests;

pub use cost::{Estimator, RequestCost, TOKEN_WORK, Work, expected_tokens};
pub use edit_size::{EditSize, ShapeOf, capped, dimensions};
pub use effect::WithoutEffect;
pub use fit::{Fit, MAX_FITTED_PIXELS};
pub use guidance::{CfgBranch, Guidance, GuidanceKind};
pub use held::Held;
pub use image::RgbImage;
pub use input_image::{InputImage, Mask};
pub use input_image_bounds::InputImageBounds;
pub use interrupt::Interrupt;
pub use invalid_request::{InvalidRequest, MAX_GUIDANCE};
pub use knowledge::{KnownPrompt, known_prompt};
pub use known_steps::KnownSteps;
pub use likeness::{latent_error, mean_square, psnr, ssim};
pub use limits::{Limits, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
pub use memory::RequestMemory;
pub use model_card::{ModelCard, most_pixels};
pub use pipeline::{BlockRun, EncodingsUse, Lookups, Pipeline, PipelineError, StepReport};
pub use preview::{PreviewMethod, PreviewTimes, Previews};
pub use quality::Quality;
pub use request::{ImageRequest, RequestDraft};
pub use sampler::Sampler;
pub use sampling_params::SamplingParams;
pub use sigma_spacing::SigmaSpacing;
pub use sigmas::{FlowMatchConfig, Sigmas, TimeShift, empirical_mu};
pub use size::{ImageSize, InvalidSize};
