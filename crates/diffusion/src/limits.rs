//! The bounds of a request, and the error that names the one it broke.

use crate::{ImageSize, MAX_FITTED_PIXELS, ModelCard};

/// Most pictures one request may ask for (OpenAI's bound on `n`).
pub const MAX_IMAGES: i64 = 10;
/// Most denoising steps of a request.
pub const MAX_INFERENCE_STEPS: i64 = 1000;
/// Most characters of a prompt (OpenAI's bound); the text encoder's token limit is tighter.
pub const MAX_PROMPT_CHARS: usize = 32_000;
/// The bound of both guidance scales, as in vllm-omni.
pub const MAX_GUIDANCE: f64 = 20.0;
/// The longest side of a picture whatever its area: RoPE tables hold 4096 tokens a side, from the centre.
pub(crate) const MAX_SIDE: usize = 16_384;

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

/// A field outside its bound. Reads `` `n` must be between 1 and 10. Given: 11 ``.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must {bound}. Given: {given}")]
pub struct InvalidRequest {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What the field must do or be, as a verb phrase.
    pub bound: String,
    /// What was given, shortened where it is long.
    pub given: String,
}

impl InvalidRequest {
    /// An error about `field`; a long `given` is cut.
    pub fn new(field: &'static str, bound: impl Into<String>, given: impl ToString) -> Self {
        let given = given.to_string();
        let shown = match given.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &given[..end]),
            None => given,
        };
        InvalidRequest { field, bound: bound.into(), given: shown }
    }
}

pub(crate) fn within(
    field: &'static str,
    value: i64,
    bounds: std::ops::RangeInclusive<i64>,
) -> Result<i64, InvalidRequest> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, format!("be between {} and {}", bounds.start(), bounds.end()), value))
}

pub(crate) fn scale(field: &'static str, value: f64) -> Result<f64, InvalidRequest> {
    if (0.0..=MAX_GUIDANCE).contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, format!("be between 0 and {MAX_GUIDANCE}"), value))
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
