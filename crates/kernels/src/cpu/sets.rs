//! The table of instruction sets, and the choice of one.

use std::cell::Cell;
use std::sync::OnceLock;

use super::int8::Int8;
use super::kernels::Kernels;
use super::portable::Portable;
use super::simd::Simd;
use super::tile_kernels::{Bf16Kernels, TileLinear, With};
use super::tiles::{Multiplier, Plain};

/// The environment variable that names the instruction set to use.
const VARIABLE: &str = "LATENTD_CPU";

/// An instruction set with its kernels.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// Whether the set may be chosen automatically. Portable code without a fused multiply-add is slower than candle's
    /// operations.
    by_default: bool,
    /// `None` if this processor lacks the instructions.
    pub(crate) kernels: Option<Box<dyn Kernels>>,
    /// `None` if this processor lacks the instructions.
    pub(crate) tiles: Option<Tiles>,
}

/// The products of a set in fewer bits than f32.
pub(crate) struct Tiles {
    pub(crate) int8: Box<dyn TileLinear<Int8>>,
    /// `None` if f32 products of widened numbers are faster.
    pub(crate) bf16: Option<Box<dyn Bf16Kernels>>,
}

impl Set {
    fn new<S: Simd>(name: &'static str, set: Option<S>, tiles: impl FnOnce(S) -> Tiles) -> Set {
        let kernels = set.map(|set| Box::new(set) as Box<dyn Kernels>);
        Set { name, by_default: true, kernels, tiles: set.map(tiles) }
    }
}

impl Tiles {
    fn int8<S: Simd, M: Multiplier<Int8>>(set: S, multiplier: M) -> Tiles {
        Tiles { int8: Box::new(With(set, multiplier)), bf16: None }
    }

    fn plain<S: Simd>(set: S) -> Tiles {
        Tiles::int8(set, Plain)
    }
}

/// All sets, from the simplest to the fastest. A new set is one line here.
fn table() -> Vec<Set> {
    let portable = Set::new("portable", Some(Portable), Tiles::plain);
    let mut table = vec![Set { by_default: cfg!(target_arch = "aarch64"), ..portable }];
    #[cfg(target_arch = "x86_64")]
    {
        use super::{amx::Amx, avx2::Avx2, avx512::Avx512, dpbf16::DpBf16, vnni::Vnni, widened::Widened};
        let avx512 = Avx512::detect();
        let amx = avx512.and_then(|set| Amx::detect(set).map(|amx| (set, amx)));
        let widened = |set| Tiles::int8(set, Widened::new(set));
        table.push(Set::new("avx2", Avx2::detect(), widened));
        table.push(Set::new("avx512", avx512, |set| {
            let int8 = match Vnni::detect(set) {
                Some(vnni) => Tiles::int8(set, vnni),
                None => widened(set.octets()),
            };
            Tiles { bf16: DpBf16::detect(set).map(|dots| Box::new(With(set, dots)) as _), ..int8 }
        }));
        let tiles = amx.map(|(set, amx)| Tiles { bf16: Some(Box::new(With(set, amx))), ..Tiles::int8(set, amx) });
        let kernels = amx.map(|(set, _)| Box::new(set) as Box<dyn Kernels>);
        // The AMX tiles have run only on an emulated processor (tests/amx), with the same bits as the plain tiles. The
        // emulator's source had to be patched, so the signs of int8 follow the manual and not the emulator. AMX has not
        // been timed.
        table.push(Set { name: "amx", by_default: true, kernels, tiles });
    }
    table
}

/// The name of candle's operations.
pub(crate) const REFERENCE: &str = "reference";

/// The set that runs.
#[derive(Clone, Copy)]
enum Choice {
    Reference,
    /// Index into the table.
    Set(usize),
}

thread_local! {
    static OF_THREAD: Cell<Option<Choice>> = const { Cell::new(None) };
}

/// Every set, including those that this processor lacks.
pub(crate) fn sets() -> &'static [Set] {
    static SETS: OnceLock<Vec<Set>> = OnceLock::new();
    SETS.get_or_init(table)
}

/// The names that [`with_instruction_set`] accepts on this processor, from the simplest to the fastest.
pub fn instruction_sets() -> impl Iterator<Item = &'static str> {
    let usable = sets().iter().filter(|set| set.kernels.is_some()).map(|set| set.name);
    std::iter::once(REFERENCE).chain(usable)
}

/// The current kernels; `None` for the reference.
pub(crate) fn current() -> Option<&'static dyn Kernels> {
    current_set()?.kernels.as_deref()
}

