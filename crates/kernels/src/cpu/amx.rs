//! AMX: products of whole tiles. A core has eight tile registers.
//!
//! Rust's intrinsics for AMX are unstable, so the kernels are assembly. The compiler does not know what the tiles hold:
//! nothing stays in them from one block of assembly to the next.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use super::avx512::Avx512;
use super::bf16::Bf16;
use super::int8::Int8;
use super::tiles::{Multiplier, Operands, SIDE, STEP, Sums, Tile};

/// Proof that this processor has AMX with bf16 and int8, and that the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amx(());

impl Amx {
    /// Asks the processor, then the system. One request per process is enough, and threads that already exist may use
    /// AMX too.
    pub(super) fn detect(_: Avx512) -> Option<Amx> {
        // Leaf 7 exists on every processor with AVX-512. Bits of edx: 22 bf16, 24 tiles, 25 int8.
        let features = __cpuid_count(7, 0).edx;
        let there = [22, 24, 25].iter().all(|bit| features & (1 << bit) != 0);
        (there && permitted()).then_some(Amx(()))
    }
}

/// Asks Linux to save the tile state of this process. Kernels before 5.16, sandboxes and signal stacks that are too
/// small refuse.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call writes no memory; a system call clobbers rcx and r11 besides its result.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The argument of `ldtilecfg`: the palette 1, bytes per row from byte 16 on, rows from byte 48 on.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

/// Eight tiles of 16 rows by 64 bytes.
static SHAPES: Shapes = {
    let mut shapes = [0; 64];
    shapes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        shapes[16 + 2 * tile] = STEP as u8;
        shapes[48 + tile] = SIDE as u8;
        tile += 1;
    }
    Shapes(shapes)
};

/// The tile configuration of this thread, for the life of the session.
pub(super) struct Session(());

impl Session {
    fn new(_: Amx) -> Self {
        // SAFETY: an `Amx` exists only if the processor has the instruction and the system permits it. The shapes are
        // valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, readonly)) };
        Session(())
    }
}

