//! What differs from one family of models to the next, and what the rest of this crate asks of it.
//!
//! A family is one folder beside this file and one line of [`crate::FAMILIES`]. Everything else, from the
//! encodings that are kept to the ragged batch, the step cache, previews and masks, is
//! [`DiffusionPipeline`](crate::DiffusionPipeline) and serves every family.

use candle_core::{Device, Tensor};
use diffusion::{ImageSize, ModelCard, PipelineError, RgbImage, Sigmas};
use kernels::check_interrupt;

use crate::Result;
use crate::cost::RequestSizes;
use crate::dit::Dit;
use crate::tiling::{Tiling, encode_tiles};

/// A family of models: how a prompt and a picture become tokens, and tokens a picture.
pub trait Family: Sync {
    /// The diffusion transformer.
    type Dit: Dit + Sync;

    /// What the model says of itself: its guidance, its defaults, which pictures it edits.
    fn card(&self) -> &ModelCard;

    /// The diffusion transformer.
    fn dit(&self) -> &Self::Dit;

    /// Where it lives.
    fn device(&self) -> &Device;

    /// The sizes that a request's state is made of.
    fn sizes(&self) -> RequestSizes;

    /// The noise levels of a picture of so many tokens.
    fn sigmas(&self, num_inference_steps: usize, image_seq_len: usize) -> Sigmas;

    /// Whether the text encoder sees the pictures to edit, beside the words.
    fn sees_images(&self) -> bool {
        false
    }

    /// What the text encoder sees of a picture.
    ///
    /// # Errors
    /// The device fails, or the text encoder sees no pictures.
    fn encode_vision(&self, _picture: &RgbImage) -> Result<VisionFeatures, PipelineError> {
        Err(PipelineError::Model("the text encoder sees no pictures. This is a bug.".into()))
    }

    /// The text stream of `prompt`, `[tokens, width]`, which speaks of `pictures` where the text encoder sees
    /// those. `field` is the prompt's name in an error.
    ///
    /// # Errors
    /// The prompt has too many tokens, or the device fails.
    fn encode_prompt(
        &self,
        field: &'static str,
        prompt: &str,
        pictures: &[VisionFeatures],
    ) -> Result<Tensor, PipelineError>;

    /// Tokens of `prompt`, the template's own not counted: what usage reports.
    ///
    /// # Errors
    /// The tokenizer's reason; none is expected.
    fn prompt_tokens(&self, prompt: &str) -> Result<usize>;

    /// Pixels `[8 rows, 8 columns, 3]` in -1..=1 and f32 to unpacked latents as [`Family::decode`] takes them, `[rows, columns,
    /// latent channels]` in f32: the mean of their distribution.
    ///
    /// # Errors
    /// The device fails, or the model edits no pictures.
    fn encode(&self, pixels: &Tensor) -> Result<Tensor>;

    /// Unpacked latents as the transformer takes them, `[tokens, channels]` in f32: the inverse of [`Family::unpack`].
    ///
    /// # Errors
    /// The device fails.
    fn pack(&self, latents: &Tensor) -> Result<Tensor>;

    /// The initial packed noise of a seed, `[image_seq_len, channels]` in f32, drawn in the order in which
    /// diffusers draws it.
    ///
    /// # Errors
    /// The device fails.
    fn noise(&self, seed: u64, size: ImageSize) -> Result<Tensor>;

    /// Packed latents as the VAE reads them, `[2 rows, 2 columns, latent channels]` in f32.
    ///
    /// # Errors
    /// The device fails.
    fn unpack(&self, tokens: &Tensor, token_grid: (usize, usize)) -> Result<Tensor>;

    /// Unpacked latents to pixels, `[16 rows, 16 columns, 3]` in f32: seen from -1 to 1, and not cut off there.
    ///
    /// # Errors
    /// The device fails.
    fn decode(&self, latents: &Tensor) -> Result<Tensor>;
}

/// A picture as the text encoder sees it.
#[derive(Clone, Debug)]
pub struct VisionFeatures {
    /// `[tokens, width]`, of the text encoder's width.
    pub features: Tensor,
    /// Rows and columns of the patches that the tokens were made of.
    pub grid: (usize, usize),
}

/// The packed latents of a picture in whole tokens, `[tokens, channels]` in f32, as the transformer takes them; encoded in
/// tiles, if there are any.
///
/// # Errors
/// The work was interrupted, and the picture is perhaps half resized; the device fails, or the model edits no pictures.
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

/// Pixels `[height, width, 3]` in -1..=1 and f32, as VAEs take a picture.
fn pixels(picture: &RgbImage, device: &Device) -> Result<Tensor> {
    let ImageSize { width, height } = picture.size;
    let numbers: Vec<f32> = picture.pixels.iter().map(|&byte| f32::from(byte) / 255.0 * 2.0 - 1.0).collect();
    Tensor::from_vec(numbers, (height, width, 3), device)
}
