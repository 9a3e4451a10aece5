//! Cost estimates for the real Qwen-Image, and for FLUX.2-klein where two segments matter.

use cache::{Calibration, FittedPlan, Jump, Psnr};
use diffusion::{Fit, Guidance, Held, ImageSize, InputImage, Mask, RgbImage, SamplingParams, ShapeOf};

use super::*;
use crate::flops::Flops;
use crate::{flux2, qwen_image};

const MIB: u64 = 1 << 20;

const TILING: Tiling = Tiling { side: 32, stride: 24 };
const PEAKS: Peaks = Peaks { text: 1000, block: 30_000, vae_encoder: 300, vae_decoder: 400 };

fn segment(name: &'static str, num_blocks: usize, is_dual: bool, encoder_is_used: bool) -> BlockList {
    BlockList { name, num_blocks, is_dual, encoder_is_used }
}

/// Operations with round figures for encoders and decoders around these blocks.
fn flops(blocks: Vec<Flops>, text_width: usize) -> ModelFlops {
    ModelFlops {
        blocks,
        image_token: 1e6,
        text_token: 2.0 * (text_width * 3072) as f64,
        text_encoder: Flops { linear: 1e10, quadratic: 0.0 },
        template_tokens: 34,
        vision: Flops { linear: 1e9, quadratic: 1e4 },
        vae_encoder: Flops { linear: 1e9, quadratic: 0.0 },
        vae_decoder: Flops { linear: 2e9, quadratic: 0.0 },
    }
}

fn qwen_image(cache: Option<CacheConfig>) -> CostModel {
    let length = |prompt: &str, _: &ImageRequest| TextLength {
        expected: prompt.len().div_ceil(4) + 5,
        most: prompt.len().min(1019) + 5,
    };
    let sizes = RequestSizes {
        segments: vec![segment("transformer_blocks", 60, true, false)],
        dim: 3072,
        token_channels: 64,
        text_width: 3584,
        text_tokens: Arc::new(length),
        // A patch has 14x14 pixels, at 384x384.
        patches: Some(Arc::new(|_| 28 * 28)),
        activation_bytes: 2,
        flops: flops(vec![qwen_image::flops::block(&qwen_image::TransformerConfig::default())], 3584),
        peaks: PEAKS,
        tiling: TILING,
    };
    CostModel {
        sizes,
        edit_size: EditSize::Area { area: 1 << 20, of: ShapeOf::Last },
        cache,
        plans: Plans::default(),
        vae_tiling: VaeTiling::Never,
    }
}

fn klein(cache: Option<CacheConfig>) -> CostModel {
    let klein = flux2::TransformerConfig { num_attention_heads: 24, ..flux2::TransformerConfig::default() };
    let sizes = RequestSizes {
        segments: vec![
            segment("transformer_blocks", 5, true, true),
            segment("single_transformer_blocks", 20, false, false),
        ],
        dim: 3072,
        token_channels: 128,
        text_width: 7680,
        text_tokens: Arc::new(|_: &str, _: &ImageRequest| TextLength { expected: 512, most: 512 }),
        patches: None,
        activation_bytes: 2,
        flops: flops(flux2::flops::blocks(&klein), 7680),
        peaks: PEAKS,
        tiling: TILING,
    };
    CostModel {
        sizes,
        edit_size: EditSize::Own { max_area: 1 << 20 },
        cache,
        plans: Plans::default(),
        vae_tiling: VaeTiling::Never,
    }
}

fn request(cache: Option<CacheConfig>) -> ImageRequest {
    ImageRequest {
        prompt: "a".repeat(50),
        negative_prompt: Some(" ".into()),
        input_images: Arc::default(),
        mask: None,
        params: SamplingParams {
            size: ImageSize { width: 1024, height: 1024 },
            num_inference_steps: 50,
            sampler: Sampler::Euler,
            guidance: Guidance::TrueCfg { scale: 4.0 },
            seed: 0,
        },
        fit: None,
        previews: None,
        cache,
        held: Held::default(),
    }
}

#[test]
fn the_cache_outweighs_the_rest_of_a_request() {
    let model = qwen_image(None);
    let uncached = model.cost(&request(None));
    assert_eq!((uncached.tokens, uncached.passes, uncached.steps), (4096, 2, 50));
    assert_eq!((uncached.least_share, uncached.kind), (1.0, 0));
    // Latents before and after a step, 1 MiB each.
    assert!((2 * MIB..3 * MIB).contains(&uncached.memory.state), "{}", uncached.memory.state);

    // Two branches, each with two residuals of 24 MiB before and after a step.
    let cached = CostModel { cache: Some(CacheConfig::default()), ..model }.cost(&request(None));
    assert_eq!(cached.memory.state - uncached.memory.state, 2 * (2 + 2) * 24 * MIB);
    assert_eq!(cached.least_share, 1.0 / 60.0);
}

