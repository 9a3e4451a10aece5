//! What the emulator counted, and what is counted of a step.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use latentd::{DtypeName, Omni};

use crate::runs::{GPU, load, one_row, picture};

/// What is counted, in the order of `enum Count` in `emulator/driver.h`.
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
/// In the same order: after what is above come the bytes of copies to the device and to the host. Behind them is the most
/// that was held since a test wrote there.
const BYTES_HELD: usize = 11;
const MODULES: usize = 13;

/// Calls of the driver and its libraries, by their names.
pub type Counts = BTreeMap<String, u64>;

/// The emulator's file of 64-bit numbers; `None` where there is no emulator.
fn numbers() -> Option<Vec<u64>> {
    Some(numbers_of(Path::new(&std::env::var_os("EMULATOR_COUNTS")?)))
}

/// Those of another process's file.
fn numbers_of(file: &Path) -> Vec<u64> {
    let bytes = std::fs::read(file).unwrap();
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Modules of kernels that a process has loaded, whose counts are in `file`.
pub fn modules(file: &Path) -> u64 {
    numbers_of(file)[MODULES]
}

/// Whether calls are counted; says so where they are not.
pub fn are_counted() -> bool {
    let are = std::env::var_os("EMULATOR_COUNTS").is_some();
    if !are {
        println!("skipped: EMULATOR_COUNTS names no file");
    }
    are
}

/// Bytes of the device's memory that are held now.
pub fn bytes_held() -> u64 {
    numbers().unwrap()[BYTES_HELD]
}

/// What `work` takes.
pub fn of(work: impl FnOnce()) -> Counts {
    let before = numbers().unwrap();
    work();
    let after = numbers().unwrap();
    NAMES
        .iter()
        .zip(after.iter().zip(before))
        .map(|(name, (after, before))| (name.to_string(), after - before))
        .collect()
}

/// The most bytes that `work` holds at a time beside what was held before.
pub fn most_bytes_held(work: impl FnOnce()) -> u64 {
    let before = bytes_held();
    let file = std::fs::OpenOptions::new().write(true).open(std::env::var_os("EMULATOR_COUNTS").unwrap()).unwrap();
    file.write_all_at(&before.to_le_bytes(), 8 * (BYTES_HELD as u64 + 1)).unwrap();
    work();
    numbers().unwrap()[BYTES_HELD + 1] - before
}

/// What a picture of so many steps takes of a model that has made one before: kernels are loaded at their first launch.
fn of_picture(omni: &mut Omni, steps: i64) -> Vec<u64> {
    picture(omni, one_row(steps));
    let before = numbers().unwrap();
    picture(omni, one_row(steps));
    numbers().unwrap().iter().zip(before).map(|(now, before)| now.wrapping_sub(before)).collect()
}

/// What one step takes: the last of three, beside a picture without it. `cache` says how so many steps are cached.
pub fn of_step(model: &str, dtype: DtypeName, cache: impl Fn(i64) -> Option<String>) -> Counts {
    of_step_by(|steps| load(model, GPU, dtype, cache(steps).as_deref()))
}

/// The same by a model that `load` loads for pictures of so many steps.
pub fn of_step_by(load: impl Fn(i64) -> Omni) -> Counts {
    let of = |steps| of_picture(&mut load(steps), steps);
    let (with, without) = (of(3), of(2));
    NAMES
        .iter()
        .zip(with.iter().zip(without))
        .map(|(name, (with, without))| (name.to_string(), with - without))
        .collect()
}

/// `1 launches, 2 products, …`
pub fn told(counts: &Counts) -> String {
    NAMES.map(|name| format!("{} {name}", counts[name])).join(", ")
}
