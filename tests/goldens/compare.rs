//! Location of the goldens, and comparison with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use diffusion::{
    ImageRequest, ImageSize, InputImage, Interrupt, Limits, ModelCard, Pipeline, RequestDraft, RgbImage, Sampler,
};
use models::{DiffusionPipeline, Family, RequestState};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

/// Returns the folder of the goldens: `LATENTD_GOLDENS`, or the one beside this file.
pub fn goldens() -> PathBuf {
    match std::env::var_os("LATENTD_GOLDENS") {
        Some(folder) => folder.into(),
        None => committed_goldens(),
    }
}

/// Returns the goldens in the repository regardless of `LATENTD_GOLDENS`, for the built-in model's goldens.
pub fn committed_goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

/// One recorded run of a diffusers pipeline.
pub struct Golden {
    pub case: String,
    pub run: Run,
    tensors: HashMap<String, Tensor>,
}

/// Settings of the run.
#[derive(Clone, Deserialize)]
pub struct Run {
    pub kw: Arguments,
    pub seed: u64,
    /// Names of the pictures to edit: `a` is the checkpoint's `input_a.png`.
    #[serde(default)]
    pub images: Vec<String>,
    /// For edits: approximate number of pixels at which the text encoder sees a picture.
    pub cond_area: Option<usize>,
    /// For edits: approximate number of pixels at which pictures are edited.
    pub vae_area: Option<usize>,
    /// Pipeline class, if it is not the checkpoint's own.
    pub pipeline: Option<String>,
    #[serde(default)]
    pub mrope3d: bool,
    #[serde(default)]
    pub zero_cond_t: bool,
    /// Whether FLUX.2-klein ran as a distilled model.
    pub is_distilled: Option<bool>,
    /// Sampler of the run, if it was not Euler.
    pub sampler: Option<String>,
}

impl Run {
    /// Returns the sampler of the run.
    pub fn sampler(&self) -> Sampler {
        self.sampler.as_deref().map_or(Sampler::Euler, sampler)
    }
}

/// Returns the sampler of this name.
pub fn sampler(name: &str) -> Sampler {
    Sampler::NAMED.into_iter().find(|(known, _)| *known == name).unwrap().1
}

/// The pipeline call's keyword arguments.
#[derive(Clone, Deserialize)]
pub struct Arguments {
    pub prompt: OneOrMany,
    pub negative_prompt: Option<OneOrMany>,
    #[serde(default)]
    pub true_cfg_scale: f64,
    #[serde(default)]
    pub guidance_scale: f64,
    #[serde(default)]
    pub height: usize,
    #[serde(default)]
    pub width: usize,
    pub num_inference_steps: usize,
    pub max_sequence_length: Option<usize>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn get(&self, i: usize) -> String {
        match self {
            OneOrMany::One(text) => text.clone(),
            OneOrMany::Many(texts) => texts[i].clone(),
        }
    }
}

impl Golden {
    /// Opens the recorded cases whose names start with `prefix`, from the manifest in `folder`. There must be at least
    /// one.
    pub fn all(folder: PathBuf, prefix: &str) -> Vec<Golden> {
        Golden::all_in(folder, "manifest.json", prefix)
    }

    /// Opens the cases like [`Golden::all`], from a manifest of another name.
    pub fn all_in(folder: PathBuf, manifest: &str, prefix: &str) -> Vec<Golden> {
        let manifest = std::fs::read(folder.join(manifest)).unwrap();
        let manifest: HashMap<String, serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
        // Beside the cases, the manifest holds versions and single values.
        let is_case = |(case, run): &(String, serde_json::Value)| case.starts_with(prefix) && run.get("kw").is_some();
        let mut cases: Vec<_> = manifest.into_iter().filter(is_case).collect();
        assert!(!cases.is_empty(), "no case `{prefix}…` in {}", folder.display());
        cases.sort_by(|a, b| a.0.cmp(&b.0));
        let open = |(case, run): (String, serde_json::Value)| {
            let tensors =
                candle_core::safetensors::load(folder.join(format!("{case}.safetensors")), &Device::Cpu).unwrap();
            Golden { run: serde_json::from_value(run).unwrap(), tensors, case }
        };
        cases.into_iter().map(open).collect()
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.case))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns the number of pictures in the batch.
    pub fn batch_size(&self) -> usize {
        self.tensor("latents.init").dim(0).unwrap()
    }

    /// Compares `ours` with row `row` of the recorded `name`, cut to our number of tokens. The recorded tokens after
    /// these are the padding of a shorter prompt, which a ragged batch does not have.
    #[track_caller]
    pub fn check(&self, name: &str, row: usize, ours: &Tensor, tolerance: f64) {
        let theirs = self.tensor(name).get(row).unwrap();
        let theirs = theirs.narrow(0, 0, ours.dim(0).unwrap()).unwrap();
        close(&format!("{} {name}[{row}]", self.case), ours, &theirs, tolerance);
    }

    /// Checks that every byte of picture `i` is within 1 of diffusers' picture.
    #[track_caller]
    pub fn check_picture(&self, i: usize, ours: &[u8]) {
        let theirs = self.tensor("image.u8").get(i).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let moved = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        println!("{} picture {i}: {moved} of {} bytes differ, by at most {worst}", self.case, theirs.len());
        assert!(worst <= 1, "{} picture {i}: a byte differs by {worst}", self.case);
    }
}

