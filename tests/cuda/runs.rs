//! Tiny models, and the pictures that the tests make with them.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use latentd::{CacheBackend, CacheFlags};
use models::Quantization;
use omni::{DeviceName, Dtype, Omni, OmniBuilder, OmniDiffusionSamplingParams};

use diffusion::{RgbImage, StepReport};

pub const MODELS: [&str; 2] = ["qwen-image", "flux2-klein"];
pub const GPU: DeviceName = DeviceName::Cuda(0);

/// Blocks every other test of this process, because counts cover the whole process.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder of the goldens: `LATENTD_GOLDENS`, or the repository's.
pub fn goldens() -> PathBuf {
    let named = std::env::var_os("LATENTD_GOLDENS").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens"))
}

/// The folder of a tiny checkpoint.
pub fn checkpoint(model: &str) -> String {
    goldens().join("models").join(model).to_str().unwrap().to_owned()
}

/// Loads a tiny model, with a cache configured by `cache` if it is given.
pub fn load(model: &str, device: DeviceName, dtype: Dtype, cache: Option<&str>) -> Omni {
    builder(model, device, dtype, cache).build().unwrap_or_else(|err| panic!("{model}: {err}"))
}

/// The builder of such a model.
pub fn builder(model: &str, device: DeviceName, dtype: Dtype, cache: Option<&str>) -> OmniBuilder {
    let flags = CacheFlags {
        cache_backend: cache.map(|_| CacheBackend::CacheDit),
        cache_config: cache.map(str::to_owned),
        ..CacheFlags::default()
    };
    Omni::builder()
        .model(checkpoint(model))
        .device(device)
        .dtype(dtype)
        .cache(flags.resolve().expect("flags of a test"))
}

/// Loads a tiny model with products of eight-bit floats and without a cache.
pub fn load_fp8(model: &str, device: DeviceName, dtype: Dtype) -> Omni {
    let builder = Omni::builder().model(checkpoint(model)).device(device).dtype(dtype);
    builder.quantization(Quantization::Fp8).build().unwrap_or_else(|err| panic!("{model}: {err}"))
}

/// Parameters with one row per step: no guidance.
pub fn one_row(steps: i64) -> OmniDiffusionSamplingParams {
    OmniDiffusionSamplingParams {
        num_inference_steps: Some(steps),
        width: Some(32),
        height: Some(32),
        seed: Some(7),
        true_cfg_scale: Some(1.0),
        ..OmniDiffusionSamplingParams::default()
    }
}

/// Makes a picture and returns it with the reports of its steps.
pub fn picture(omni: &mut Omni, params: OmniDiffusionSamplingParams) -> (RgbImage, Vec<StepReport>) {
    let mut images = omni.generate("a fox on a green background", params).unwrap();
    let image = images.remove(0);
    (image.image, image.steps)
}
