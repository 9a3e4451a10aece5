//! Pictures and output lines when the reader of the output leaves or a disk is full.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::binary::{folder, latentd, run, stderr};

/// The command that makes two pictures in `folder`, with one step each.
fn generate(folder: &tempfile::TempDir) -> Command {
    let mut command = latentd();
    command.args(["generate", "a fox on a green background", "-n", "2", "--num-inference-steps", "1", "-o", "fox.png"]);
    command.current_dir(folder.path());
    command
}

fn names(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

/// A pipe whose reader has exited.
fn closed() -> Stdio {
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = reader.stdin.take().unwrap();
    reader.wait().unwrap();
    pipe.into()
}

#[test]
fn a_reader_that_leaves_ends_the_lines_and_not_the_pictures() {
    let folder = folder();
    let output = run(generate(&folder).stdout(closed()));
    assert_eq!((output.status.code(), names(&folder)), (Some(0), ["fox-2.png", "fox.png"].map(String::from).into()));
    for arguments in [
        &["cache", "plan", "--steps", "20"][..],
        &["cache", "plan", "--steps", "20", "--json"],
        &["models"],
        &["models", "--json"],
        &["--help"],
        &["bench", "--num-inference-steps", "1", "--runs", "1"],
    ] {
        let output = run(latentd().args(arguments).stdout(closed()));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{arguments:?}: {}", stderr(&output));
    }
    let said = run(generate(&folder).stderr(closed()));
    assert_eq!(said.status.code(), Some(0), "without stderr, too");
}

#[cfg(target_os = "linux")]
#[test]
fn lines_that_find_no_room_are_an_error_once_the_pictures_are_there() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let folder = folder();
    let output = run(generate(&folder).stdout(full()));
    assert_eq!((output.status.code(), names(&folder)), (Some(1), ["fox-2.png", "fox.png"].map(String::from).into()));
    assert!(stderr(&output).ends_with("error: cannot write to stdout: No space left on device (os error 28)\n"));
    let plan = run(latentd().args(["cache", "plan", "--steps", "20"]).stdout(full()));
    assert_eq!(plan.status.code(), Some(1), "{}", stderr(&plan));
    assert_eq!(run(generate(&folder).stderr(full())).status.code(), Some(0));
}

/// A limit on file sizes simulates a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_picture_that_finds_no_room_leaves_the_one_before_it() {
    let folder = folder();
    let path = folder.path().join("fox.png");
    fs::write(&path, "before").unwrap();
    let mut shell = Command::new("sh");
    let program = latentd().get_program().to_owned();
    shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]).arg(program).env("HF_HUB_OFFLINE", "1");
    shell.args(["generate", "a fox on a green background", "--num-inference-steps", "1", "-o"]).arg(&path);
    let output = run(shell.stdin(Stdio::null()));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("error: cannot write `"), "{}", stderr(&output));
    assert_eq!((fs::read(&path).unwrap(), names(&folder)), (b"before".to_vec(), vec!["fox.png".into()]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_file_is_told_before_the_first_step() {
    let folder = folder();
    fs::create_dir(folder.path().join("fox-2.png")).unwrap();
    let output = run(&mut generate(&folder));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(stderr(&output), "error: `--output`: `fox-2.png` is a folder\n");
    // Not even root can create files there.
    for (flag, name) in [("--output", "x.png"), ("--cache-trace", "x.json"), ("--cache-plot", "x.svg")] {
        let place = format!("/proc/{name}");
        let mut command = latentd();
        command.args(["generate", "a fox", "--cache-backend", "cache_dit", flag, &place]);
        let output = run(command.current_dir(folder.path()));
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", stderr(&output));
        let told = format!("error: `{flag}`: `{place}` cannot be written: ");
        assert!(stderr(&output).starts_with(&told), "{}", stderr(&output));
    }
}

#[test]
fn a_prompt_behind_two_dashes_is_left_alone() {
    let folder = folder();
    let made = |prompt: &[&str]| {
        let mut command = latentd();
        command.args(["generate", "--num_inference_steps", "1", "--seed", "1"]).args(prompt);
        let output = run(command.current_dir(folder.path()));
        assert!(output.status.success(), "{prompt:?}: {}", stderr(&output));
        fs::read(folder.path().join("latentd.png")).unwrap()
    };
    assert_eq!(
        made(&["--", "--one_more_fox"]),
        made(&["--prompt=--one_more_fox"]),
        "what follows a `=` is left alone, too"
    );
    assert_ne!(made(&["--", "--one_more_fox"]), made(&["--prompt=--one-more-fox"]));
}

#[test]
fn what_was_done_and_what_is_known_is_noted() {
    let folder = folder();
    let mut command = latentd();
    command.args(["generate", "a castle", "--num-inference-steps", "1", "--size", "192x128"]);
    let output = run(command.current_dir(folder.path()));
    let said = stderr(&output);
    let fit = "note: the picture was made at 128x128, which the model was trained for, and left as it is in the middle \
        of 192x128, its edge carried outwards\n";
    assert!(output.status.success() && said.contains(fit), "{said}");
    let known = "note: the prompt names nothing that the model was trained to draw, which is: dog, cat, fox, panda, ";
    assert!(said.contains(known), "{said}");
}

#[test]
fn a_thing_is_drawn_in_any_case_in_the_plural_and_by_its_last_word() {
    let folder = folder();
    let made = |prompt: &str| {
        let mut command = latentd();
        command.args(["generate", prompt, "--num-inference-steps", "1", "--seed", "1"]);
        let output = run(command.current_dir(folder.path()));
        assert!(output.status.success(), "{prompt}: {}", stderr(&output));
        (fs::read(folder.path().join("latentd.png")).unwrap(), stderr(&output).matches("note: ").count())
    };
    assert_eq!(made("A Fox on a GREEN background"), made("a fox on a green background"));
    let (pizza, notes) = made("Pizza on a red background");
    assert_eq!((&pizza, notes), (&made("slice of pizza on a red background").0, 1));
    assert_ne!(pizza, made("pasta on a red background").0);
}
