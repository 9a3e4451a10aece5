//! `latentd generate`: pictures, and one-line errors for invalid requests.

use std::fs;
use std::path::Path;

use crate::binary::{folder, latentd, run, stderr};

#[test]
fn a_prompt_makes_a_picture_and_a_seed_makes_it_again() {
    let folder = folder();
    let generate = |name: &str, seed: &str| {
        let path = folder.path().join(name);
        let mut command = latentd();
        command.args(["generate", "a fox on a green background", "--num-inference-steps", "4", "--seed", seed, "-o"]);
        let output = run(command.arg(&path));
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("No model was named"), "the banner");
        assert!(stderr(&output).contains("denoise"), "the line of timings");
        fs::read(path).unwrap()
    };
    let first = generate("first.png", "3");
    assert_eq!(image_size(&first), (128, 128));
    assert_eq!(first, generate("again.png", "3"));
    assert_ne!(first, generate("other.png", "4"));
}

#[test]
fn each_sampler_makes_its_picture_and_few_steps_are_told() {
    let folder = folder();
    let generate = |sampler: &str, steps: &str| {
        let path = folder.path().join("fox.png");
        let mut command = latentd();
        command.args(["generate", "a fox on a green background", "--seed", "3", "--sampler", sampler]);
        let output = run(command.args(["--num-inference-steps", steps, "-o"]).arg(&path));
        assert!(output.status.success(), "{}", stderr(&output));
        (fs::read(path).unwrap(), stderr(&output))
    };
    let all = ["euler", "heun", "dpmpp_2m", "unipc"].map(|sampler| generate(sampler, "5"));
    for (i, (picture, told)) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|(other, _)| other != picture) && !told.contains("note: "), "{told}");
        assert!(told.contains(if i == 1 { "(9 steps" } else { "(5 steps" }), "{told}");
    }
    let (_, told) = generate("dpmpp_2m", "3");
    assert!(told.contains("note: `sampler` has no effect: dpmpp_2m is another than euler from 4 steps on."), "{told}");
}

/// Width and height of a PNG, from its header.
fn image_size(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[1..4], b"PNG");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn several_pictures_count_their_names_and_seeds_up() {
    let folder = folder();
    let mut command = latentd();
    command.args(["generate", "--prompt", "a cat", "--num_inference_steps=2", "--seed", "7", "-n", "2"]);
    let output = run(command.args(["--size", "100x60", "-o"]).arg(folder.path().join("cat.png")));
    assert!(output.status.success(), "{}", stderr(&output));
    let listed = String::from_utf8(output.stdout).unwrap();
    for (name, seed) in [("cat.png", "seed 7"), ("cat-2.png", "seed 8")] {
        assert!(listed.lines().any(|line| line.contains(name) && line.contains(seed)), "{listed}");
        assert_eq!(image_size(&fs::read(folder.path().join(name)).unwrap()), (100, 60));
    }
}

/// The program's error for `arguments`. Asserts one line, exit code 2 and no backtrace.
#[track_caller]
fn complaint(arguments: &[&str]) -> String {
    let output = run(latentd().args(["generate", "a cat", "-o", "/dev/null/x.png"]).args(arguments));
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    let errors: Vec<_> = message.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: {message}");
    assert!(!message.contains("panicked") && !message.contains("backtrace"), "{message}");
    errors[0].to_owned()
}

