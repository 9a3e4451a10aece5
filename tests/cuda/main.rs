//! The whole on an NVIDIA GPU, or on the emulated one, as `tests/cuda/run.sh` has it: pictures against the CPU's, what a
//! step asks of the driver, and what is said where something is missing.
//!
//! `EMULATOR_COUNTS` names the file of the emulator's counts, `LATENTD` a program built with CUDA; what needs one of them
//! says that it is skipped without. `LATENTD_GOLDENS` names the folder of the tiny models, where it is not the repository's.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

mod bench;
mod bounds;
mod counts;
mod faults;
mod missing;
mod offload;
mod parity;
mod pictures;
mod runs;
mod server;
mod vae;
mod workers;
