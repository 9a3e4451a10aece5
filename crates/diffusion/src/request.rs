//! From what was asked to what will be done, once.

use crate::limits::{self, InvalidRequest, Limits, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
use crate::{Extensions, ImageSize, ModelCard, Previews, Quality};

/// What someone asked for, over HTTP or at the command line: every field may be missing.
#[derive(Clone, Debug, Default)]
pub struct RequestDraft {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show; guidance runs only with one (`" "` counts).
    pub negative_prompt: Option<String>,
    /// The picture's size; without one, the model's default in the shape of `input_size`.
    pub size: Option<ImageSize>,
    /// The size of the first of the pictures to edit.
    pub input_size: Option<ImageSize>,
    /// Pictures to make, with seeds `seed`, `seed + 1`, …
    pub n: Option<i64>,
    /// Denoising steps; without them, as many as the model takes for `quality`.
    pub num_inference_steps: Option<i64>,
    /// How much work the picture is worth.
    pub quality: Quality,
    /// The distilled guidance input of models that have one.
    pub guidance_scale: Option<f64>,
    /// The weight of true classifier-free guidance; it runs above 1.
    pub true_cfg_scale: Option<f64>,
    /// The noise's seed; `None` and -1 draw one.
    pub seed: Option<i64>,
    /// Pictures on the way.
    pub previews: Option<Previews>,
    /// Settings of parts that this crate does not know.
    pub extensions: Extensions,
}

/// One picture to make. Every field is usable as it stands.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// What the picture should show: not empty.
    pub prompt: String,
    /// What it should not show.
    pub negative_prompt: Option<String>,
    /// Numbers of the sampling loop.
    pub params: SamplingParams,
    /// Pictures on the way.
    pub previews: Option<Previews>,
    /// Settings of parts that this crate does not know.
    pub extensions: Extensions,
}

/// The numbers of the sampling loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// The picture's size, any number of pixels within the limits.
    pub size: ImageSize,
    /// Denoising steps, 1..=1000.
    pub num_inference_steps: usize,
    /// The distilled guidance input, where the model has one and the request names it.
    pub guidance_scale: Option<f64>,
    /// The weight of true classifier-free guidance.
    pub true_cfg_scale: f64,
    /// The noise's seed.
    pub seed: u64,
}

impl ImageRequest {
    /// Whether a step makes two transformer passes: a negative prompt is given and the
    /// scale is above 1, as in diffusers.
    pub fn do_true_cfg(&self) -> bool {
        self.params.true_cfg_scale > 1.0 && self.negative_prompt.is_some()
    }
}

