//! Where the goldens are, and how two tensors are compared.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

/// The folder of the goldens: `LATENTD_GOLDENS`, or the one beside this file.
pub fn goldens() -> PathBuf {
    match std::env::var_os("LATENTD_GOLDENS") {
        Some(folder) => folder.into(),
        None => committed_goldens(),
    }
}

/// The goldens in the repository, whatever `LATENTD_GOLDENS` says: for those of the built-in model.
pub fn committed_goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

/// One recorded run of a diffusers pipeline.
pub struct Golden {
    pub case: String,
    pub run: Run,
    tensors: HashMap<String, Tensor>,
}

/// What the run was asked for.
#[derive(Clone, Deserialize)]
pub struct Run {
    pub kw: Arguments,
    pub seed: u64,
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
    /// The recorded cases whose names start with `prefix`, from the manifest in `folder`; at least one.
    pub fn all(folder: PathBuf, prefix: &str) -> Vec<Golden> {
        Golden::all_in(folder, "manifest.json", prefix)
    }

    /// The same from a manifest of another name.
    pub fn all_in(folder: PathBuf, manifest: &str, prefix: &str) -> Vec<Golden> {
        let manifest = std::fs::read(folder.join(manifest)).unwrap();
        let manifest: HashMap<String, serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
        // Beside the cases, the manifest holds versions and single figures.
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

    /// Pictures in the batch.
    pub fn batch_size(&self) -> usize {
        self.tensor("latents.init").dim(0).unwrap()
    }

    /// Compares with row `row` of the recorded `name`, its tokens cut to as many as ours: those
    /// behind are the padding of a shorter prompt, which a ragged batch does not have.
    #[track_caller]
    pub fn check(&self, name: &str, row: usize, ours: &Tensor, tolerance: f64) {
        let theirs = self.tensor(name).get(row).unwrap();
        let theirs = theirs.narrow(0, 0, ours.dim(0).unwrap()).unwrap();
        close(&format!("{} {name}[{row}]", self.case), ours, &theirs, tolerance);
    }

    /// Every byte of picture `i` within 1 of diffusers' own.
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
