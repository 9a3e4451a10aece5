//! A program with CUDA on machines that lack something. It prints one line without a backtrace, and uses the CPU unless
//! a GPU was requested.

use std::process::{Command, Output};

use crate::runs::checkpoint;

/// Runs the program that `LATENTD` names to make a picture with the tiny Qwen-Image. `emulated` keeps the emulator in
/// its library path.
fn generate(arguments: &[&str], emulated: bool, variables: &[(&str, &str)]) -> Option<Output> {
    let Some(program) = std::env::var_os("LATENTD") else {
        println!("skipped: LATENTD names no program");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["generate", "a fox", "--model", &checkpoint("qwen-image"), "--num-inference-steps", "1"]);
    command.args(["--size", "32x32"]).arg("-o").arg(folder.path().join("fox.png")).args(arguments);
    command.env("RUST_BACKTRACE", "1").env_remove("EMULATOR_COUNTS");
    if !emulated {
        command.env_remove("LD_LIBRARY_PATH");
    }
    Some(command.envs(variables.iter().copied()).output().unwrap())
}

/// The message on stderr, which must be a single line with exit code 1.
#[track_caller]
fn refusal(arguments: &[&str], emulated: bool, variables: &[(&str, &str)]) -> Option<String> {
    let output = generate(arguments, emulated, variables)?;
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    Some(message)
}

#[track_caller]
fn is_refused(device: &str, emulated: bool, variables: &[(&str, &str)], words: &[&str]) {
    let Some(message) = refusal(&["--device", device], emulated, variables) else { return };
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn without_a_driver_a_gpu_is_refused() {
    is_refused("cuda", false, &[], &["`--device cuda:0`", "no NVIDIA driver", "libcuda.so.1"]);
}

#[test]
fn without_a_driver_auto_and_cpu_are_the_cpu() {
    for device in ["auto", "cpu"] {
        let Some(output) = generate(&["--device", device], false, &[]) else { return };
        assert!(output.status.success(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn without_cublas_a_gpu_is_refused() {
    let Some(all) = std::env::var_os("LD_LIBRARY_PATH") else { return println!("skipped: no LD_LIBRARY_PATH") };
    let driver = std::env::split_paths(&all).map(|folder| folder.join("libcuda.so.1")).find(|path| path.exists());
    let Some(driver) = driver else { return println!("skipped: the driver is not the emulator") };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(driver.canonicalize().unwrap(), folder.path().join("libcuda.so.1")).unwrap();
    let only = [("LD_LIBRARY_PATH", folder.path().to_str().unwrap())];
    is_refused("cuda", true, &only, &["libcublas.so", "LD_LIBRARY_PATH"]);
}

#[test]
fn a_gpu_that_is_not_there_is_refused() {
    is_refused("cuda:99", true, &[("EMULATOR_GPUS", "2")], &["`--device cuda:99`", "there are 2, cuda:0 to cuda:1"]);
    is_refused("cuda:1", true, &[("EMULATOR_GPUS", "1")], &["there is 1, cuda:0"]);
    is_refused("cuda", true, &[("EMULATOR_GPUS", "0")], &["there is none"]);
}

#[test]
fn a_gpu_that_is_too_old_is_refused() {
    is_refused("cuda", true, &[("EMULATOR_CAPABILITY", "75")], &["capability 7.5", "8.0 (Ampere)"]);
}

#[test]
fn a_gpu_without_eight_bit_floats_is_told_from_one_that_has_them() {
    let with_fp8 = ["--device", "cuda", "--quantization", "fp8"];
    let Some(output) = generate(&with_fp8, true, &[("EMULATOR_CAPABILITY", "86")]) else { return };
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
    for words in ["`--quantization fp8` needs", "8.9 (Ada)", "has 8.6"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    // On Ada a kernel applies the scales of rows and outputs.
    for capability in ["89", "90"] {
        let Some(output) = generate(&with_fp8, true, &[("EMULATOR_CAPABILITY", capability)]) else { return };
        assert!(output.status.success(), "{capability}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_gpu_with_too_little_memory_is_refused() {
    // Reported before anything is loaded. The tiny model takes less if the blocks are not on the GPU.
    is_refused("cuda", true, &[("EMULATOR_MEMORY", "100000")], &["of its memory are needed", "97.7 KiB are free"]);
}

#[test]
fn what_has_no_gpu_offloads_nothing() {
    for (device, words) in [("cpu", "`--offload block` is for a GPU"), ("auto", "take it away, or set `--device cuda`")]
    {
        let Some(output) = generate(&["--device", device, "--offload", "block"], false, &[]) else { return };
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn an_attention_that_there_is_not_is_refused() {
    let Some(output) = generate(&["--device", "cuda"], true, &[("LATENTD_CUDA_ATTENTION", "flash")]) else { return };
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
    assert!(message.contains("LATENTD_CUDA_ATTENTION") && message.contains("Given: flash"), "{message}");
}

#[test]
fn a_gpu_is_one_workers() {
    let Some(program) = std::env::var_os("LATENTD") else { return println!("skipped: LATENTD names no program") };
    let mut command = Command::new(program);
    command.args(["serve", &checkpoint("qwen-image"), "--device", "cuda:1,cuda:1", "--port", "0"]);
    let output = command.env("EMULATOR_GPUS", "2").env_remove("EMULATOR_COUNTS").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
    assert!(message.contains("`--device`: cuda:1 is named twice"), "{message}");
}
