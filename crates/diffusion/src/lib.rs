//! The vocabulary of a diffusion request: what is asked for ([`RequestDraft`] →
//! [`ImageRequest`]), the noise levels it is denoised along ([`Sigmas`]), which
//! passes a step makes ([`CfgBranch`]), and the contract through which a scheduler
//! drives a model ([`Pipeline`]).
//!
//! Numbers and strings only: no tensor, channel, clock, file or JSON, so that both
//! the scheduler and the models can build on it without knowing each other.

mod cost;
mod extensions;
mod guidance;
mod image;
mod limits;
mod model_card;
mod pipeline;
mod preview;
mod quality;
mod request;
mod sigmas;
mod size;

pub use cost::{Estimator, RequestCost};
pub use extensions::Extensions;
pub use guidance::CfgBranch;
pub use image::RgbImage;
pub use limits::{InvalidRequest, Limits, MAX_GUIDANCE, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
pub use model_card::ModelCard;
pub use pipeline::{BlockRun, Pipeline, PipelineError, PromptCacheUse, StepReport};
pub use preview::{PreviewMethod, PreviewTimes, Previews};
pub use quality::Quality;
pub use request::{ImageRequest, RequestDraft, SamplingParams};
pub use sigmas::{FlowMatchConfig, Sigmas, TimeShift};
pub use size::ImageSize;
