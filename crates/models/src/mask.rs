//! Masked edits: outside the mask the picture is kept.
//!
//! After every step the latents outside the mask are reset to the picture's own latents at that noise level, so that
//! the edited part blends into its surroundings. At the end the picture's pixels are restored as well, since the VAE
//! does not reproduce them exactly. Diffusers' inpainting pipelines blend in the same way:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage_inpaint.py#L925>

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use diffusion::{ImageRequest, ImageSize, Mask, RgbImage};

use crate::fit::is_stretched;
use crate::resize::{Filter, resize, resize_grey};

/// Pixels per token along a side.
const TOKEN_SIDE: usize = 16;

/// The kept part of a picture, as latents and as pixels. A clone shares both.
#[derive(Clone)]
pub(crate) struct MaskedEdit {
    /// `[tokens, 1]` in u8: 1 for tokens that may change, 0 for tokens that are kept.
    editable: Tensor,
    /// The picture's clean packed latents, `[tokens, channels]` in f32.
    original: Tensor,
    /// The request's initial noise.
    noise: Tensor,
    pixels: Arc<KeptPixels>,
}

/// The picture, and how far each of its pixels may change, from 0 to 255.
pub(crate) struct KeptPixels {
    pub(crate) picture: RgbImage,
    pub(crate) editable: Vec<u8>,
}

impl KeptPixels {
    /// Resizes picture and mask to the size that the request asks for.
    pub(crate) fn resized(picture: &RgbImage, mask: &Mask, size: ImageSize) -> Self {
        KeptPixels {
            picture: resize(picture, size, Filter::Lanczos),
            editable: resize_grey(&mask.editable, mask.size, size, Filter::Bicubic),
        }
    }
}

impl MaskedEdit {
    /// Creates a masked edit that starts from `noise`, of a picture with the latents `original`.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn new(pixels: KeptPixels, original: Tensor, noise: Tensor, device: &Device) -> Result<Self> {
        let editable = editable_tokens(&pixels.editable, pixels.picture.size);
        let editable = Tensor::from_vec(editable, (original.dim(0)?, 1), device)?;
        Ok(MaskedEdit { editable, original, noise, pixels: Arc::new(pixels) })
    }

    /// Replaces the kept tokens of `latents` by the picture's latents at noise level `sigma`.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn blend(&self, latents: &Tensor, sigma: f32) -> Result<Tensor> {
        let kept = ((&self.original * f64::from(1.0 - sigma))? + (&self.noise * f64::from(sigma))?)?;
        // Selected rather than mixed, so that editable tokens keep their exact bits.
        self.editable.broadcast_as(latents.shape())?.where_cond(latents, &kept)
    }

    /// Replaces the kept pixels of `made` by the picture's own; both have the same size.
    pub(crate) fn composite(&self, made: RgbImage) -> RgbImage {
        let KeptPixels { picture, editable } = &*self.pixels;
        debug_assert_eq!(made.size, picture.size);
        let pairs = made.pixels.as_chunks::<3>().0.iter().zip(picture.pixels.as_chunks::<3>().0).zip(editable);
        let pixels = pairs.flat_map(|((made, kept), &editable)| {
            let share = u32::from(editable);
            let mixed = |i: usize| (u32::from(made[i]) * share + u32::from(kept[i]) * (255 - share) + 127) / 255;
            [mixed(0) as u8, mixed(1) as u8, mixed(2) as u8]
        });
        RgbImage { size: made.size, pixels: pixels.collect() }
    }
}

/// Marks the tokens in which any pixel may change. The picture lies centred in its whole tokens.
fn editable_tokens(editable: &[u8], size: ImageSize) -> Vec<u8> {
    let padded = size.padded();
    let (left, top) = ((padded.width - size.width) / 2, (padded.height - size.height) / 2);
    let (rows, columns) = size.token_grid();
    let mut tokens = vec![0; rows * columns];
    for (y, row) in editable.chunks_exact(size.width).enumerate() {
        let first = (y + top) / TOKEN_SIDE * columns;
        for (x, _) in row.iter().enumerate().filter(|(_, editable)| **editable > 0) {
            tokens[first + (x + left) / TOKEN_SIDE] = 1;
        }
    }
    tokens
}

/// Puts the kept pixels of a masked edit back.
pub(crate) fn composed(masked: Option<&MaskedEdit>, picture: RgbImage) -> RgbImage {
    match masked {
        Some(masked) => masked.composite(picture),
        None => picture,
    }
}

/// Warning for every masked edit.
const MASKED: &str = "the mask is honoured by blending: outside of it the latents follow the (first) picture at every \
    step, and its pixels are put back at the end";

/// Warning for a masked edit whose size has another aspect ratio than its picture.
const STRETCHED: &str = "the requested size has another aspect ratio than the masked picture: the kept part was \
    stretched, and may not match the edited part";

/// Warnings for a masked edit.
pub(crate) fn mask_warnings(request: &ImageRequest) -> Vec<String> {
    let stretched = is_stretched(request).then_some(STRETCHED);
    [MASKED].into_iter().chain(stretched).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize { width: 40, height: 16 };

    /// A picture of 40 x 16 pixels in 3 x 1 tokens, starting at column 4. The pixels from column `from` on may change.
    fn edit(from: usize) -> MaskedEdit {
        let editable = (0..16).flat_map(|_| (0..40).map(|x| if x >= from { 255 } else { 0 })).collect();
        let picture = RgbImage { size: SIZE, pixels: vec![9; SIZE.pixels() * 3] };
        let original = Tensor::new(&[[1_f32], [2.0], [3.0]], &Device::Cpu).unwrap();
        let noise = Tensor::new(&[[-1_f32], [-2.0], [-3.0]], &Device::Cpu).unwrap();
        MaskedEdit::new(KeptPixels { picture, editable }, original, noise, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_token_may_change_where_one_of_its_pixels_may() {
        let tokens = |from| edit(from).editable.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        assert_eq!(tokens(0), [1, 1, 1]);
        assert_eq!(tokens(11), [1, 1, 1], "the first token holds 12 columns");
        assert_eq!(tokens(12), [0, 1, 1]);
        assert_eq!(tokens(40), [0, 0, 0]);
    }

    #[test]
    fn latents_outside_are_the_pictures_at_their_noise_level() {
        let made = Tensor::new(&[[7_f32], [7.0], [7.0]], &Device::Cpu).unwrap();
        let blended = |sigma| edit(12).blend(&made, sigma).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(blended(0.0), [1.0, 7.0, 7.0]);
        assert_eq!(blended(1.0), [-1.0, 7.0, 7.0]);
        assert_eq!(blended(0.75), [-0.5, 7.0, 7.0]);
    }

    #[test]
    fn pixels_outside_are_the_pictures_own() {
        let made = RgbImage { size: SIZE, pixels: vec![200; SIZE.pixels() * 3] };
        let composed = edit(12).composite(made);
        let row: Vec<_> = composed.pixels[..40 * 3].iter().step_by(3).copied().collect();
        assert_eq!((&row[..12], &row[12..]), (&[9; 12][..], &[200; 28][..]));
    }
}
