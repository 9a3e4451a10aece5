//! Reads the emulator's counters, and counts the driver calls of a step.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use diffusion::{ImageSize, Interrupt, Limits, Pipeline, RequestDraft};
use omni::{Dtype, Omni};

use crate::runs::{GPU, load};

/// Steps of a picture whose last step is counted.
const STEPS: i64 = 3;
/// Names of the counters, in the order of `enum Count` in `emulator/driver.h`.
const NAMES: [&str; 9] = [
    "launches",
    "products",
    "copies to the device",
    "copies to the host",
    "copies on the device",
    "fills",
    "allocations",
    "synchronisations",
    "events",
];
/// Indices of further counters. After the named ones come the bytes of copies to the device and to the host, the bytes
/// held, and their peak since a test last wrote to it.
const BYTES_TO_DEVICE: usize = 9;
const BYTES_HELD: usize = 11;
const MODULES: usize = 13;

/// Numbers of calls to the driver and its libraries, by name.
pub type Counts = BTreeMap<String, u64>;

/// The 64-bit numbers in the emulator's file; `None` without an emulator.
fn numbers() -> Option<Vec<u64>> {
    Some(numbers_of(Path::new(&std::env::var_os("EMULATOR_COUNTS")?)))
}

/// The numbers in another process's file.
fn numbers_of(file: &Path) -> Vec<u64> {
    let bytes = std::fs::read(file).unwrap();
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Number of kernel modules loaded by the process whose counts are in `file`.
pub fn modules(file: &Path) -> u64 {
    numbers_of(file)[MODULES]
}

/// Whether calls are counted. Prints a line if they are not.
pub fn are_counted() -> bool {
    let are = std::env::var_os("EMULATOR_COUNTS").is_some();
    if !are {
        println!("skipped: EMULATOR_COUNTS names no file");
    }
    are
}

/// Bytes of device memory that are held now.
pub fn bytes_held() -> u64 {
    numbers().unwrap()[BYTES_HELD]
}

/// The calls that `work` makes.
pub fn of(work: impl FnOnce()) -> Counts {
    let before = numbers().unwrap();
    work();
    named(&difference(&numbers().unwrap(), &before))
}

/// Peak bytes that `work` holds in addition to those held before.
pub fn most_bytes_held(work: impl FnOnce()) -> u64 {
    let before = bytes_held();
    let file = std::fs::OpenOptions::new().write(true).open(std::env::var_os("EMULATOR_COUNTS").unwrap()).unwrap();
    file.write_all_at(&before.to_le_bytes(), 8 * (BYTES_HELD as u64 + 1)).unwrap();
    work();
    numbers().unwrap()[BYTES_HELD + 1] - before
}

/// The calls of one step, the last of three. `cache` returns the cache configuration for a number of steps.
pub fn of_step(model: &str, dtype: Dtype, cache: impl Fn(i64) -> Option<String>) -> Counts {
    of_step_by(load(model, GPU, dtype, cache(STEPS).as_deref())).0
}

/// The same for a loaded model, and the bytes that the step copies to the device.
pub fn of_step_by(omni: Omni) -> (Counts, u64) {
    let mut pipeline = omni.into_pipeline();
    let draft = RequestDraft {
        prompt: "a fox on a green background".into(),
        size: Some(ImageSize { width: 32, height: 32 }),
        num_inference_steps: Some(STEPS),
        seed: Some(7),
        true_cfg_scale: Some(1.0),
        ..RequestDraft::default()
    };
    let request = draft.build(pipeline.card(), &Limits::NONE, || 7).unwrap().remove(0);
    let mut of_last = || {
        let mut state = pipeline.prepare(&request, &Interrupt::default()).unwrap();
        let mut step = || drop(pipeline.step(&mut [&mut state], &Interrupt::default()).unwrap());
        (1..STEPS).for_each(|_| step());
        let before = numbers().unwrap();
        step();
        difference(&numbers().unwrap(), &before)
    };
    // Kernels are loaded at their first launch.
    of_last();
    let step = of_last();
    (named(&step), step[BYTES_TO_DEVICE])
}

fn difference(with: &[u64], without: &[u64]) -> Vec<u64> {
    with.iter().zip(without).map(|(with, without)| with.wrapping_sub(*without)).collect()
}

fn named(numbers: &[u64]) -> Counts {
    NAMES.iter().zip(numbers).map(|(name, number)| (name.to_string(), *number)).collect()
}

/// Formats counts as `1 launches, 2 products, …`.
pub fn told(counts: &Counts) -> String {
    NAMES.map(|name| format!("{} {name}", counts[name])).join(", ")
}
