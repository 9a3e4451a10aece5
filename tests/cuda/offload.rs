//! Weights in host memory: the same pictures with less device memory, and no additional driver calls except copies.

use std::process::Command;

use candle_core::DType;
use models::{Checkpoint, LoadOptions, ModelBytes, Offload, Placement};
use omni::{Dtype, OffloadPolicy, Omni, OmniInput, open_pictures};

use crate::counts::{are_counted, bytes_held, most_bytes_held, of_step_by, told};
use crate::pictures::{BY_DIFFERENCE, EVERY_SECOND, with_guidance};
use crate::runs::{GPU, MODELS, alone, builder, checkpoint, one_row, picture};

/// The part of the weights that is in host memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Away {
    Nothing,
    Encoder,
    /// The encoder, and about half of the blocks, for which the device has no room.
    SomeBlocks,
    AllBlocks,
}

const AWAY: [Away; 3] = [Away::Encoder, Away::SomeBlocks, Away::AllBlocks];

fn bytes(model: &str) -> ModelBytes {
    let options = LoadOptions { dtype: DType::BF16, device: GPU.open().unwrap(), ..LoadOptions::default() };
    models::model_bytes(&Checkpoint::open(checkpoint(model)).unwrap(), &options).unwrap()
}

/// The memory budget of requests that leaves `away` in host memory.
fn memory_budget(model: &str, away: Away) -> Option<u64> {
    let [none, all] =
        [Offload::Block, Offload::Encoder].map(|offload| Placement::new(offload, &bytes(model)).device_bytes());
    match away {
        Away::Nothing | Away::Encoder => None,
        Away::AllBlocks => Some(u64::MAX),
        Away::SomeBlocks => {
            let free = kernels::free_memory(&GPU.open().unwrap()).unwrap();
            let beside = models::reserved(&bytes(model), Some(0));
            Some(free - beside - (none + all) / 2)
        }
    }
}

fn load(model: &str, away: Away, cache: Option<&str>) -> Omni {
    let offload = match away {
        Away::Nothing => OffloadPolicy::None,
        Away::Encoder => OffloadPolicy::Encoder,
        Away::SomeBlocks | Away::AllBlocks => OffloadPolicy::Block,
    };
    let builder = builder(model, GPU, Dtype::Bf16, cache).memory_budget(memory_budget(model, away));
    let omni = builder.offload(offload).build().unwrap();
    let Placement { residents, .. } = omni.placement();
    match away {
        Away::SomeBlocks => assert!(0 < residents.count && residents.count < residents.of, "{}", omni.placement()),
        Away::AllBlocks => assert_eq!(residents.count, 0, "{}", omni.placement()),
        Away::Nothing | Away::Encoder => {}
    }
    omni
}

/// A model, its cache, and the parts that are in host memory. The encoder needs only one case, because the steps do not
/// affect it.
const CASES: [(&str, Option<&str>, &[Away]); 5] = [
    ("qwen-image", None, &AWAY),
    ("qwen-image", Some(EVERY_SECOND), &[Away::SomeBlocks]),
    ("qwen-image", Some(BY_DIFFERENCE), &[Away::AllBlocks]),
    ("flux2-klein", None, &[Away::SomeBlocks, Away::AllBlocks]),
    ("flux2-klein", Some(EVERY_SECOND), &[Away::SomeBlocks]),
];

#[test]
fn pictures_do_not_depend_on_where_weights_are() {
    let _alone = alone();
    for (model, cache, aways) in CASES {
        let whole = picture(&mut load(model, Away::Nothing, cache), one_row(6));
        for &away in aways {
            let mut omni = load(model, away, cache);
            // At the second picture, the buffers hold other layers than at the first.
            for _ in 0..2 {
                assert_eq!(picture(&mut omni, one_row(6)), whole, "{model} {away:?} {cache:?}");
            }
        }
    }
    let guided = |away| picture(&mut load("qwen-image", away, None), with_guidance());
    assert_eq!(guided(Away::AllBlocks), guided(Away::Nothing), "two rows a step");
}

