//! The goldens' tiny Qwen-Image checkpoint, loaded once.

use std::sync::{Mutex, MutexGuard, OnceLock};

use diffusion::{GuidanceKind, ImageRequest, ImageSize, SamplingParams};
use models::{Checkpoint, DiffusionPipeline, LoadOptions, QwenImage};

use crate::compare::{Golden, goldens};

/// The text-to-image cases.
pub fn cases() -> Vec<Golden> {
    Golden::all(goldens().join("models/goldens"), "qwen-image.t2i_")
}

/// The pipeline under test.
pub type Model = DiffusionPipeline<QwenImage>;

/// Returns the checkpoint's pipeline in f32 on the CPU. Tests take turns.
pub fn model() -> MutexGuard<'static, Model> {
    static MODEL: OnceLock<Mutex<Model>> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let checkpoint = Checkpoint::open(goldens().join("models/qwen-image")).unwrap();
        let options = LoadOptions::default();
        let family = QwenImage::load(&checkpoint, &options, &|_, _, _| ()).unwrap();
        Mutex::new(DiffusionPipeline::new(family, &options))
    });
    model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Builds the request of picture `i` of the recorded run.
pub fn request(golden: &Golden, i: usize) -> ImageRequest {
    let kw = &golden.run.kw;
    ImageRequest {
        prompt: kw.prompt.get(i),
        negative_prompt: kw.negative_prompt.as_ref().map(|negative| negative.get(i)),
        input_images: Default::default(),
        mask: None,
        params: SamplingParams {
            size: ImageSize { width: kw.width, height: kw.height },
            num_inference_steps: kw.num_inference_steps,
            sampler: golden.run.sampler(),
            guidance: GuidanceKind::TrueCfg.guidance(kw.true_cfg_scale, kw.negative_prompt.is_some()),
            seed: golden.run.seed,
        },
        fit: None,
        previews: None,
        cache: None,
        held: Default::default(),
    }
}