#[test]
fn bad_numbers_name_the_field_the_bound_and_the_value() {
    let folder = folder();
    let path = folder.path().join("x.png");
    let path = path.to_str().unwrap();
    for (arguments, message) in [
        (&["--num-inference-steps", "0"][..], "`num_inference_steps` must be between 1 and 1000. Given: 0"),
        (&["--num-inference-steps", "1001"], "`num_inference_steps` must be between 1 and 1000. Given: 1001"),
        (&["--seed", "-2"], "`seed` must be between -1 and 9223372036854775807. Given: -2"),
        (&["-n", "0"], "`n` must be between 1 and 10. Given: 0"),
        (&["-n", "11"], "`n` must be between 1 and 10. Given: 11"),
        (&["--size", "large"], "`size` must be WIDTHxHEIGHT in pixels, such as 1024x1024. Given: \"large\""),
        (&["--size", "0x64"], "`size` must have sides of at least 1 pixel. Given: \"0x64\""),
        (&["--prompt="], "`prompt` must not be empty. Given: \"\""),
        (&["--true-cfg-scale", "-1"], "`true_cfg_scale` must be between 0 and 20. Given: -1"),
    ] {
        let mut command = latentd();
        command.args(["generate", "-o", path]);
        if !arguments[0].starts_with("--prompt") {
            command.arg("a cat");
        }
        let output = run(command.args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).lines().any(|line| line == format!("error: {message}")), "{}", stderr(&output));
    }
    assert!(!Path::new(path).exists());
}

#[test]
fn a_prompt_over_the_token_limit_is_refused() {
    let folder = folder();
    let prompt = "fox ".repeat(3000);
    let output = run(latentd().args(["generate", &prompt, "-o"]).arg(folder.path().join("x.png")));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("error: `prompt` must have at most 1019 tokens. Given: "), "{}", stderr(&output));
}

#[test]
fn bad_outputs_and_models_are_refused_before_any_work() {
    assert!(complaint(&[]).contains("there is no folder `/dev/null`"));
    let output = run(latentd().args(["generate", "a cat", "-o", "cat.bmp"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`--output` must end in .png, .jpg or .webp. Given: cat.bmp"));

    let folder = folder();
    let picture = folder.path().join("x.png");
    let complaint = |model: &Path| {
        let output = run(latentd().args(["generate", "a cat", "-o"]).arg(&picture).arg("--model").arg(model));
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(complaint(Path::new("./no-such-folder")).contains("error: no such folder: `./no-such-folder`"));

    let model = folder.path().join("model");
    write_builtin(&model);
    let vae = model.join("vae/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&vae).unwrap();
    fs::write(&vae, &whole[..whole.len() / 2]).unwrap();
    assert!(complaint(&model).contains("`vae/diffusion_pytorch_model.safetensors` is damaged or incomplete"));
    fs::remove_file(&vae).unwrap();
    assert!(complaint(&model).contains("`vae/*.safetensors` is missing in"));
    fs::write(model.join("model_index.json"), r#"{"_class_name": "LuminaPipeline"}"#).unwrap();
    assert!(complaint(&model).contains("names the class `LuminaPipeline`; supported: QwenImagePipeline"));
}

#[test]
fn a_folder_is_the_same_model_in_half_the_memory_too() {
    let folder = folder();
    let model = folder.path().join("model");
    write_builtin(&model);
    let generate = |name: &str, arguments: &[&str], instruction_set: &str| {
        let path = folder.path().join(name);
        let mut command = latentd();
        command
            .env("LATENTD_CPU", instruction_set)
            .args(["generate", "a dog", "--num-inference-steps", "2", "--seed", "1", "-o"])
            .arg(&path)
            .args(arguments);
        let output = run(&mut command);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(path).unwrap()
    };
    let folder_argument = model.to_str().unwrap();
    let is_the_same = |arguments: &[&str], instruction_set: &str| {
        generate("builtin.png", &[], instruction_set) == generate("folder.png", arguments, instruction_set)
    };
    assert!(is_the_same(&["--model", folder_argument], "auto"));
    // The built-in weights are bf16, so `--dtype bf16` changes no weight. With f32 products the picture is the same.
    assert!(is_the_same(&["--model", folder_argument, "--dtype", "bf16"], "reference"));
}

/// Writes the built-in model to a folder.
pub fn write_builtin(folder: &Path) {
    for file in demo::FILES {
        let path = folder.join(file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file.bytes).unwrap();
    }
}
