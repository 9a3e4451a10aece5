//! The whole Qwen-Image-Edit pipeline against diffusers, from the input files to the picture.

use std::path::PathBuf;

use candle_core::DType;
use models::{Checkpoint, DiffusionPipeline, EditPositions, LoadOptions, Overrides, QwenImage};
use serde_json::Value;

use crate::compare::{Golden, changed_checkpoint, goldens, play, play_latents};

pub fn folder() -> PathBuf {
    goldens().join("models/qwen-image-edit-plus")
}

/// Loads the pipeline of a recorded run: the checkpoint's own class, v1, or 2511.
pub fn pipeline(golden: &Golden, dtype: DType) -> DiffusionPipeline<QwenImage> {
    let class = golden.run.pipeline.clone().unwrap();
    let changed = changed_checkpoint(
        &folder(),
        &[
            ("model_index.json", "_class_name", class.into()),
            ("transformer/config.json", "zero_cond_t", golden.run.zero_cond_t.into()),
        ],
    );
    let overrides = Overrides {
        edit_positions: if golden.run.mrope3d { EditPositions::MRope3d } else { EditPositions::Sequential1d },
        edit_area: golden.run.vae_area,
        condition_area: golden.run.cond_area,
        max_sequence_length: None,
        sampler: None,
    };
    let options = LoadOptions { dtype, overrides, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(changed.path()).unwrap();
    let family = QwenImage::load(&checkpoint, &options, &|_, _, _| ()).unwrap();
    DiffusionPipeline::new(family, &options)
}

fn cases() -> Vec<Golden> {
    Golden::all(goldens().join("models/goldens"), "qwen-image-edit-plus.")
}

#[test]
fn latents_after_each_step_and_the_picture() {
    for golden in cases() {
        play(&mut pipeline(&golden, DType::F32), &folder(), &golden, 1e-3);
    }
}

#[test]
fn weights_in_half_precision_stay_close() {
    for golden in cases() {
        for (dtype, tolerance) in [(DType::F16, 2e-2), (DType::BF16, 2e-1)] {
            let mut pipeline = pipeline(&golden, dtype);
            play_latents(&mut pipeline, &folder(), &golden, tolerance);
        }
    }
}

#[test]
fn a_model_without_its_processor_says_so() {
    let changed =
        changed_checkpoint(&folder(), &[("model_index.json", "_class_name", Value::from("QwenImageEditPlusPipeline"))]);
    std::fs::remove_dir_all(changed.path().join("processor")).unwrap();
    let message = Checkpoint::open(changed.path()).unwrap_err().to_string();
    assert!(message.starts_with("`processor/preprocessor_config.json` is missing in "), "{message}");
}
