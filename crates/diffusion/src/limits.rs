//! The bounds of a request.

use crate::size::MAX_SIDE;
use crate::{ImageSize, InvalidRequest, MAX_FITTED_PIXELS, ModelCard};

/// Most pictures one request may ask for (OpenAI's bound on `n`).
pub const MAX_IMAGES: i64 = 10;
/// Most denoising steps of a request.
pub const MAX_INFERENCE_STEPS: i64 = 1000;
/// Most characters of a prompt (OpenAI's bound); the text encoder's token limit is tighter.
pub const MAX_PROMPT_CHARS: usize = 32_000;

/// The bounds that the operator sets; the default is the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels of one picture (`--max-generated-image-size`), in place of
    /// [`ModelCard::max_pixels`](crate::ModelCard::max_pixels).
    pub max_pixels: Option<usize>,
}

impl Limits {
    /// As large as is asked, up to the longest side: for whoever waits for nobody's pictures but their own.
    pub const NONE: Limits = Limits { max_pixels: Some(usize::MAX) };

    /// Most pixels of one picture of words.
    pub fn max_pixels(&self, card: &ModelCard) -> usize {
        self.bound(card, &card.native_sizes).pixels
    }

    /// Most pixels of one picture that is made at one of `native_sizes` and enlarged, or that is made as it is asked for
    /// where there are none: the operator's word before the model's, but nothing is enlarged for ever.
    pub(crate) fn bound(&self, card: &ModelCard, native_sizes: &[ImageSize]) -> MaxPixels {
        match (native_sizes, self.max_pixels) {
            ([_, ..], most) if most.is_none_or(|most| most >= MAX_FITTED_PIXELS) => {
                MaxPixels { pixels: MAX_FITTED_PIXELS, whose: "as far as the model's pictures are enlarged" }
            }
            (_, Some(pixels)) => MaxPixels { pixels, whose: "the server's --max-generated-image-size" },
            (_, None) => {
                let whose = "the model's limit; --max-generated-image-size sets another";
                MaxPixels { pixels: card.max_pixels, whose }
            }
        }
    }

    /// The same limits, said in full.
    pub fn of(self, card: &ModelCard) -> Limits {
        Limits { max_pixels: Some(self.max_pixels(card)) }
    }
}

/// A bound on a picture's pixels, and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxPixels {
    pub(crate) pixels: usize,
    whose: &'static str,
}

pub(crate) fn size(size: ImageSize, most: MaxPixels) -> Result<ImageSize, InvalidRequest> {
    if size.width.max(size.height) > MAX_SIDE {
        return Err(InvalidRequest::new("size", format!("have sides of at most {MAX_SIDE} pixels"), size));
    }
    if size.pixels() > most.pixels {
        let bound = format!("have at most {} pixels ({})", most.pixels, most.whose);
        return Err(InvalidRequest::new("size", bound, size));
    }
    Ok(size)
}