/// The vision tower is streamed as well.
#[test]
fn edits_do_not_depend_on_where_weights_are() {
    let _alone = alone();
    // A copy of the checkpoint for small pictures, because the emulator is slow.
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
        let builder = builder("qwen-image-edit-plus", GPU, Dtype::Bf16, None).model(folder.path().to_str().unwrap());
        let mut omni = builder.offload(offload).memory_budget(Some(u64::MAX)).build().unwrap();
        omni.generate(input, one_row(2)).unwrap()[0].image.clone()
    };
    assert_eq!(edit(OffloadPolicy::Block), edit(OffloadPolicy::None));
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
        // With this little memory no block stays on the device.
        command.env("EMULATOR_MEMORY", "268435456");
        let output = command.env("EMULATOR_PINNED", pinned).env_remove("EMULATOR_COUNTS").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (std::fs::read(path).unwrap(), said)
    };
    let (whole, _) = made("none", "1");
    for (pinned, is_slow) in [("1", false), ("0", true)] {
        let (picture, said) = made("block", pinned);
        assert!(picture == whole, "locked: {pinned}");
        assert_eq!(said.contains("these layers are copied slowly"), is_slow, "{said}");
        assert!(said.contains("text encoder") && said.contains("with 0 of 6 blocks"), "{said}");
    }
}

/// Bytes that a model holds: the peak while loading, the bytes after a picture, and the additional peak during the next
/// picture.
struct Held {
    loading: u64,
    resting: u64,
    picture: u64,
    plan: Placement,
}

fn held(model: &str, away: Away) -> Held {
    let mut loaded = None;
    let loading = most_bytes_held(|| loaded = Some(load(model, away, None)));
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
        // cuBLASLt's workspace is held from the first GEMM until the next model allocates its own.
        held(model, Away::Nothing);
        let whole = held(model, Away::Nothing);
        for away in AWAY {
            let less = held(model, away);
            let saved = whole.plan.device_bytes() - less.plan.device_bytes();
            println!("{model} {away:?}: loading {} {}, saved {saved}", whole.loading, less.loading);
            assert!(saved > 0 && less.plan.host_bytes() >= saved, "{model} {away:?}: {}", less.plan);
            assert_eq!(whole.resting - less.resting, saved, "{model} {away:?}");
            assert_eq!(whole.picture, less.picture, "{model} {away:?}");
            // While loading, a layer is on the device before it is moved to host memory.
            assert!(less.loading <= whole.loading, "{model} {away:?}");
        }
    }
}

/// A step copies the blocks that are not resident, and makes no other additional driver calls.
#[test]
fn a_step_copies_the_blocks_that_are_away_and_asks_for_nothing_else() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    for model in MODELS {
        let (whole, bytes_of_whole) = of_step_by(load(model, Away::Nothing, None));
        for away in [Away::SomeBlocks, Away::AllBlocks] {
            let omni = load(model, away, None);
            let plan = omni.placement().clone();
            let (streamed, bytes) = of_step_by(omni);
            println!(
                "counts: {model}, bf16, one row, {} of {} blocks resident: {}, {bytes} bytes to the device",
                plan.residents.count,
                plan.residents.of,
                told(&streamed)
            );
            for (name, count) in &whole {
                let may_grow = ["copies to the device", "events"].contains(&&**name);
                assert!(may_grow || streamed[name] == *count, "{model} {away:?}: {name}");
            }
            assert_eq!(bytes - bytes_of_whole, copied_in_a_step(model, &plan), "{model} {away:?}: {plan}");
        }
    }
}

/// Bytes of the blocks that a step copies: those in host memory, of kinds with more blocks there than the two buffers
/// hold.
fn copied_in_a_step(model: &str, plan: &Placement) -> u64 {
    let layers = bytes(model).transformer.layers;
    let is_away = |index: usize| !plan.residents.have(index);
    let away: Vec<_> = (0..layers.len()).filter(|index| is_away(*index)).map(|index| layers[index]).collect();
    let of_kind = |kind| away.iter().filter(|layer| layer.kind == kind).count();
    away.iter().filter(|layer| of_kind(layer.kind) > 2).map(|layer| layer.bytes).sum()
}
