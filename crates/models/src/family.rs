//! The interface between a family of models and the rest of this crate.
//!
//! A family is one folder beside this file and one line of [`crate::FAMILIES`]. Everything else is
//! [`DiffusionPipeline`](crate::DiffusionPipeline) and serves every family: cached encodings, the ragged batch, the
//! step cache, previews and masks.

use candle_core::{Device, Tensor};
use diffusion::{ImageSize, ModelCard, PipelineError, RgbImage, Sigmas};
use kernels::check_interrupt;

use crate::Result;
use crate::cost::RequestSizes;
use crate::dit::Dit;
use crate::tiling::{Tiling, encode_tiles};

/// A family of models: how prompts and pictures become tokens, and tokens a picture.
pub trait Family: Sync {
    /// The diffusion transformer.
    type Dit: Dit + Sync;

    /// Returns the model's card: its guidance, its defaults, the pictures that it edits.
    fn card(&self) -> &ModelCard;

    /// Returns the diffusion transformer.
    fn dit(&self) -> &Self::Dit;

    /// Returns the transformer's device.
    fn device(&self) -> &Device;

    /// Returns the sizes from which a request's state is computed.
    fn sizes(&self) -> RequestSizes;

    /// Returns the noise levels for a picture of `image_seq_len` tokens.
    fn sigmas(&self, num_inference_steps: usize, image_seq_len: usize) -> Sigmas;

    /// Whether the text encoder sees the pictures to edit in addition to the prompt.
    fn sees_images(&self) -> bool {
        false
    }

    /// Encodes a picture for the text encoder.
    ///
    /// # Errors
    /// The device fails, or the text encoder sees no pictures.
    fn encode_vision(&self, _picture: &RgbImage) -> Result<VisionFeatures, PipelineError> {
        Err(PipelineError::Model("the text encoder sees no pictures. This is a bug.".into()))
    }

    /// Encodes `prompt` to the text stream, `[tokens, width]`. `pictures` are the pictures to edit, if the text encoder
    /// sees them. `field` names the prompt in an error.
    ///
    /// # Errors
    /// The prompt has too many tokens, or the device fails.
    fn encode_prompt(
        &self,
        field: &'static str,
        prompt: &str,
        pictures: &[VisionFeatures],
    ) -> Result<Tensor, PipelineError>;

    /// Counts the tokens of `prompt` without the template, for the usage report.
    ///
    /// # Errors
    /// The tokenizer fails, which is not expected.
    fn prompt_tokens(&self, prompt: &str) -> Result<usize>;

    /// Encodes pixels `[8 rows, 8 columns, 3]` in -1..=1 and f32 to unpacked latents `[rows, columns, latent channels]`
    /// in f32, the mean of their distribution. [`Family::decode`] takes the same form.
    ///
    /// # Errors
    /// The device fails, or the model edits no pictures.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Packs latents as the transformer takes them, `[tokens, channels]` in f32. The inverse of [`Family::unpack`].
    ///
    /// # Errors
    /// The device fails.
    fn pack(&self, latents: &Tensor) -> Result<Tensor>;

    /// Draws the initial packed noise of a seed, `[image_seq_len, channels]` in f32, in the same order as diffusers.
    ///
    /// # Errors
    /// The device fails.
    fn noise(&self, seed: u64, size: ImageSize) -> Result<Tensor>;

    /// Unpacks latents as the VAE reads them, `[2 rows, 2 columns, latent channels]` in f32.
    ///
    /// # Errors
    /// The device fails.
    fn unpack(&self, tokens: &Tensor, token_grid: (usize, usize)) -> Result<Tensor>;

    /// Decodes unpacked latents to pixels, `[16 rows, 16 columns, 3]` in f32, nominally in -1..=1 but not clamped.
    ///
    /// # Errors
    /// The device fails.
    fn decode(&self, latents: &Tensor) -> Result<Tensor>;
}

/// A picture, encoded for the text encoder.
#[derive(Clone, Debug)]
pub struct VisionFeatures {
    /// `[tokens, width]`, where `width` is the text encoder's.
    pub features: Tensor,
    /// Rows and columns of the patches from which the tokens were made.
    pub grid: (usize, usize),
}

/// Encodes a picture of whole tokens to packed latents, `[tokens, channels]` in f32, as the transformer takes them.
/// Encodes in tiles if `tiling` is set.
///
/// # Errors
/// The work was interrupted, so that the picture may be half resized; the device fails, or the model edits no pictures.
pub(crate) fn encode_picture<F: Family>(family: &F, picture: &RgbImage, tiling: Option<Tiling>) -> Result<Tensor> {
    check_interrupt()?;
    let device = family.device();
    let latents = match tiling {
        Some(tiling) => {
            encode_tiles(&pixels(picture, &Device::Cpu)?, tiling, |tile| family.encode(&tile.to_device(device)?))?
                .to_device(device)?
        }
        None => family.encode(&pixels(picture, device)?)?,
    };
    family.pack(&latents)
}

/// Converts a picture to pixels `[height, width, 3]` in -1..=1 and f32, the form that VAEs take.
fn pixels(picture: &RgbImage, device: &Device) -> Result<Tensor> {
    let ImageSize { width, height } = picture.size;
    let numbers: Vec<f32> = picture.pixels.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0).collect();
    Tensor::from_vec(numbers, (height, width, 3), device)
}
