//! Target and features of this build.

use std::sync::LazyLock;

use server::BuildInfo;

/// The optional features, and whether this build has them.
const FEATURES: [(&str, bool); 2] = [("cuda", cfg!(feature = "cuda")), ("otlp", cfg!(feature = "otlp"))];

/// The build info of `GET /version`.
pub(crate) fn info() -> BuildInfo {
    let features = FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    BuildInfo { features, ..BuildInfo::default() }
}

/// The line of `latentd --version`: `0.1.0 (x86_64-linux, features: cuda)`.
pub(crate) fn line() -> &'static str {
    static LINE: LazyLock<String> = LazyLock::new(|| {
        let BuildInfo { version, target, features } = info();
        let features = if features.is_empty() { "none".into() } else { features.join(", ") };
        format!("{version} ({target}, features: {features})")
    });
    &LINE
}