/// Whether this process multiplies bf16 weights in bf16, because that is faster than in f32: see [`crate::Linear`].
pub fn multiplies_bf16() -> bool {
    current_tiles().is_some_and(|tiles| tiles.bf16.is_some())
}

/// The current products of tiles; `None` for the reference.
pub(crate) fn current_tiles() -> Option<&'static Tiles> {
    current_set()?.tiles.as_ref()
}

fn current_set() -> Option<&'static Set> {
    match OF_THREAD.get().unwrap_or_else(of_process) {
        Choice::Reference => None,
        Choice::Set(index) => Some(&sets()[index]),
    }
}

/// The instruction set of CPU operations in this process. The environment variable `LATENTD_CPU` can name it
/// (`reference`, `portable`, `avx2`, `avx512`, `amx`). Otherwise it is the fastest set of this processor that may be
/// chosen automatically.
///
/// # Errors
/// `LATENTD_CPU` names no set, or one that this processor lacks. Operations then use the fastest.
pub fn instruction_set() -> Result<&'static str, String> {
    chosen().as_ref().map(|choice| name(*choice)).map_err(String::clone)
}

/// Runs `work` with the named set for every operation that this thread calls. `reference` means the plain candle
/// reference. For comparisons and timings.
///
/// # Errors
/// No set has this name, or this processor lacks it.
pub fn with_instruction_set<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    named(name).map(|choice| with_choice(choice, work))
}

/// Runs `work` with the plain candle reference for every operation that this thread calls. For comparisons and timings.
///
/// A [`crate::Linear`] or [`crate::Conv3x3`] made inside keeps its weights unpacked. One made outside unpacks them at
/// every call.
pub fn with_reference<T>(work: impl FnOnce() -> T) -> T {
    with_choice(Choice::Reference, work)
}

/// Whether this thread is inside [`with_reference`], for backends of other devices.
#[cfg(feature = "cuda")]
pub(crate) fn is_reference_forced() -> bool {
    matches!(OF_THREAD.get(), Some(Choice::Reference))
}

fn with_choice<T>(choice: Choice, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Choice>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OF_THREAD.set(self.0);
        }
    }
    let _restore = Restore(OF_THREAD.replace(Some(choice)));
    work()
}

fn name(choice: Choice) -> &'static str {
    match choice {
        Choice::Reference => REFERENCE,
        Choice::Set(index) => sets()[index].name,
    }
}

fn of_process() -> Choice {
    chosen().as_ref().copied().unwrap_or_else(|_| fastest())
}

/// The choice of the environment variable, read once.
fn chosen() -> &'static Result<Choice, String> {
    static CHOSEN: OnceLock<Result<Choice, String>> = OnceLock::new();
    CHOSEN.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(name) if !name.is_empty() && name != "auto" => named(&name).map_err(|err| format!("{VARIABLE} {err}")),
        _ => Ok(fastest()),
    })
}

fn fastest() -> Choice {
    let usable = |set: &Set| set.by_default && set.kernels.is_some();
    sets().iter().rposition(usable).map_or(Choice::Reference, Choice::Set)
}

fn named(name: &str) -> Result<Choice, String> {
    if name == REFERENCE {
        return Ok(Choice::Reference);
    }
    let usable: Vec<_> = instruction_sets().collect();
    let index = sets().iter().position(|set| set.name == name && set.kernels.is_some());
    index
        .map(Choice::Set)
        .ok_or_else(|| format!("must be auto or one of {}, which this processor has. Given: {name}", usable.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_chosen_by_its_name() {
        for set in sets() {
            let given = with_instruction_set(set.name, || name(OF_THREAD.get().unwrap()));
            assert_eq!(given.is_ok(), set.kernels.is_some());
            assert!(given.is_err() || given == Ok(set.name));
        }
        assert!(with_instruction_set(REFERENCE, || current().is_none()).unwrap());
        let err = with_instruction_set("sse9", || ()).unwrap_err();
        assert!(err.starts_with("must be auto or one of reference, portable") && err.ends_with("Given: sse9"), "{err}");
    }

    /// A test run for one set must not silently run on another.
    #[test]
    fn the_set_in_use_is_the_one_that_the_environment_names() {
        let named = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty() && name != "auto");
        let expected = named.as_deref().unwrap_or(name(fastest()));
        assert_eq!(instruction_set(), Ok(expected));
        assert_eq!(name(of_process()), expected);
        println!("instruction set in use: {expected}");
    }

    #[test]
    fn the_fastest_is_the_last_that_there_is() {
        let Choice::Set(index) = fastest() else { return };
        assert!(sets()[index].kernels.is_some());
        assert!(sets()[index + 1..].iter().all(|set| set.kernels.is_none() || !set.by_default));
    }
}
