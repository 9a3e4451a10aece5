//! The whole program on an NVIDIA GPU, or on the emulated one of `tests/cuda/run.sh`: pictures compared with the CPU's,
//! the driver calls of a step, and the messages if something is missing.
//!
//! `EMULATOR_COUNTS` names the file of the emulator's counts, `LATENTD` a program built with CUDA. Tests that need one
//! of them print that they are skipped without it. `LATENTD_GOLDENS` names the folder of the tiny models if it is not
//! the repository's.

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
