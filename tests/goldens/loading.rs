//! Loading: every class of every family through `models::load`, without reading tensors that are not needed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use diffusion::{Interrupt, Pipeline};
use models::{AnyPipeline, Checkpoint, FAMILIES, LoadError, LoadOptions, Overrides, Progress};
use tempfile::TempDir;

use crate::compare::{changed_checkpoint, goldens};
use crate::edit_models::{edit, finished, picture, size};
use crate::{flux2_klein_pipeline, qwen_image_edit_pipeline};

/// Returns a tiny checkpoint of the class, and the number of pictures for its requests.
pub fn tiny(class: &str) -> (PathBuf, usize) {
    match class {
        "QwenImagePipeline" => (goldens().join("models/qwen-image"), 0),
        "QwenImageEditPipeline" => (qwen_image_edit_pipeline::folder(), 1),
        "QwenImageEditPlusPipeline" => (qwen_image_edit_pipeline::folder(), 2),
        "Flux2KleinPipeline" => (flux2_klein_pipeline::folder(), 1),
        other => panic!("the new class {other} needs a tiny checkpoint here"),
    }
}

pub fn load(folder: &Path) -> Result<AnyPipeline, LoadError> {
    load_telling(folder, &|_, _, _| ())
}

/// Loads a pipeline and reports the progress.
fn load_telling(folder: &Path, progress: Progress<'_>) -> Result<AnyPipeline, LoadError> {
    let overrides = Overrides {
        edit_area: Some(96 * 96),
        condition_area: Some(112 * 112),
        max_sequence_length: Some(64),
        ..Overrides::default()
    };
    let options = LoadOptions { overrides, ..LoadOptions::default() };
    models::load(&Checkpoint::open(folder)?, &options, progress)
}

/// Returns the pixels for a request with this number of pictures.
pub fn drawn(model: &mut AnyPipeline, pictures: usize) -> Vec<u8> {
    let pictures: Vec<_> = (0..pictures).map(|seed| picture(seed as u64, size(96, 96))).collect();
    let state = finished(model, &edit("a cat", &pictures, size(64, 48)));
    let image = model.decode(state, &Interrupt::default()).unwrap();
    assert_eq!(image.size, size(64, 48));
    image.pixels
}

#[test]
fn every_class_of_every_family_makes_a_picture() {
    for class in FAMILIES.iter().flat_map(|family| family.classes) {
        let (folder, pictures) = tiny(class);
        let changed = changed_checkpoint(&folder, &[("model_index.json", "_class_name", (*class).into())]);
        let mut model = load(changed.path()).unwrap();
        assert_eq!(model.card().class, *class);
        let pixels = drawn(&mut model, pictures);
        assert!(pixels.iter().any(|byte| *byte != pixels[0]), "{class}: a picture of one grey");
        model.card().input_images.check_count(pictures).unwrap();
    }
}

/// Tensors that are never loaded must not count in the total.
#[test]
fn every_component_s_bar_ends_at_its_end() {
    for class in FAMILIES.iter().flat_map(|family| family.classes) {
        let (folder, _) = tiny(class);
        let changed = changed_checkpoint(&folder, &[("model_index.json", "_class_name", (*class).into())]);
        let seen = RefCell::new(BTreeMap::new());
        let progress = |component, done, total| {
            seen.borrow_mut().insert(component, (done, total));
        };
        load_telling(changed.path(), &progress).unwrap();
        let seen = seen.into_inner();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), ["text encoder", "transformer", "vae"], "{class}");
        assert!(seen.values().all(|(done, total)| done == total), "{class}: {seen:?}");
    }
}

#[test]
fn an_unknown_class_is_told_all_that_are_known() {
    let (folder, _) = tiny("QwenImagePipeline");
    let changed = changed_checkpoint(&folder, &[("model_index.json", "_class_name", "WanPipeline".into())]);
    let message = load(changed.path()).err().unwrap().to_string();
    for class in FAMILIES.iter().flat_map(|family| family.classes).chain(&["WanPipeline"]) {
        assert!(message.contains(class), "{message}");
    }
}

/// Copies the checkpoint of `class` without the tensors of `component` for which `is_needed` is false. There must be at
/// least one.
fn without(class: &str, component: &str, is_needed: impl Fn(&str) -> bool) -> TempDir {
    let (folder, _) = tiny(class);
    let changed = changed_checkpoint(&folder, &[("model_index.json", "_class_name", class.into())]);
    let mut removed = 0;
    for file in std::fs::read_dir(changed.path().join(component)).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let all = tensors.len();
        tensors.retain(|name, _| is_needed(name));
        removed += all - tensors.len();
        std::fs::remove_file(&path).unwrap();
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }
    assert!(removed > 0, "{class}: `{component}` has no tensor that is not needed");
    changed
}

/// Whether a tensor's block, `prefix` and a number, is one of the first `count`. Other tensors pass.
fn is_within(name: &str, prefix: &str, count: usize) -> bool {
    let number = name.strip_prefix(prefix).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    number.is_none_or(|number| number < count)
}

/// The tensors are absent, so a loader that asks for one fails.
#[test]
fn tensors_that_are_not_needed_are_not_read() {
    let is_vae_encoder = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
    let is_head = |name: &str| name.starts_with("lm_head.");
    let is_klein_text =
        |name: &str| is_within(name, "model.layers.", 27) && name != "model.norm.weight" && !is_head(name);
    let cases = [
        ("QwenImagePipeline", without("QwenImagePipeline", "vae", |name| !is_vae_encoder(name))),
        (
            "QwenImagePipeline",
            without("QwenImagePipeline", "text_encoder", |name| {
                !is_head(name) && !name.starts_with("visual.") && !name.starts_with("model.visual.")
            }),
        ),
        ("QwenImageEditPlusPipeline", without("QwenImageEditPlusPipeline", "text_encoder", |name| !is_head(name))),
        ("Flux2KleinPipeline", without("Flux2KleinPipeline", "text_encoder", is_klein_text)),
    ];
    for (class, folder) in cases {
        let (whole, pictures) = tiny(class);
        let changed = changed_checkpoint(&whole, &[("model_index.json", "_class_name", class.into())]);
        let [without, with] = [folder.path(), changed.path()].map(|folder| drawn(&mut load(folder).unwrap(), pictures));
        assert!(without == with, "{class}: another picture");
    }
}

/// A missing needed tensor is reported, so the test above would notice a tensor that is read.
#[test]
fn a_tensor_that_is_needed_is_missed_by_name() {
    let folder = without("Flux2KleinPipeline", "text_encoder", |name| is_within(name, "model.layers.", 26));
    let message = load(folder.path()).err().unwrap().to_string();
    assert!(message.contains("model.layers.26."), "{message}");
}