/// Copies the checkpoint in `folder` with changes to its JSON files: (file, key, value).
pub fn changed_checkpoint(folder: &Path, changes: &[(&str, &str, Value)]) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    for (file, key, value) in changes {
        let path = copy.path().join(file);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json[*key] = value.clone();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, json.to_string()).unwrap();
    }
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy_folder(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// Loads the pictures that a recorded run edited, from the checkpoint in `folder`.
pub fn input_images(folder: &Path, golden: &Golden) -> Arc<[InputImage]> {
    let open = |name: &String| {
        let image = image::open(folder.join(format!("input_{name}.png"))).unwrap().into_rgb8();
        let size = ImageSize { width: image.width() as usize, height: image.height() as usize };
        InputImage::new(RgbImage { size, pixels: image.into_raw() })
    };
    golden.run.images.iter().map(open).collect()
}

/// Builds the request of picture `i` of the recorded run, as a server would: missing settings are the model's defaults.
pub fn request(card: &ModelCard, folder: &Path, golden: &Golden, i: usize) -> ImageRequest {
    let kw = &golden.run.kw;
    let draft = RequestDraft {
        prompt: kw.prompt.get(i),
        negative_prompt: kw.negative_prompt.as_ref().map(|negative| negative.get(i)),
        input_images: input_images(folder, golden),
        size: (kw.width > 0).then_some(ImageSize { width: kw.width, height: kw.height }),
        num_inference_steps: Some(kw.num_inference_steps as i64),
        guidance_scale: (kw.guidance_scale > 0.0).then_some(kw.guidance_scale),
        true_cfg_scale: (kw.true_cfg_scale > 0.0).then_some(kw.true_cfg_scale),
        seed: Some(golden.run.seed as i64),
        ..RequestDraft::default()
    };
    draft.build(card, &Limits::default(), || 0).unwrap().remove(0)
}

/// Replays a whole recorded run from its own noise, and checks the sigmas, the latents after each step within
/// `tolerance`, and the pictures.
pub fn play<F: Family>(pipeline: &mut DiffusionPipeline<F>, folder: &Path, golden: &Golden, tolerance: f64) {
    for (i, state) in play_latents(pipeline, folder, golden, tolerance).into_iter().enumerate() {
        golden.check_picture(i, &pipeline.decode(state, &Interrupt::default()).unwrap().pixels);
    }
}

/// Replays a run like [`play`] without decoding, and returns the states after the last step.
pub fn play_latents<F: Family>(
    pipeline: &mut DiffusionPipeline<F>,
    folder: &Path,
    golden: &Golden,
    tolerance: f64,
) -> Vec<RequestState> {
    let initial = golden.tensor("latents.init");
    let states = (0..golden.batch_size()).map(|i| {
        let request = request(pipeline.card(), folder, golden, i);
        let state = pipeline.prepare(&request, &Interrupt::default()).unwrap();
        if golden.batch_size() == 1 {
            golden.check("latents.init", 0, state.latents(), 1e-6);
        }
        state.with_latents(initial.get(i).unwrap())
    });
    let mut states: Vec<_> = states.collect();
    let sigmas = Tensor::new(states[0].sigmas().as_slice(), &Device::Cpu).unwrap();
    close(&format!("{} sigmas", golden.case), &sigmas, golden.tensor("sched.sigmas"), 1e-6);
    for step in 0..golden.run.kw.num_inference_steps {
        pipeline.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default()).unwrap();
        for (i, state) in states.iter().enumerate() {
            golden.check(&format!("step.{step}.latents"), i, state.latents(), tolerance);
        }
    }
    states
}

/// Asserts that the largest difference is at most `tolerance` of the largest value, and prints it.
#[track_caller]
pub fn close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}: shapes");
    let max =
        |t: Tensor| f64::from(t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap());
    let (ours, theirs) = (ours.to_dtype(DType::F32).unwrap(), theirs.to_dtype(DType::F32).unwrap());
    let error = max((&ours - &theirs).unwrap()) / max(theirs).max(f64::MIN_POSITIVE);
    println!("{what}: error {error:.1e} of the largest value, at most {tolerance:.0e}");
    assert!(error <= tolerance, "{what}: error {error:.3e} is over {tolerance:.0e}");
}
