//! The families that are built in: one line each.

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::model_family::ModelFamily;
use crate::{flux2, qwen_image};

/// Every family.
pub const FAMILIES: &[ModelFamily] = &[qwen_image::FAMILY, flux2::FAMILY];

/// The family of a checkpoint.
///
/// # Errors
/// `model_index.json` is missing or not understood, or names a class that is not built in.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static ModelFamily, LoadError> {
    checkpoint.require_pipeline()?;
    let class = checkpoint.class()?;
    let family = FAMILIES.iter().find(|family| family.classes.contains(&class.as_str()));
    family.ok_or_else(|| LoadError::UnsupportedClass { class, supported: supported_classes() })
}

/// Whether a pipeline of `class` has a text encoder that sees pictures, and so needs a processor of them.
pub(crate) fn sees_pictures(class: &str) -> bool {
    FAMILIES.iter().any(|family| family.seeing_classes.contains(&class))
}

fn supported_classes() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.classes).copied().collect()
}
