//! Weights in host memory: the same pictures, by less of the device's memory, with no more asked of the driver than copies.

use std::process::Command;

use latentd::{DtypeName, OffloadName, Omni, OmniInput, open_pictures};
use models::Placement;

use crate::counts::{are_counted, bytes_held, most_bytes_held, of_step_by, told};
use crate::pictures::{BY_DIFFERENCE, EVERY_SECOND, with_guidance};
use crate::runs::{GPU, MODELS, alone, builder, checkpoint, one_row, picture};

const OFFLOADED: [OffloadName; 2] = [OffloadName::Encoder, OffloadName::Block];

fn load(model: &str, offload: OffloadName, cache: Option<&str>) -> Omni {
    builder(model, GPU, DtypeName::Bf16, cache).offload(offload).build().unwrap()
}

/// A model, its cache, and what is offloaded: an encoder's pictures are those of all steps.
const CASES: [(&str, Option<&str>, &[OffloadName]); 5] = [
    ("qwen-image", None, &OFFLOADED),
    ("qwen-image", Some(EVERY_SECOND), &[OffloadName::Block]),
    ("qwen-image", Some(BY_DIFFERENCE), &[OffloadName::Block]),
    ("flux2-klein", None, &[OffloadName::Block]),
    ("flux2-klein", Some(EVERY_SECOND), &[OffloadName::Block]),
];

#[test]
fn pictures_do_not_depend_on_where_weights_are() {
    let _alone = alone();
    for (model, cache, offloaded) in CASES {
        let whole = picture(&mut load(model, OffloadName::None, cache), one_row(6));
        for &offload in offloaded {
            let mut omni = load(model, offload, cache);
            // The second finds other layers in the places than the first.
            for _ in 0..2 {
                assert_eq!(picture(&mut omni, one_row(6)), whole, "{model} {offload} {cache:?}");
            }
        }
    }
    let guided = |offload| picture(&mut load("qwen-image", offload, None), with_guidance());
    assert_eq!(guided(OffloadName::Block), guided(OffloadName::None), "two rows a step");
}

/// The vision tower is streamed too.
#[test]
fn edits_do_not_depend_on_where_weights_are() {
    let _alone = alone();
    // A copy that sees and edits small pictures: the emulator is slow.
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint("qwen-image-edit-plus");
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    std::fs::write(folder.path().join("latentd.json"), r#"{"edit_area": 1024, "condition_area": 3136}"#).unwrap();
    let edit = |offload| {
        let pictures = open_pictures(&[format!("{model}/input_a.png")], None).unwrap();
        let input = OmniInput { prompt: "make it night".into(), pictures };
        let builder =
            builder("qwen-image-edit-plus", GPU, DtypeName::Bf16, None).model(folder.path().to_str().unwrap());
        let mut omni = builder.offload(offload).build().unwrap();
        omni.generate(input, one_row(2)).unwrap()[0].image.clone()
    };
    assert_eq!(edit(OffloadName::Block), edit(OffloadName::None));
}

#[test]
fn memory_that_cannot_be_locked_will_do() {
    let Some(program) = std::env::var_os("LATENTD") else { return println!("skipped: LATENTD names no program") };
    let folder = tempfile::tempdir().unwrap();
    let made = |offload: &str, pinned: &str| {
        let path = folder.path().join(format!("{offload}-{pinned}.png"));
        let mut command = Command::new(&program);
        command.args(["generate", "a fox", "--model", &checkpoint("qwen-image"), "--size", "32x32", "--seed", "7"]);
        command.args(["--num-inference-steps", "2", "--device", "cuda", "--offload", offload, "-o"]).arg(&path);
        let output = command.env("EMULATOR_PINNED", pinned).env_remove("EMULATOR_COUNTS").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (std::fs::read(path).unwrap(), said)
    };
    let (whole, _) = made("none", "1");
    for (pinned, is_slow) in [("1", false), ("0", true)] {
        let (picture, said) = made("block", pinned);
        assert!(picture == whole, "locked: {pinned}");
        assert_eq!(said.contains("these layers come slowly"), is_slow, "{said}");
        assert!(said.contains("text encoder") && said.contains("on the host"), "{said}");
    }
}

/// What a model holds: at most while it is loaded, once a picture was made, and at most beside that for the next.
struct Held {
    loading: u64,
    resting: u64,
    picture: u64,
    plan: Placement,
}

fn held(model: &str, offload: OffloadName) -> Held {
    let mut loaded = None;
    let loading = most_bytes_held(|| loaded = Some(load(model, offload, None)));
    let mut omni = loaded.unwrap();
    picture(&mut omni, one_row(2));
    let resting = bytes_held();
    let most = most_bytes_held(|| drop(picture(&mut omni, one_row(2))));
    Held { loading, resting, picture: most, plan: omni.placement().clone() }
}

#[test]
fn the_device_holds_what_the_plan_says() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    for model in MODELS {
        // cuBLASLt's workspace is held from the first product on, until the next model has one.
        held(model, OffloadName::None);
        let whole = held(model, OffloadName::None);
        for offload in OFFLOADED {
            let less = held(model, offload);
            let saved = whole.plan.device_bytes() - less.plan.device_bytes();
            println!("{model} {offload}: loading {} {}, saved {saved}", whole.loading, less.loading);
            assert!(saved > 0 && less.plan.host_bytes() >= saved, "{model} {offload}: {}", less.plan);
            assert_eq!(whole.resting - less.resting, saved, "{model} {offload}");
            assert_eq!(whole.picture, less.picture, "{model} {offload}");
            // A layer is on the device before it is moved.
            assert!(less.loading <= whole.loading, "{model} {offload}");
        }
    }
}

#[test]
fn a_step_copies_weights_and_asks_for_nothing_else() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    for model in MODELS {
        let of = |offload| of_step_by(|_| load(model, offload, None));
        let (whole, streamed) = (of(OffloadName::None), of(OffloadName::Block));
        println!("counts: {model}, bf16, one row, streamed step: {}", told(&streamed));
        for (name, count) in &whole {
            let may_grow = ["copies to the device", "events"].contains(&&**name);
            assert!(may_grow || streamed[name] == *count, "{model}: {name}");
        }
        assert!(streamed["copies to the device"] > whole["copies to the device"], "{model}");
    }
}
