//! Compiles the CUDA kernels if the feature `cuda` is on. Nothing else needs a toolkit.
//!
//! `CUDA_HOME` is the folder of the toolkit, `/usr/local/cuda` by default. `LATENTD_CUDA_ARCHS` names the architectures
//! to compile machine code for. For later ones the driver compiles the PTX that is stored along with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ampere, and Hopper with its architecture-specific instructions.
const ARCHS: &str = "80 90a";

fn main() {
    for path in ["build.rs", "cuda"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["CUDA_HOME", "LATENTD_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for module in sources() {
        let fatbin = out.join(module.with_extension("fatbin").file_name().unwrap_or_default());
        compile(&module, &fatbin);
    }
}

/// The `.cu` files, one module each.
fn sources() -> Vec<PathBuf> {
    let Ok(folder) = Path::new("cuda").read_dir() else { return Vec::new() };
    let files = folder.flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "cu")).collect()
}

fn compile(source: &Path, fatbin: &Path) {
    let home = PathBuf::from(env::var_os("CUDA_HOME").unwrap_or("/usr/local/cuda".into()));
    let archs = env::var("LATENTD_CUDA_ARCHS").unwrap_or(ARCHS.into());
    let mut nvcc = Command::new(home.join("bin/nvcc"));
    for arch in archs.split_whitespace() {
        nvcc.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    nvcc.args(["-gencode=arch=compute_80,code=compute_80", "-std=c++17", "-O3", "-lineinfo", "--fatbin", "-o"]);
    nvcc.arg(fatbin).arg(source);
    match nvcc.status() {
        Ok(status) => assert!(status.success(), "{nvcc:?} failed"),
        Err(err) => panic!("{nvcc:?}: {err}. CUDA_HOME must name a CUDA toolkit"),
    }
}
