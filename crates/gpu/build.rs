//! With the feature `cuda`, generates a function for every name that CUDA's headers declare. The function looks itself
//! up in its library at its first call. A program linked with these functions needs no CUDA library to be built or to
//! start.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A library that a program with CUDA is linked with.
struct Library {
    name: &'static str,
    /// The headers that declare its functions, including those that only some toolkits have.
    headers: &'static [&'static str],
    /// The prefixes of its functions, before a capital letter.
    prefixes: &'static [&'static str],
    /// The name that a loader searches for. `{}` is the toolkit's major version.
    soname: &'static str,
    /// The status of a function if the library is missing: the library's code for "stub library" or "not initialized".
    absent: i32,
}

const LIBRARIES: [Library; 6] = [
    Library {
        name: "cuda",
        headers: &["cuda.h", "cudaProfiler.h"],
        prefixes: &["cu"],
        soname: "libcuda.so.1",
        absent: 34,
    },
    Library {
        name: "cudart",
        headers: &["cuda_runtime_api.h", "crt/host_runtime.h", "crt/device_functions.h"],
        prefixes: &["cuda", "__cuda"],
        soname: "libcudart.so.{}",
        absent: 34,
    },
    Library {
        name: "cublas",
        headers: &["cublas_api.h", "cublas_v2.h"],
        prefixes: &["cublas"],
        soname: "libcublas.so.{}",
        absent: 1,
    },
    Library {
        name: "cublasLt",
        headers: &["cublasLt.h"],
        prefixes: &["cublasLt"],
        soname: "libcublasLt.so.{}",
        absent: 1,
    },
    Library { name: "curand", headers: &["curand.h"], prefixes: &["curand"], soname: "libcurand.so.10", absent: 101 },
    Library { name: "nvrtc", headers: &["nvrtc.h"], prefixes: &["nvrtc"], soname: "libnvrtc.so.{}", absent: 7 },
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(lazy_libraries)");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|set| set == value);
    let is_known = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ARCH", "x86_64");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() || !is_known {
        return;
    }
    println!("cargo:rustc-cfg=lazy_libraries");
    let headers = headers();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    write(&out.join("libraries.rs"), generated(&headers).as_bytes());
    // The linker searches for the libraries by name. All of their functions are defined by then, so empty archives
    // suffice.
    for library in &LIBRARIES {
        write(&out.join(format!("lib{}.a", library.name)), b"!<arch>\n");
    }
    println!("cargo:rustc-link-search=native={}", out.display());
}

/// The folder of the toolkit's headers.
fn headers() -> PathBuf {
    const VARIABLES: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];
    VARIABLES.iter().for_each(|variable| println!("cargo:rerun-if-env-changed={variable}"));
    let named = VARIABLES.into_iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr"].map(PathBuf::from);
    let mut folders = named.chain(usual).map(|root| root.join("include"));
    folders.find(|folder| folder.join("cuda.h").exists()).expect("CUDA_HOME names no folder with include/cuda.h")
}

/// The Rust source of the table and of the functions.
fn generated(headers: &Path) -> String {
    let version = number_after("#define CUDA_VERSION ", &read(&headers.join("cuda.h")));
    let mut tables = String::new();
    let (mut slots, mut code) = (String::new(), String::new());
    let (mut count, mut names) = (0, String::new());
    for library in &LIBRARIES {
        let functions = functions(library, headers);
        assert!(!functions.is_empty(), "{} declares nothing of {}", headers.display(), library.name);
        let soname = library.soname.replace("{}", &(version / 1000).to_string());
        let Library { name, absent, .. } = library;
        let end = count + functions.len();
        writeln!(tables, "    Library::new({name:?}, c{soname:?}, {count}..{end}, {absent}),").expect("a string");
        for function in functions {
            writeln!(names, "    c{function:?},").expect("a string");
            writeln!(slots, "    .quad .Lgpu_first_{count}").expect("a string");
            writeln!(
                code,
                ".globl {function}\n.type {function}, @function\n{function}: jmp qword ptr [rip + gpu_slots + {}]\n\
                 .Lgpu_first_{count}: mov r11d, {count}\n    jmp gpu_first_call",
                8 * count
            )
            .expect("a string");
            count += 1;
        }
    }
    format!(
        "pub(super) static LIBRARIES: [Library; {}] = [\n{tables}];\n\
         static NAMES: [&CStr; {count}] = [\n{names}];\n\
         std::arch::global_asm!(r#\"\n.data\n.balign 8\n.globl gpu_slots\n.hidden gpu_slots\ngpu_slots:\n{slots}.text\n{code}\"#);\n",
        LIBRARIES.len()
    )
}

/// The names that a library's headers declare, and the unversioned names of their versions.
fn functions(library: &Library, headers: &Path) -> BTreeSet<String> {
    let texts = library.headers.iter().map(|name| headers.join(name)).filter(|path| path.exists());
    let text: String = texts.map(|path| read(&path)).collect();
    let mut found = BTreeSet::new();
    for (start, _) in text.match_indices(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text[..start].ends_with(is_part) {
            continue;
        }
        let rest = &text[start..];
        let (word, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let begins = |prefix: &str| {
            word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
        };
        // `name(`, `__CUDA_API_PTSZ(name)`, or the end of a `#define`.
        let is_declared = after.trim_start_matches(' ').starts_with(['(', ')', '\n', '\r']);
        if library.prefixes.iter().any(|prefix| begins(prefix)) && is_declared && !word.ends_with("_t") {
            // The variant for a per-thread default stream.
            let suffix = match text[..start].strip_suffix('(') {
                Some(before) if before.ends_with("_PTSZ") => "_ptsz",
                Some(before) if before.ends_with("_PTDS") => "_ptds",
                _ => "",
            };
            found.insert(format!("{word}{suffix}"));
            found.insert(word.to_owned());
        }
    }
    // Names of cuBLASLt also have the prefix of cuBLAS.
    found.retain(|name| library.name != "cublas" || !name.starts_with("cublasLt"));
    found
}

fn number_after(label: &str, text: &str) -> usize {
    let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("cuda.h has no `{label}`"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("`{label}` is followed by no number"))
}

fn read(path: &Path) -> String {
    println!("cargo:rerun-if-changed={}", path.display());
    let bytes = fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write(path: &Path, contents: &[u8]) {
    fs::write(path, contents).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
}