impl RequestDraft {
    /// Checks every field and fills in the model's defaults: one [`ImageRequest`] a picture,
    /// seeds counting up from the given one. `random_seed` is asked once a picture where no
    /// seed is given.
    ///
    /// # Errors
    /// The first field outside its bound.
    pub fn build(
        self,
        card: &ModelCard,
        limits: &Limits,
        mut random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, InvalidRequest> {
        self.check_prompt()?;
        let n = limits::within("n", self.n.unwrap_or(1), 1..=MAX_IMAGES)?;
        let steps = self.num_inference_steps.unwrap_or(card.num_inference_steps(self.quality) as i64);
        let params = SamplingParams {
            size: limits::size(self.size.unwrap_or_else(|| default_size(card, self.input_size, limits)), limits)?,
            num_inference_steps: limits::within("num_inference_steps", steps, 1..=MAX_INFERENCE_STEPS)? as usize,
            guidance_scale: self.guidance_scale.map(|s| limits::scale("guidance_scale", s)).transpose()?,
            true_cfg_scale: limits::scale(
                "true_cfg_scale",
                self.true_cfg_scale.unwrap_or(card.default_true_cfg_scale),
            )?,
            seed: 0,
        };
        let first_seed = match self.seed {
            None | Some(-1) => None,
            Some(seed) => Some(limits::within("seed", seed, -1..=i64::MAX)? as u64),
        };
        let negative_prompt = self.negative_prompt.or_else(|| card.default_negative_prompt.clone());
        let requests = (0..n as u64).map(|i| {
            let seed = first_seed.map_or_else(|| u64::from(random_seed()), |seed| seed.wrapping_add(i));
            ImageRequest {
                prompt: self.prompt.clone(),
                negative_prompt: negative_prompt.clone(),
                params: SamplingParams { seed, ..params },
                previews: self.previews,
                extensions: self.extensions.clone(),
            }
        });
        Ok(requests.collect())
    }

    fn check_prompt(&self) -> Result<(), InvalidRequest> {
        if self.prompt.trim().is_empty() {
            return Err(InvalidRequest::new("prompt", "not be empty", format!("{:?}", self.prompt)));
        }
        let texts = [("prompt", Some(&self.prompt)), ("negative_prompt", self.negative_prompt.as_ref())];
        for (field, text) in texts {
            let chars = text.map_or(0, |text| text.chars().count());
            if chars > MAX_PROMPT_CHARS {
                let bound = format!("have at most {MAX_PROMPT_CHARS} characters");
                return Err(InvalidRequest::new(field, bound, format!("{chars} characters")));
            }
        }
        Ok(())
    }
}

/// The model's default size, or one of its area in the shape of the picture to edit.
fn default_size(card: &ModelCard, input_size: Option<ImageSize>, limits: &Limits) -> ImageSize {
    match input_size {
        None => card.default_size,
        Some(shape) => shape.scaled_to_area(card.default_size.pixels().min(limits.max_pixels)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> ModelCard {
        ModelCard {
            class: "QwenImagePipeline".into(),
            default_size: ImageSize { width: 128, height: 128 },
            default_num_inference_steps: 20,
            low_num_inference_steps: 10,
            high_num_inference_steps: 40,
            default_true_cfg_scale: 4.0,
            default_negative_prompt: None,
            max_input_images: 0,
            max_prompt_tokens: 1024,
            num_blocks: vec![12],
        }
    }

    fn draft() -> RequestDraft {
        RequestDraft { prompt: "a cat".into(), ..RequestDraft::default() }
    }

    fn build(draft: RequestDraft) -> Result<Vec<ImageRequest>, String> {
        draft.build(&card(), &Limits { max_pixels: 1 << 20 }, || 7).map_err(|err| err.to_string())
    }

    #[test]
    fn a_bare_prompt_takes_the_models_defaults() {
        let [request] = &build(draft()).unwrap()[..] else { panic!("one picture") };
        assert_eq!((request.params.num_inference_steps, request.params.seed), (20, 7));
        assert!(!request.do_true_cfg(), "no negative prompt");
    }

    #[test]
    fn quality_stands_for_steps_that_the_request_does_not_name() {
        let steps = |draft| build(draft).unwrap()[0].params.num_inference_steps;
        for (quality, expected) in [(Quality::Low, 10), (Quality::Medium, 20), (Quality::High, 40)] {
            assert_eq!(steps(RequestDraft { quality, ..draft() }), expected);
            assert_eq!(steps(RequestDraft { quality, num_inference_steps: Some(7), ..draft() }), 7);
        }
    }

    #[test]
    fn a_picture_to_edit_gives_its_shape_unless_a_size_is_named() {
        let size = |draft| build(draft).unwrap()[0].params.size.to_string();
        let edit = RequestDraft { input_size: Some(ImageSize { width: 4032, height: 3024 }), ..draft() };
        assert_eq!(size(edit.clone()), "144x112", "4:3 at the area of 128x128");
        assert_eq!(size(RequestDraft { size: Some(ImageSize { width: 33, height: 65 }), ..edit }), "33x65");
    }

    #[test]
    fn pictures_of_one_request_count_their_seeds_up() {
        let requests = build(RequestDraft { n: Some(3), seed: Some(40), ..draft() }).unwrap();
        assert_eq!(requests.iter().map(|r| r.params.seed).collect::<Vec<_>>(), [40, 41, 42]);
    }

    #[test]
    fn guidance_needs_a_negative_prompt_and_a_scale_above_one() {
        let negative = RequestDraft { negative_prompt: Some(" ".into()), ..draft() };
        assert!(build(negative.clone()).unwrap()[0].do_true_cfg());
        assert!(!build(RequestDraft { true_cfg_scale: Some(1.0), ..negative }).unwrap()[0].do_true_cfg());
    }

    #[test]
    fn every_bound_names_its_field_and_the_value_given() {
        let cases = [
            (RequestDraft { prompt: " ".into(), ..draft() }, "`prompt` must not be empty. Given: \" \""),
            (RequestDraft { n: Some(0), ..draft() }, "`n` must be between 1 and 10. Given: 0"),
            (RequestDraft { n: Some(11), ..draft() }, "`n` must be between 1 and 10. Given: 11"),
            (
                RequestDraft { num_inference_steps: Some(0), ..draft() },
                "`num_inference_steps` must be between 1 and 1000. Given: 0",
            ),
            (
                RequestDraft { num_inference_steps: Some(1001), ..draft() },
                "`num_inference_steps` must be between 1 and 1000. Given: 1001",
            ),
            (
                RequestDraft { seed: Some(-2), ..draft() },
                "`seed` must be between -1 and 9223372036854775807. Given: -2",
            ),
            (
                RequestDraft { true_cfg_scale: Some(f64::NAN), ..draft() },
                "`true_cfg_scale` must be between 0 and 20. Given: NaN",
            ),
            (
                RequestDraft { size: Some(ImageSize { width: 2048, height: 1024 }), ..draft() },
                "`size` must have at most 1048576 pixels (the server's --max-generated-image-size). Given: 2048x1024",
            ),
            (
                RequestDraft { prompt: "x".repeat(32_001), ..draft() },
                "`prompt` must have at most 32000 characters. Given: 32001 characters",
            ),
        ];
        for (draft, message) in cases {
            assert_eq!(build(draft).unwrap_err(), message);
        }
    }
}
