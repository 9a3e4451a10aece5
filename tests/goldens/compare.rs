//! Where the goldens are, and how two tensors are compared.

use std::path::PathBuf;

/// The folder of the goldens: `LATENTD_GOLDENS`, or the one beside this file.
pub fn goldens() -> PathBuf {
    match std::env::var_os("LATENTD_GOLDENS") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens"),
    }
}
