//! Tests of draft validation.

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
    assert!(build(of("256x256"), Some(65_535)).unwrap_err().contains("at most 65535 pixels"), "the operator's limit");
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
        (RequestDraft { seed: Some(-2), ..draft() }, "`seed` must be between -1 and 9223372036854775807. Given: -2"),
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
    assert_eq!(draft().check(&card(), &Limits { max_pixels: Some(1) }), Ok(()), "the pictures may give another size");
}