#[test]
fn a_computed_step_stores_the_same_whatever_is_kept() {
    let model = qwen_image(None);
    let long = |cache| ImageRequest { prompt: "a".repeat(1019), ..request(cache) };
    let bytes = |config: CacheConfig| {
        let uncached = model.cost(&long(None)).memory.state;
        (model.cost(&long(Some(config))).memory.state - uncached) / MIB
    };
    let taylor = |taylorseer_order| CacheConfig { enable_taylorseer: true, taylorseer_order, ..CacheConfig::default() };
    // 24 MiB of image tokens; 6 MiB of the 1024 tokens that this prompt may have.
    assert_eq!(bytes(taylor(1)), 2 * ((1 + 2) + 2) * 24);
    assert_eq!(bytes(taylor(2)), 2 * ((1 + 3) + 2) * 24);
    assert_eq!(bytes(CacheConfig { fn_compute_blocks: 8, ..CacheConfig::default() }), 2 * (2 + 2) * 24);
    assert_eq!(bytes(CacheConfig { bn_compute_blocks: 1, ..CacheConfig::default() }), 2 * ((2 + 2) * 24 + 2 * 6));
    assert_eq!(bytes(CacheConfig { bn_compute_blocks: 1, ..taylor(1) }), 2 * ((3 + 2) * 24 + (2 + 1) * 6));
}

#[test]
fn previews_hold_an_estimate_of_the_latents() {
    let model = qwen_image(None);
    let without = request(None);
    let times = diffusion::PreviewTimes::Count(1);
    let previews = diffusion::Previews { method: diffusion::PreviewMethod::Latent2Rgb, times };
    let with = ImageRequest { previews: Some(previews), ..without.clone() };
    assert_eq!(model.cost(&with).memory.state - model.cost(&without).memory.state, 2 * MIB);
}

#[test]
fn a_request_with_its_own_settings_is_of_its_own_kind() {
    let cache = Some(CacheConfig::default());
    let model = qwen_image(cache);
    let kind = |config: CacheConfig| model.cost(&request(Some(config))).kind;
    assert_eq!(kind(CacheConfig::default()), model.cost(&request(None)).kind);
    assert_ne!(kind(CacheConfig { fn_compute_blocks: 2, ..CacheConfig::default() }), kind(CacheConfig::default()));
    assert_eq!(kind(CacheConfig { max_cached_steps: Some(0), ..CacheConfig::default() }), 0, "never reuses");
}

#[test]
fn a_plan_is_known_by_what_it_computes() {
    let plan = |computed: &[usize], psnr| FittedPlan {
        computed: computed.to_vec(),
        jumps: vec![Jump::euler(); computed.len()],
        changes: Vec::new(),
        psnr: Psnr::of(vec![psnr]),
    };
    let calibration = Calibration {
        class: "QwenImagePipeline".into(),
        model: "digest".into(),
        num_inference_steps: 50,
        guidance: Some(4.0),
        pictures: 1,
        plans: vec![plan(&[0, 20], 30.0), plan(&[0, 10, 20, 30, 40], 40.0)],
    };
    let model = qwen_image(Some(CacheConfig { planned: Some(Aim::Psnr(40.0)), ..CacheConfig::default() }));
    let whole = model.cost(&request(None));
    assert_eq!((whole.least_share, whole.kind), (1.0, 0), "there is no plan yet");
    model.plans.replace(calibration);
    let planned = model.cost(&request(None));
    // The step of a plan costs its observed mean share of computed blocks.
    assert_eq!((planned.step_work(0.1), planned.step_work(0.0)), (0.1 * planned.work.step, 0.0));
    assert_eq!(planned.work.step, whole.work.step);
    let known = planned.known.unwrap();
    assert_eq!((0..50).filter(|&step| known.computes(step)).collect::<Vec<_>>(), [0, 10, 20, 30, 40]);
    assert_eq!(whole.known, None);
    let kind = |aim, sampler| {
        let mut request = request(Some(CacheConfig { planned: Some(aim), ..CacheConfig::default() }));
        request.params.sampler = sampler;
        model.cost(&request).kind
    };
    assert_eq!(kind(Aim::Budget(0.1), Sampler::Euler), planned.kind);
    assert_ne!(kind(Aim::Psnr(30.0), Sampler::Euler), planned.kind);
    assert_eq!(kind(Aim::Budget(0.1), Sampler::Heun), 0, "computed whole");
    model.plans.tighten(true, 0.5);
    assert_eq!(kind(Aim::Psnr(30.0), Sampler::Euler), planned.kind, "a tighter plan computes more");
}

