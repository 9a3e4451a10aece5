//! The table of instruction sets, and which of them is in use.

use std::cell::Cell;
use std::sync::OnceLock;

use super::int8::Int8;
use super::kernels::Kernels;
use super::portable::Portable;
use super::simd::Simd;
use super::tile_kernels::{Bf16Kernels, TileLinear, With};
use super::tiles::{Multiplier, Plain};

/// The environment variable that names the set to use.
const VARIABLE: &str = "LATENTD_CPU";

/// A set of instructions with its kernels.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// Whether it is taken unasked. Portable code without a fused multiply-add is slower than candle's operations.
    by_default: bool,
    /// `None` where this processor lacks the instructions.
    pub(crate) kernels: Option<Box<dyn Kernels>>,
    /// As `kernels`.
    pub(crate) tiles: Option<Tiles>,
}

/// The products in fewer bits than f32 that a set has.
pub(crate) struct Tiles {
    pub(crate) int8: Box<dyn TileLinear<Int8>>,
    /// `None` where f32 products of widened numbers are faster.
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

/// From the plainest to the fastest. A new set is a line here.
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
        // Its tiles have run on an emulated processor only (tests/amx), to the bit as the plain ones: one whose source
        // had to be mended, so that int8's signs are the manual's word and not the emulator's. None has been timed.
        table.push(Set { name: "amx", by_default: true, kernels, tiles });
    }
    table
}

/// The name that stands for candle's operations.
pub(crate) const REFERENCE: &str = "reference";

/// Which set runs.
#[derive(Clone, Copy)]
enum Choice {
    Reference,
    /// Its place in the table.
    Set(usize),
}

thread_local! {
    static OF_THREAD: Cell<Option<Choice>> = const { Cell::new(None) };
}

/// Every set, also those that this processor lacks.
pub(crate) fn sets() -> &'static [Set] {
    static SETS: OnceLock<Vec<Set>> = OnceLock::new();
    SETS.get_or_init(table)
}

/// The names that [`with_instruction_set`] takes on this processor, from the plainest to the fastest.
pub fn instruction_sets() -> impl Iterator<Item = &'static str> {
    let usable = sets().iter().filter(|set| set.kernels.is_some()).map(|set| set.name);
    std::iter::once(REFERENCE).chain(usable)
}

/// The kernels in use, `None` for the reference.
pub(crate) fn current() -> Option<&'static dyn Kernels> {
    current_set()?.kernels.as_deref()
}

/// Whether products of bf16 weights are made in bf16 by this process, and are faster so than those of f32: see
/// [`crate::Linear`].
pub fn multiplies_bf16() -> bool {
    current_tiles().is_some_and(|tiles| tiles.bf16.is_some())
}

/// The products of tiles in use, `None` for the reference.
pub(crate) fn current_tiles() -> Option<&'static Tiles> {
    current_set()?.tiles.as_ref()
}

fn current_set() -> Option<&'static Set> {
    match OF_THREAD.get().unwrap_or_else(of_process) {
        Choice::Reference => None,
        Choice::Set(index) => Some(&sets()[index]),
    }
}

/// The instruction set that operations on the CPU use in this process: the fastest of those that are
/// taken unasked and that the processor has, or the one that the environment variable `LATENTD_CPU` names (`reference`, `portable`, `avx2`, `avx512`, `amx`).
///
/// # Errors
/// `LATENTD_CPU` names none, or one that this processor lacks. Operations then use the fastest.
pub fn instruction_set() -> Result<&'static str, String> {
    chosen().as_ref().map(|choice| name(*choice)).map_err(String::clone)
}

/// Runs `work` with every operation that this thread calls on the named set, or on its plain-candle reference
/// (`reference`): for comparisons and timings.
///
/// # Errors
/// There is no such set, or this processor lacks it.
pub fn with_instruction_set<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    named(name).map(|choice| with_choice(choice, work))
}

/// Runs `work` with every operation that this thread calls on its plain-candle reference:
/// for comparisons and timings.
///
/// A [`crate::Linear`] or [`crate::Conv3x3`] made inside keeps its weights as they are; one
/// made outside unpacks them at every call.
pub fn with_reference<T>(work: impl FnOnce() -> T) -> T {
    with_choice(Choice::Reference, work)
}

/// Whether this thread is inside of [`with_reference`], for backends of other devices.
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

/// What the environment asks for, read once.
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

    /// Tests that are to run on a set do not run on another unnoticed.
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
