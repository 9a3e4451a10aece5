//! From what was asked to what will be done, once.

use std::sync::Arc;

use crate::edit_size::ShapeOf;
use crate::invalid_request::{InvalidRequest, guidance_within, within};
use crate::knowledge::known_prompt;
use crate::limits::{self, Limits, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
use crate::{
    Extensions, Fit, Guidance, GuidanceKind, ImageSize, InputImage, Mask, ModelCard, Previews, Quality, Sampler,
    SamplingParams,
};

/// The last seed: 0 follows it, so that every seed that is told can be given again.
const MAX_SEED: u64 = i64::MAX as u64;

/// What someone asked for, over HTTP or at the command line: every field may be missing.
#[derive(Clone, Debug, Default)]
pub struct RequestDraft {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show; without one, the model's default. Guidance in two passes needs one (`" "` counts).
    pub negative_prompt: Option<String>,
    /// The pictures to edit.
    pub input_images: Arc<[InputImage]>,
    /// Where the first of them may be changed; everywhere without one.
    pub mask: Option<Mask>,
    /// The picture's size; without one, the model's default, or what its rule makes of the pictures to edit.
    pub size: Option<ImageSize>,
    /// Pictures to make, with seeds `seed`, `seed + 1`, …
    pub n: Option<i64>,
    /// Denoising steps; without them, as many as the model takes for `quality`.
    pub num_inference_steps: Option<i64>,
    /// How much work the picture is worth.
    pub quality: Quality,
    /// How the picture gets from noise level to noise level; without one, as the model does.
    pub sampler: Option<Sampler>,
    /// The weight of plain classifier-free guidance, or what a model with embedded guidance is told.
    pub guidance_scale: Option<f64>,
    /// The weight of true classifier-free guidance; it runs above 1, so that 1 turns it off.
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
    /// What it should not show: there with guidance in two passes, and only then.
    pub negative_prompt: Option<String>,
    /// The pictures to edit: as many as the model takes.
    pub input_images: Arc<[InputImage]>,
    /// Where the first of them may be changed: of its size.
    pub mask: Option<Arc<Mask>>,
    /// Numbers of the sampling loop.
    pub params: SamplingParams,
    /// How the picture gets the size asked for, where it is made at another.
    pub fit: Option<Fit>,
    /// Pictures on the way.
    pub previews: Option<Previews>,
    /// Settings of parts that this crate does not know.
    pub extensions: Extensions,
}

impl ImageRequest {
    /// The picture's size.
    pub fn size(&self) -> ImageSize {
        self.fit.map_or(self.params.size, |fit| fit.asked)
    }

    /// What whoever asked should know before the first step, in sentences: how the picture gets its size, what the
    /// model knows, and for which sampler it was made.
    pub fn notes(&self, card: &ModelCard) -> Vec<String> {
        let known = known_prompt(&self.prompt, &card.knows);
        let sampler = self.params.sampler;
        let is_distilled = card.guidance == GuidanceKind::None;
        let other = (is_distilled && sampler != Sampler::Euler).then(|| {
            format!("the model was distilled into few steps of euler: {} may draw it less well", sampler.name())
        });
        known.note.into_iter().chain(self.fit.map(|fit| fit.to_string())).chain(other).collect()
    }
}

impl RequestDraft {
    /// Checks every field but the pictures, for whoever has yet to get them. A size that follows from them is not
    /// known yet.
    ///
    /// # Errors
    /// As of [`RequestDraft::build`].
    pub fn check(&self, card: &ModelCard, limits: &Limits) -> Result<(), InvalidRequest> {
        self.check_prompt()?;
        self.n()?;
        self.num_inference_steps(card)?;
        if let Some(size) = self.size {
            limits::size(size, limits.bound(card, self.native_sizes(card)))?;
        }
        self.guidance_scale(card)?;
        self.first_seed()?;
        Ok(())
    }

    /// Pictures to make.
    ///
    /// # Errors
    /// None, or too many.
    pub fn n(&self) -> Result<usize, InvalidRequest> {
        Ok(within("n", self.n.unwrap_or(1), 1..=MAX_IMAGES)? as usize)
    }

    /// Checks every field and fills in the model's defaults: one [`ImageRequest`] a picture,
    /// seeds counting up from the given one, and on from 0 behind the last. `random_seed` is asked once a picture where no
    /// seed is given.
    ///
    /// # Errors
    /// The first field outside its bound.
    pub fn build(
        self,
        card: &ModelCard,
        limits: &Limits,
        random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, InvalidRequest> {
        self.check_prompt()?;
        self.check_pictures(card)?;
        self.filled(card, limits, random_seed)
    }

    /// What an edit comes to at the least, for whoever has yet to get its pictures: as many requests, none of which costs
    /// more than it will with them.
    ///
    /// # Errors
    /// As of [`RequestDraft::check`].
    pub fn least(&self, card: &ModelCard, limits: &Limits) -> Result<Vec<ImageRequest>, InvalidRequest> {
        self.check_prompt()?;
        let size = self.size.unwrap_or_else(|| card.edit_size.least(limits.max_pixels(card)));
        RequestDraft { size: Some(size), ..self.clone() }.filled(card, limits, || 0)
    }

    fn filled(
        self,
        card: &ModelCard,
        limits: &Limits,
        mut random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, InvalidRequest> {
        let n = self.n()?;
        let num_inference_steps = self.num_inference_steps(card)?;
        let bound = limits.bound(card, self.native_sizes(card));
        let asked = limits::size(self.size.unwrap_or_else(|| self.default_size(card, bound.pixels)), bound)?;
        let fit = Fit::nearest(asked, self.native_sizes(card));
        let size = fit.map_or(asked, |fit| fit.made);
        self.guidance_scale(card)?;
        let first_seed = self.first_seed()?;
        let (guidance, sampler) = (self.guidance(card), self.sampler(card));
        let negative_prompt = self.negative_prompt.or_else(|| card.default_negative_prompt.clone());
        let negative_prompt = negative_prompt.filter(|_| guidance.branches().len() > 1);
        let mask = self.mask.map(Arc::new);
        let requests = (0..n as u64).map(|i| {
            let seed = first_seed.map_or_else(|| u64::from(random_seed()), |seed| (seed + i) & MAX_SEED);
            ImageRequest {
                prompt: self.prompt.clone(),
                negative_prompt: negative_prompt.clone(),
                input_images: self.input_images.clone(),
                mask: mask.clone(),
                params: SamplingParams { size, num_inference_steps, sampler, guidance, seed },
                fit,
                previews: self.previews,
                extensions: self.extensions.clone(),
            }
        });
        Ok(requests.collect())
    }

    fn num_inference_steps(&self, card: &ModelCard) -> Result<usize, InvalidRequest> {
        let steps = self.num_inference_steps.unwrap_or(card.num_inference_steps(self.quality) as i64);
        Ok(within("num_inference_steps", steps, 1..=MAX_INFERENCE_STEPS)? as usize)
    }

    /// What takes the steps.
    pub(crate) fn sampler(&self, card: &ModelCard) -> Sampler {
        self.sampler.unwrap_or(card.default_sampler)
    }

    /// `None` where seeds are drawn.
    fn first_seed(&self) -> Result<Option<u64>, InvalidRequest> {
        match self.seed {
            None | Some(-1) => Ok(None),
            Some(seed) => Ok(Some(within("seed", seed, -1..=i64::MAX)? as u64)),
        }
    }

    /// The sizes that the picture may be made at; any where there are none. An edit follows its pictures instead.
    fn native_sizes<'a>(&self, card: &'a ModelCard) -> &'a [ImageSize] {
        if self.input_images.is_empty() { &card.native_sizes } else { &[] }
    }

    /// The weight of the model's guidance. Both weights are checked, also the one that this model does not have.
    fn guidance_scale(&self, card: &ModelCard) -> Result<f64, InvalidRequest> {
        let plain = self.guidance_scale.map(|scale| guidance_within("guidance_scale", scale)).transpose()?;
        let true_cfg = self.true_cfg_scale.map(|scale| guidance_within("true_cfg_scale", scale)).transpose()?;
        let given = match card.guidance {
            GuidanceKind::TrueCfg => true_cfg,
            // Under the names that other servers give it, too (`cfg_scale`).
            GuidanceKind::Cfg => plain.or(true_cfg),
            GuidanceKind::Embedded => plain,
            GuidanceKind::None => None,
        };
        Ok(given.unwrap_or(card.default_guidance_scale))
    }

    /// The guidance that it comes to. A weight out of bounds is as none.
    pub(crate) fn guidance(&self, card: &ModelCard) -> Guidance {
        let scale = self.guidance_scale(card).unwrap_or(card.default_guidance_scale);
        let has_negative_prompt = self.negative_prompt.is_some() || card.default_negative_prompt.is_some();
        card.guidance.guidance(scale, has_negative_prompt)
    }

    /// The model's default size, or what its rule makes of the pictures to edit. Under the server's limit the
    /// shape is kept.
    fn default_size(&self, card: &ModelCard, max_pixels: usize) -> ImageSize {
        let shape = match card.edit_size.shape_of() {
            ShapeOf::Last if self.mask.is_none() => self.input_images.last(),
            ShapeOf::First | ShapeOf::Last => self.input_images.first(),
        };
        let Some(shape) = shape.map(|input| input.image.size) else { return card.default_size };
        let size = card.edit_size.of(shape);
        if size.pixels() <= max_pixels { size } else { shape.scaled_to_area(max_pixels) }
    }

    fn check_pictures(&self, card: &ModelCard) -> Result<(), InvalidRequest> {
        let sizes: Vec<_> = self.input_images.iter().map(|input| input.image.size).collect();
        card.input_images.check(&sizes)?;
        let Some(mask) = &self.mask else { return Ok(()) };
        match sizes.first() {
            None => Err(InvalidRequest::new("mask", "come with the picture that it belongs to", "a mask alone")),
            Some(&first) if mask.size != first => {
                Err(InvalidRequest::new("mask", format!("be as large as the (first) picture, {first}"), mask.size))
            }
            Some(_) => Ok(()),
        }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{EditSize, InputImageBounds, RgbImage};

    pub(crate) fn card() -> ModelCard {
        ModelCard {
            class: "QwenImagePipeline".into(),
            dtype: "f32",
            default_size: ImageSize { width: 128, height: 128 },
            native_sizes: Vec::new(),
            knows: Vec::new(),
            max_pixels: 256 * 256,
            default_num_inference_steps: 20,
            low_num_inference_steps: 10,
            high_num_inference_steps: 40,
            default_sampler: Sampler::Euler,
            guidance: GuidanceKind::TrueCfg,
            default_guidance_scale: 4.0,
            default_negative_prompt: None,
            input_images: InputImageBounds { min_images: 0, max_images: 2, min_side: 1, max_ratio: 200.0 },
            edit_size: EditSize::Area { area: 128 * 128, of: ShapeOf::Last },
            max_prompt_tokens: 1024,
            dim: 8,
            num_blocks: vec![12],
        }
    }

    pub(crate) fn draft() -> RequestDraft {
        RequestDraft { prompt: "a cat".into(), ..RequestDraft::default() }
    }

    fn build(draft: RequestDraft) -> Result<Vec<ImageRequest>, String> {
        draft.build(&card(), &Limits { max_pixels: Some(1 << 20) }, || 7).map_err(|err| err.to_string())
    }

    #[test]
    fn a_bare_prompt_takes_the_models_defaults() {
        let [request] = &build(draft()).unwrap()[..] else { panic!("one picture") };
        assert_eq!((request.params.num_inference_steps, request.params.seed), (20, 7));
        assert_eq!(request.params.sampler, Sampler::Euler);
        assert_eq!(request.params.guidance, Guidance::None, "no negative prompt");
    }

    #[test]
    fn a_bare_prompt_is_guided_where_the_card_has_a_negative_prompt() {
        let card = ModelCard { default_negative_prompt: Some(" ".into()), ..card() };
        let guidance = |draft: RequestDraft| {
            let request = draft.build(&card, &Limits::default(), || 7).unwrap().remove(0);
            (request.params.guidance, request.negative_prompt)
        };
        assert_eq!(guidance(draft()), (Guidance::TrueCfg { scale: 4.0 }, Some(" ".into())));
        let off = RequestDraft { true_cfg_scale: Some(1.0), negative_prompt: Some("fog".into()), ..draft() };
        assert_eq!(guidance(off), (Guidance::None, None), "a prompt without effect is not carried along");
        let own = RequestDraft { negative_prompt: Some("fog".into()), ..draft() };
        assert_eq!(guidance(own), (Guidance::TrueCfg { scale: 4.0 }, Some("fog".into())));
    }

    #[test]
    fn quality_stands_for_steps_that_the_request_does_not_name() {
        let steps = |draft| build(draft).unwrap()[0].params.num_inference_steps;
        for (quality, expected) in [(Quality::Low, 10), (Quality::Medium, 20), (Quality::High, 40)] {
            assert_eq!(steps(RequestDraft { quality, ..draft() }), expected);
            assert_eq!(steps(RequestDraft { quality, num_inference_steps: Some(7), ..draft() }), 7);
        }
    }

    fn picture(width: usize, height: usize) -> InputImage {
        let size = ImageSize { width, height };
        InputImage::new(RgbImage { size, pixels: vec![0; size.pixels() * 3] })
    }

    fn mask(width: usize, height: usize) -> Option<Mask> {
        let size = ImageSize { width, height };
        Some(Mask { size, editable: vec![255; size.pixels()] })
    }

    #[test]
    fn a_picture_to_edit_gives_its_shape_unless_a_size_is_named() {
        let size = |draft| build(draft).unwrap()[0].params.size.to_string();
        let edit = RequestDraft { input_images: [picture(30, 90), picture(60, 45)].into(), ..draft() };
        assert_eq!(size(edit.clone()), "160x96", "4:3 at the area of 128x128, in 32s");
        let masked = RequestDraft { mask: mask(30, 90), ..edit.clone() };
        assert_eq!(size(masked), "64x224", "a mask belongs to the first");
        assert_eq!(size(RequestDraft { size: Some(ImageSize { width: 33, height: 65 }), ..edit.clone() }), "33x65");
        let small = Limits { max_pixels: Some(4096) };
        assert_eq!(edit.build(&card(), &small, || 7).unwrap()[0].params.size.to_string(), "80x48");
    }

    #[test]
    fn a_model_with_native_sizes_makes_the_nearest() {
        let card = ModelCard { native_sizes: vec![card().default_size], ..card() };
        let build = |draft: RequestDraft, max_pixels: Option<usize>| {
            let requests = draft.build(&card, &Limits { max_pixels }, || 7);
            requests.map(|requests| requests[0].clone()).map_err(|err| err.to_string())
        };
        let of = |size: &str| RequestDraft { size: Some(size.parse().unwrap()), ..draft() };
        let asked = |size: &str| build(of(size), None);
        for size in ["64x64", "1024x1024", "1792x1024", "4096x4096", "16384x1024"] {
            let request = asked(size).unwrap();
            assert_eq!((request.params.size, request.size().to_string()), (card.default_size, size.into()));
        }
        assert_eq!(asked("128x128").unwrap().fit, None);
        assert_eq!(build(draft(), None).unwrap().fit, None, "the default size is native");
        assert!(asked("4097x4096").unwrap_err().contains("at most 16777216 pixels"), "{:?}", asked("4097x4096"));
        assert!(
            build(of("256x256"), Some(65_535)).unwrap_err().contains("at most 65535 pixels"),
            "the operator's limit"
        );
        let edit = RequestDraft { input_images: [picture(60, 45)].into(), ..of("96x64") };
        let edit = build(edit, None).unwrap();
        assert_eq!((edit.fit, edit.params.size.to_string()), (None, "96x64".into()), "an edit follows its picture");
    }

    #[test]
    fn a_picture_is_as_large_as_the_model_says_unless_the_operator_says_other() {
        let size = |width, height, max_pixels| {
            let draft = RequestDraft { size: Some(ImageSize { width, height }), ..draft() };
            let built = draft.build(&card(), &Limits { max_pixels }, || 7);
            built.map(|requests| requests[0].params.size.to_string()).map_err(|err| err.to_string())
        };
        assert_eq!(size(256, 256, None).as_deref(), Ok("256x256"), "four times 128x128");
        assert_eq!(
            size(257, 256, None).unwrap_err(),
            "`size` must have at most 65536 pixels (the model's limit; --max-generated-image-size sets another). \
             Given: 257x256"
        );
        assert_eq!(size(7680, 4320, Some(7680 * 4320)).as_deref(), Ok("7680x4320"));
        assert_eq!(size(7680, 4320, Limits::NONE.max_pixels).as_deref(), Ok("7680x4320"));
        assert!(size(256, 256, Some(65535)).unwrap_err().contains("at most 65535 pixels (the server's"));
    }

    #[test]
    fn a_mask_is_of_its_picture() {
        let with = |input_images, mask| build(RequestDraft { input_images, mask, ..draft() }).map(|_| ());
        assert_eq!(with([picture(3, 4)].into(), mask(3, 4)), Ok(()));
        let expected = "`mask` must be as large as the (first) picture, 3x4. Given: 4x3";
        assert_eq!(with([picture(3, 4)].into(), mask(4, 3)), Err(expected.into()));
        let expected = "`mask` must come with the picture that it belongs to. Given: a mask alone";
        assert_eq!(with([].into(), mask(4, 3)), Err(expected.into()));
    }

    #[test]
    fn each_kind_of_guidance_has_its_weight() {
        let weights = RequestDraft {
            guidance_scale: Some(2.0),
            true_cfg_scale: Some(3.0),
            negative_prompt: Some(" ".into()),
            ..draft()
        };
        let guidance = |kind, draft: &RequestDraft| {
            let card = ModelCard { guidance: kind, ..card() };
            draft.clone().build(&card, &Limits::default(), || 7).unwrap()[0].params.guidance
        };
        assert_eq!(guidance(GuidanceKind::TrueCfg, &weights), Guidance::TrueCfg { scale: 3.0 });
        assert_eq!(guidance(GuidanceKind::Cfg, &weights), Guidance::Cfg { scale: 2.0 });
        assert_eq!(guidance(GuidanceKind::Embedded, &weights), Guidance::Embedded { scale: 2.0 });
        assert_eq!(guidance(GuidanceKind::None, &weights), Guidance::None);
        let other_name = RequestDraft { guidance_scale: None, ..weights };
        assert_eq!(guidance(GuidanceKind::Cfg, &other_name), Guidance::Cfg { scale: 3.0 });
        assert_eq!(guidance(GuidanceKind::Embedded, &other_name), Guidance::Embedded { scale: 4.0 }, "the default");
    }

    #[test]
    fn pictures_of_one_request_count_their_seeds_up() {
        let requests = build(RequestDraft { n: Some(3), seed: Some(40), ..draft() }).unwrap();
        assert_eq!(requests.iter().map(|r| r.params.seed).collect::<Vec<_>>(), [40, 41, 42]);
    }

    #[test]
    fn every_seed_that_is_made_can_be_asked_for() {
        let last = build(RequestDraft { n: Some(3), seed: Some(i64::MAX), ..draft() }).unwrap();
        assert_eq!(last.iter().map(|r| r.params.seed).collect::<Vec<_>>(), [i64::MAX as u64, 0, 1]);
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
            let checked = draft.check(&card(), &Limits { max_pixels: Some(1 << 20) });
            assert_eq!(checked.unwrap_err().to_string(), message);
            assert_eq!(build(draft).unwrap_err(), message);
        }
        assert_eq!(
            draft().check(&card(), &Limits { max_pixels: Some(1) }),
            Ok(()),
            "the pictures may give another size"
        );
    }
}
