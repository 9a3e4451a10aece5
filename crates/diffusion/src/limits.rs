//! Bounds on requests.

use crate::size::MAX_SIDE;
use crate::{ImageSize, InvalidRequest, MAX_FITTED_PIXELS, ModelCard};

/// Maximum number of pictures per request (OpenAI's bound on `n`).
pub const MAX_IMAGES: i64 = 10;
/// Maximum number of denoising steps per request.
pub const MAX_INFERENCE_STEPS: i64 = 1000;
/// Maximum number of characters of a prompt (OpenAI's bound); the text encoder's token limit is tighter.
pub const MAX_PROMPT_CHARS: usize = 32_000;

/// The bounds that the operator sets; the default is the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum pixels of one picture (`--max-generated-image-size`), in place of
    /// [`ModelCard::max_pixels`](crate::ModelCard::max_pixels).
    pub max_pixels: Option<usize>,
}

impl Limits {
    /// No pixel limit, up to the longest side. For a process that serves a single user.
    pub const NONE: Limits = Limits { max_pixels: Some(usize::MAX) };

    /// Maximum pixels of one text-to-image picture.
    pub fn max_pixels(&self, card: &ModelCard) -> usize {
        self.bound(card, &card.native_sizes).pixels
    }

    /// Maximum pixels of one picture. With `native_sizes`, the picture is generated at one of them and enlarged;
    /// without, it is generated at the requested size. The operator's limit replaces the model's, but no picture is
    /// enlarged beyond [`MAX_FITTED_PIXELS`].
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

    /// The same limits with the model's default filled in.
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