#[test]
fn both_segments_of_klein_are_kept_and_their_text() {
    let mut one_pass = request(None);
    one_pass.params.guidance = Guidance::None;
    let uncached = klein(None).cost(&one_pass);
    let cached = klein(Some(CacheConfig::default())).cost(&one_pass);
    assert_eq!(uncached.passes, 1);
    // A token is 6 KiB: 4096 image tokens (24 MiB) and 512 text tokens (3 MiB). Each residual exists twice, old and
    // new: image twice and text once in the dual segment, both together twice in the single one.
    assert_eq!(cached.memory.state - uncached.memory.state, 2 * (2 * 24 + 3 + 2 * 27) * MIB);
    assert_eq!(cached.least_share, 2.0 / 25.0);
}

fn picture(side: usize) -> InputImage {
    let size = ImageSize { width: side, height: side };
    InputImage::new(RgbImage { size, pixels: vec![0; size.pixels() * 3] })
}

#[test]
fn pictures_to_edit_are_tokens_of_every_pass() {
    let without = request(None);
    let with = ImageRequest { input_images: [picture(64), picture(32)].into(), ..without.clone() };
    let (before, after) = (qwen_image(None).cost(&without), qwen_image(None).cost(&with));
    assert_eq!(after.memory.state - before.memory.state, 2 * MIB, "each at a megapixel");
    // Three times the image tokens, and attention grows with their square.
    assert!((3.0..4.5).contains(&(after.work.step / before.work.step)), "{:?}", after.work);
    let each = 784.0 * 1e9 + 784.0 * 784.0 * 1e4 + 4096.0 * 1e9;
    assert!((after.work.encode - before.work.encode - 2.0 * each).abs() < 1e6, "the tower and the VAE");
    let of_klein = |request| klein(None).cost(request).work.encode;
    assert_eq!(of_klein(&with) - of_klein(&without), 20.0 * 1e9, "each at its own size");
    let masked = ImageRequest {
        mask: Some(Arc::new(Mask { size: picture(64).image.size, editable: vec![255; 4096] })),
        ..with.clone()
    };
    assert_eq!(qwen_image(None).cost(&masked).memory.state - after.memory.state, 2 * MIB, "the picture and the noise");
}

#[test]
fn each_stage_needs_memory_of_its_own() {
    let model = qwen_image(None);
    let text = |prompt: usize| prompt.div_ceil(1) + 5;
    let mut request = request(None);
    let memory = model.cost(&request).memory;
    // Two passes, with prompts of 50 bytes and 1 byte, and at most one token per byte.
    assert_eq!(memory.step, ((4096 + text(50)) + (4096 + text(1))) as u64 * 30_000 * 2);
    assert_eq!(memory.decode, (1024 * 1024 * 400 * 2) as u64);
    assert_eq!(memory.encode, (text(50) * 1000 * 2) as u64);
    request.input_images = [picture(64), picture(32)].into();
    let edit = model.cost(&request).memory;
    assert_eq!(edit.encode, (1024 * 1024 * 300 * 2) as u64, "one picture after the other");
    assert_eq!(edit.step - memory.step, 2 * 2 * 4096 * 30_000 * 2);
}

#[test]
fn what_is_too_large_for_the_vae_is_decoded_in_tiles() {
    let of = |vae_tiling, side| {
        let mut request = request(None);
        request.params.size = ImageSize { width: side, height: side };
        let cost = CostModel { vae_tiling, ..qwen_image(None) }.cost(&request);
        (cost.memory.decode, cost.work.decode)
    };
    let whole = |side: u64| (side * side * 400 * 2, (side * side / 256) as f64 * 2e9);
    // Six tiles per side: five of 32 latents, and a last one of 8.
    let tiles = (256 * 256 * 400 * 2 + 1024 * 1024 * 16, (168 * 168 / 4) as f64 * 2e9);
    assert_eq!(of(VaeTiling::Never, 1024), whole(1024));
    assert_eq!(of(VaeTiling::Always, 1024), tiles);
    assert_eq!(of(VaeTiling::Above(whole(1024).0), 1024), whole(1024));
    assert_eq!(of(VaeTiling::Above(whole(1024).0 - 1), 1024), tiles);
    assert_eq!(of(VaeTiling::Always, 256), whole(256), "no larger than a tile");
}