impl Drop for Session {
    /// Without tiles in use a context switch saves 8 KiB less.
    fn drop(&mut self) {
        // SAFETY: a session exists, so the processor has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Multiplies a block of two strips by two panels with the instruction `$multiply`. A single strip or panel is
/// multiplied twice.
macro_rules! multiplier {
    ($format:ty, $sum:ty, $multiply:literal) => {
        impl Multiplier<$format> for Amx {
            const STRIPS: usize = 2;
            const PANELS: usize = 2;
            const STEPS: usize = 96;
            const TASK_ROWS: usize = 256;
            type Session = Session;

            fn begin(self) -> Session {
                Session::new(self)
            }

            #[inline(always)]
            unsafe fn multiply(self, operands: Operands, c: *mut Sums<$sum>, first: bool) {
                let a_stride = if operands.rows > SIDE { operands.a_stride } else { 0 };
                let b_stride = if operands.panels > 1 { operands.b_stride } else { 0 };
                // SAFETY: the caller promises the tiles, the sums and a session, so the tiles have their shapes. Four
                // tiles hold the sums `[32 rows][32 outputs]` of four bytes.
                unsafe {
                    asm!(
                        "test {first:e}, {first:e}", "jz 3f",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "jmp 2f",
                        "3:",
                        "tileloadd tmm0, [{c} + {c_row}]", "tileloadd tmm1, [{c} + {c_row} + 64]",
                        "tileloadd tmm2, [{c} + {c_row} + 2048]", "tileloadd tmm3, [{c} + {c_row} + 2112]",
                        "2:",
                        "tileloadd tmm4, [{a} + {row}]", "tileloadd tmm6, [{b} + {row}]",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm7, [{b2} + {row}]",
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        "tileloadd tmm5, [{a2} + {row}]",
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "add {a}, 1024", "add {a2}, 1024", "add {b}, 1024", "add {b2}, 1024",
                        "dec {steps}", "jnz 2b",
                        "tilestored [{c} + {c_row}], tmm0", "tilestored [{c} + {c_row} + 64], tmm1",
                        "tilestored [{c} + {c_row} + 2048], tmm2", "tilestored [{c} + {c_row} + 2112], tmm3",
                        a = inout(reg) operands.a => _,
                        a2 = inout(reg) operands.a.wrapping_add(a_stride) => _,
                        b = inout(reg) operands.b => _,
                        b2 = inout(reg) operands.b.wrapping_add(b_stride) => _,
                        steps = inout(reg) operands.steps => _,
                        c = in(reg) c,
                        row = in(reg) STEP,
                        c_row = in(reg) 2 * size_of::<Sums<$sum>>(),
                        first = in(reg) u32::from(first),
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

const _: () = assert!(size_of::<Tile>() == 1024 && size_of::<Sums<f32>>() == 64);

multiplier!(Bf16, f32, "tdpbf16ps");
// Signed rows by unsigned weights.
multiplier!(Int8, i32, "tdpbsud");

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::tiles::{Plain, PlainFormat};
    use super::*;

    /// A xorshift generator.
    struct Random(u64);

    impl Random {
        fn word(&mut self) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 24) as u32
        }

        /// The bits of a random f32 with a biased exponent in `exponents`.
        fn float(&mut self, exponents: &Range<u32>) -> u32 {
            let exponent = exponents.start + self.word() % (exponents.end - exponents.start);
            self.word() & 0x807f_ffff | exponent << 23
        }
    }

    /// Rows, panels and steps.
    type Block = (usize, usize, usize);

    /// Whole and ragged blocks, of one or two strips and one or two panels.
    fn blocks() -> impl Iterator<Item = Block> {
        let of_rows = |rows| [1, 2].into_iter().flat_map(move |panels| [1, 2, 33].map(|steps| (rows, panels, steps)));
        [1, 15, 16, 17, 31, 32].into_iter().flat_map(of_rows)
    }

    /// Compares a block's sums with those of [`Plain`], to the bit except that every NaN is equal, and checks that
    /// nothing is written after them. `numbers` and `sums` return four bytes each.
    fn check<F: PlainFormat>(
        amx: Amx,
        (rows, panels, steps): Block,
        mut numbers: impl FnMut() -> u32,
        mut sums: impl FnMut() -> F::Sum,
        bits: impl Fn(F::Sum) -> u32,
    ) where
        Amx: Multiplier<F>,
    {
        /// Unused tiles between two strips or two panels.
        const GAP: usize = 3;
        /// Rows of sums in a block.
        const SUMS: usize = 4 * SIDE;
        // Only the strips and panels of the block have tiles.
        let mut tiles = |parts: usize| -> Vec<Tile> {
            let mut row = || std::array::from_fn::<_, { STEP / 4 }, _>(|_| numbers().to_le_bytes());
            let mut tile = || Tile([(); SIDE].map(|()| row().as_flattened().try_into().unwrap()));
            (0..parts * (steps + GAP) - GAP).map(|_| tile()).collect()
        };
        let (a, b) = (tiles(rows.div_ceil(SIDE)), tiles(panels));
        let stride = steps + GAP;
        let operands =
            Operands { a: a.as_ptr(), a_stride: stride, b: b.as_ptr(), b_stride: stride, rows, panels, steps };
        let before: Vec<_> = (0..SUMS + 2).map(|_| Sums([(); SIDE].map(|()| sums()))).collect();
        for first in [true, false] {
            let (mut given, mut expected) = (before.clone(), before.clone());
            let session = Multiplier::<F>::begin(amx);
            // SAFETY: the tiles and the sums exist, and the session lives during both calls.
            unsafe {
                Multiplier::<F>::multiply(amx, operands, given.as_mut_ptr(), first);
                Multiplier::<F>::multiply(Plain, operands, expected.as_mut_ptr(), first);
            }
            drop(session);
            let wanted = |at: &usize| *at >= SUMS || at / 2 < rows && at % 2 < panels;
            for at in (0..before.len()).filter(wanted) {
                let of = |sums: &[Sums<F::Sum>]| sums[at].0.map(&bits);
                assert_eq!(of(&given), of(&expected), "{rows} rows, {panels} panels, {steps} steps, {first}, at {at}");
            }
        }
    }

    fn on_amx(check: impl Fn(Amx)) {
        match Avx512::detect().and_then(Amx::detect) {
            Some(amx) => check(amx),
            None => println!("kernels not run here: no amx"),
        }
    }

    #[test]
    fn int8_blocks_are_those_of_the_emulation() {
        on_amx(|amx| {
            for block in blocks() {
                let (mut numbers, mut sums) = (Random(1), Random(2));
                check::<Int8>(amx, block, || numbers.word(), || sums.word() as i32 >> 4, |sum| sum as u32);
            }
        });
    }

    #[test]
    fn bf16_blocks_are_those_of_the_emulation() {
        // Exponents of elements and sums: usual ones, products around the smallest normal number, products around the
        // largest number, and all exponents, with infinities and NaN.
        let exponents =
            [(121..133, 120..140), (60..66, 0..5), (187..193, 250..255), (0..130, 0..256), (0..256, 0..256)];
        on_amx(|amx| {
            for ((elements, totals), block) in exponents.iter().flat_map(|e| blocks().map(move |block| (e, block))) {
                let (mut numbers, mut sums) = (Random(3), Random(4));
                let pair = || numbers.float(elements) >> 16 | numbers.float(elements) & 0xffff_0000;
                let bits = |sum: f32| if sum.is_nan() { f32::NAN.to_bits() } else { sum.to_bits() };
                check::<Bf16>(amx, block, pair, || f32::from_bits(sums.float(totals)), bits);
            }
        });
    }
}
