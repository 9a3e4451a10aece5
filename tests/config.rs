//! Every file in `config/` says only what the program understands.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]
