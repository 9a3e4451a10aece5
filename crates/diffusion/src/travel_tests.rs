//! Requests sent to another machine arrive unchanged.

use std::sync::Arc;

use cache::{Aim, CacheConfig, MaskSource, ScmPolicy, StepsPolicy};
use proptest::prelude::*;

use crate::{Fit, Guidance, Held, ImageRequest, PreviewMethod, PreviewTimes, Previews, Sampler, SamplingParams};
use crate::{ImageSize, InputImage, Mask, RgbImage};

fn size() -> impl Strategy<Value = ImageSize> {
    (1..40_usize, 1..40_usize).prop_map(|(width, height)| ImageSize { width, height })
}

fn picture() -> impl Strategy<Value = InputImage> {
    (size(), any::<u8>()).prop_map(|(size, first)| {
        let pixels = (0..size.pixels() * 3).map(|i| first.wrapping_add(i as u8)).collect();
        InputImage::new(RgbImage { size, pixels })
    })
}

fn mask() -> impl Strategy<Value = Mask> {
    size().prop_map(|size| Mask { size, editable: (0..size.pixels()).map(|i| i as u8).collect() })
}

/// Multiples of 1/16, which every format represents exactly.
fn weight() -> impl Strategy<Value = f64> {
    (17..320_u16).prop_map(|sixteenths| f64::from(sixteenths) / 16.0)
}

fn guidance() -> impl Strategy<Value = Guidance> {
    prop_oneof![
        Just(Guidance::None),
        weight().prop_map(|scale| Guidance::TrueCfg { scale }),
        weight().prop_map(|scale| Guidance::Cfg { scale }),
        weight().prop_map(|scale| Guidance::Embedded { scale }),
    ]
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let sampler = prop::sample::select(Sampler::NAMED.map(|(_, sampler)| sampler).to_vec());
    (size(), 1..=1000_usize, sampler, guidance(), 0..=i64::MAX as u64).prop_map(
        |(size, num_inference_steps, sampler, guidance, seed)| SamplingParams {
            size,
            num_inference_steps,
            sampler,
            guidance,
            seed,
        },
    )
}

fn previews() -> impl Strategy<Value = Previews> {
    let times = prop_oneof![(0..9_usize).prop_map(PreviewTimes::Count), (0..9_usize).prop_map(PreviewTimes::Interval)];
    (prop::bool::ANY, times).prop_map(|(vae, times)| {
        let method = if vae { PreviewMethod::Vae } else { PreviewMethod::Latent2Rgb };
        Previews { method, times }
    })
}

fn settings() -> impl Strategy<Value = CacheConfig> {
    let planned =
        (1..99_u8).prop_map(|psnr| CacheConfig { planned: Some(Aim::Psnr(psnr.into())), ..CacheConfig::default() });
    let rules =
        (1..5_usize, prop::option::of(0..9_usize), prop::bool::ANY).prop_map(|(blocks, most, is_static)| CacheConfig {
            fn_compute_blocks: blocks,
            max_continuous_cached_steps: most,
            steps_computation_mask: is_static.then_some(MaskSource::Policy(ScmPolicy::Fast)),
            steps_computation_policy: if is_static { StepsPolicy::Static } else { StepsPolicy::Dynamic },
            ..CacheConfig::default()
        });
    prop_oneof![planned, rules]
}

fn request() -> impl Strategy<Value = ImageRequest> {
    let pictures = (prop::collection::vec(picture(), 0..3), prop::option::of(mask()));
    let fit = (size(), size(), size()).prop_map(|(made, inside, asked)| Fit { made, inside, asked });
    let more = (prop::option::of(fit), prop::option::of(previews()), prop::option::of(settings()));
    (".{0,40}", prop::option::of(".{0,40}"), pictures, params(), more).prop_map(
        |(prompt, negative_prompt, (input_images, mask), params, (fit, previews, cache))| ImageRequest {
            prompt,
            negative_prompt,
            input_images: input_images.into(),
            mask: mask.map(Arc::new),
            params,
            fit,
            previews,
            cache,
            held: Held::default(),
        },
    )
}

proptest! {
    #[test]
    fn a_request_arrives_as_it_was_sent(request in request()) {
        let sent = serde_json::to_string(&request).unwrap();
        let arrived: ImageRequest = serde_json::from_str(&sent).unwrap();
        prop_assert_eq!(&arrived, &request);
        // The digest is recomputed from the pixels.
        let digests = |request: &ImageRequest| request.input_images.iter().map(|input| input.digest).collect::<Vec<_>>();
        prop_assert_eq!(digests(&arrived), digests(&request));
    }
}

#[test]
fn pictures_of_another_shape_than_they_say_are_refused() {
    let refusal = |json: &str| serde_json::from_str::<RgbImage>(json).unwrap_err().to_string();
    let short = refusal(r#"{"size": {"width": 2, "height": 1}, "bytes": [1, 2, 3, 4, 5]}"#);
    assert_eq!(short, "a picture of 2x1 must have 3 bytes a pixel, and one at least. Given: 5 bytes");
    assert!(refusal(r#"{"size": {"width": 0, "height": 1}, "bytes": []}"#).ends_with("Given: 0 bytes"));
    // The claimed size whose product overflows.
    let huge = format!(r#"{{"size": {{"width": {0}, "height": {0}}}, "bytes": [0]}}"#, 1_u64 << 33);
    assert!(refusal(&huge).ends_with("Given: 1 bytes"));
    let mask = serde_json::from_str::<Mask>(r#"{"size": {"width": 2, "height": 1}, "bytes": [0]}"#);
    assert!(mask.unwrap_err().to_string().contains("must have 1 bytes a pixel"));
}

#[test]
fn a_guard_stays_where_it_is_and_unknown_fields_are_refused() {
    let guard = Arc::new(());
    let sent = ImageRequest {
        prompt: "a fox".into(),
        negative_prompt: None,
        input_images: Arc::default(),
        mask: None,
        params: SamplingParams {
            size: ImageSize { width: 16, height: 16 },
            num_inference_steps: 4,
            sampler: Sampler::Euler,
            guidance: Guidance::None,
            seed: 7,
        },
        fit: None,
        previews: None,
        cache: None,
        held: Held::new(guard.clone()),
    };
    let json = serde_json::to_string(&sent).unwrap();
    let arrived: ImageRequest = serde_json::from_str(&json).unwrap();
    drop(sent);
    assert_eq!((Arc::strong_count(&guard), arrived.prompt.as_str()), (1, "a fox"));
    let more = json.replacen('{', r#"{"lora": 1, "#, 1);
    assert!(serde_json::from_str::<ImageRequest>(&more).unwrap_err().to_string().contains("unknown field `lora`"));
}
