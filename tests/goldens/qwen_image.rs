//! The tiny Qwen-Image checkpoint of the goldens, loaded once.

use std::sync::{Mutex, MutexGuard, OnceLock};

use diffusion::{ImageRequest, ImageSize, SamplingParams};
use models::{Checkpoint, LoadOptions, QwenImage};

use crate::compare::{Golden, goldens};

/// The text-to-image cases.
pub fn cases() -> Vec<Golden> {
    Golden::all(goldens().join("models/goldens"), "qwen-image.t2i_")
}

/// The checkpoint in f32 on the CPU; tests take turns.
pub fn model() -> MutexGuard<'static, QwenImage> {
    static MODEL: OnceLock<Mutex<QwenImage>> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let checkpoint = Checkpoint::open(goldens().join("models/qwen-image")).unwrap();
        Mutex::new(models::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap())
    });
    model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What picture `i` of the recorded run was asked for.
pub fn request(golden: &Golden, i: usize) -> ImageRequest {
    let kw = &golden.run.kw;
    ImageRequest {
        prompt: kw.prompt.get(i),
        negative_prompt: kw.negative_prompt.as_ref().map(|negative| negative.get(i)),
        params: SamplingParams {
            size: ImageSize { width: kw.width, height: kw.height },
            num_inference_steps: kw.num_inference_steps,
            guidance_scale: None,
            true_cfg_scale: kw.true_cfg_scale,
            seed: golden.run.seed,
        },
        previews: None,
        extensions: Default::default(),
    }
}