#[test]
fn what_is_too_large_for_the_vae_is_encoded_in_tiles() {
    let of = |vae_tiling| {
        let request = ImageRequest { input_images: [picture(64)].into(), ..request(None) };
        let cost = CostModel { vae_tiling, ..qwen_image(None) }.cost(&request);
        (cost.memory.encode, cost.work.encode)
    };
    let (whole, work) = of(VaeTiling::Never);
    assert_eq!(whole, 1024 * 1024 * 300 * 2, "at a megapixel");
    let (tiled, more_work) = of(VaeTiling::Always);
    assert_eq!(tiled, 256 * 256 * 300 * 2 + 1024 * 1024 * 16);
    // Six tiles per side: five of 32 latents, and a last one of 8.
    assert!((more_work - work - (168.0 * 168.0 / 4.0 - 4096.0) * 1e9).abs() < 1e6, "{more_work:e} {work:e}");
    assert_eq!(of(VaeTiling::Above(whole)), (whole, work));
    assert_eq!(of(VaeTiling::Above(whole - 1)), (tiled, more_work));
}

#[test]
fn a_step_has_an_attention_term() {
    let cost = |side, guidance| {
        let mut request = request(None);
        (request.params.size, request.params.guidance) = (ImageSize { width: side, height: side }, guidance);
        qwen_image(None).cost(&request).work
    };
    let one_pass = cost(1024, Guidance::None).step;
    // 60 blocks of 24 * 3072^2 per token and 4 * 3072 per pair of tokens, with 18 text tokens.
    let tokens = 4096.0 + 18.0;
    let expected = 60.0 * (24.0 * 3072.0 * 3072.0 * tokens + 4.0 * 3072.0 * tokens * tokens);
    assert!((one_pass / expected - 1.0).abs() < 1e-3, "{one_pass:e} is not {expected:e}");
    // Four times the side gives 16 times the tokens and 59 times the work.
    assert!((58.0..60.0).contains(&(cost(4096, Guidance::None).step / one_pass)));
    let guided = cost(1024, Guidance::TrueCfg { scale: 4.0 }).step;
    assert!((1.9..2.0).contains(&(guided / one_pass)), "the negative prompt is shorter");
}

#[test]
fn a_reused_step_is_what_always_runs() {
    let config = CacheConfig { fn_compute_blocks: 6, ..CacheConfig::default() };
    let work = qwen_image(Some(config)).cost(&request(None)).work;
    assert!((work.reused_step / work.step - 0.1).abs() < 1e-3, "6 of 60 blocks: {work:?}");
    let uncached = qwen_image(None).cost(&request(None)).work;
    assert_eq!((uncached.step, uncached.reused_step), (work.step, work.step));
    let work = klein(Some(CacheConfig::default())).cost(&request(None)).work;
    assert!((work.reused_step / work.step - 0.08).abs() < 3e-3, "1 of 5 and 1 of 20: {work:?}");
}

#[test]
fn a_preview_is_a_decoding_or_next_to_nothing() {
    let work = |method| {
        let previews = Some(diffusion::Previews { method, times: diffusion::PreviewTimes::Count(1) });
        qwen_image(None).cost(&ImageRequest { previews, ..request(None) }).work
    };
    let (vae, sketch) = (work(PreviewMethod::Vae), work(PreviewMethod::Latent2Rgb));
    assert_eq!(vae.preview, vae.decode);
    assert!(sketch.preview > 0.0 && sketch.preview < 1e-4 * sketch.decode, "{sketch:?}");
    let plain = request(None);
    let work = qwen_image(None).cost(&plain).work;
    assert_eq!((work.preview, work.fit), (0.0, 0.0));
    let size = |side| ImageSize { width: side, height: side };
    let fit = Some(Fit { made: size(1024), inside: size(2048), asked: ImageSize { width: 3000, height: 2048 } });
    let enlarged = qwen_image(None).cost(&ImageRequest { fit, ..plain }).work;
    assert_eq!((enlarged.decode, enlarged.step), (work.decode, work.step));
    assert!((2e8..3e8).contains(&enlarged.fit), "six pixels twice for each of four million: {}", enlarged.fit);
}

#[test]
fn what_a_mask_keeps_is_encoded_once_more_at_another_size() {
    let masked = |side| {
        let mut request = request(None);
        request.input_images = [picture(64)].into();
        request.mask = Some(Arc::new(Mask { size: picture(64).image.size, editable: vec![255; 4096] }));
        request.params.size = ImageSize { width: side, height: side };
        qwen_image(None).cost(&request).work.encode
    };
    assert_eq!(masked(512) - masked(1024), 1024.0 * 1e9);
}
