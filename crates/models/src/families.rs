//! The built-in families, one line each.

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::model_family::ModelFamily;
use crate::{flux2, qwen_image};

/// All built-in families.
pub const FAMILIES: &[ModelFamily] = &[qwen_image::FAMILY, flux2::FAMILY];

/// Returns the family of a checkpoint.
///
/// # Errors
/// `model_index.json` is missing or invalid, or names an unsupported class.
pub fn family_of(checkpoint: &Checkpoint) -> Result<&'static ModelFamily, LoadError> {
    checkpoint.require_pipeline()?;
    let class = checkpoint.class()?;
    let family = FAMILIES.iter().find(|family| family.classes.contains(&class.as_str()));
    family.ok_or_else(|| LoadError::UnsupportedClass { class, supported: supported_classes() })
}

/// Whether the text encoder of a pipeline of `class` sees pictures, and so needs an image processor.
pub(crate) fn sees_pictures(class: &str) -> bool {
    FAMILIES.iter().any(|family| family.seeing_classes.contains(&class))
}

fn supported_classes() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|family| family.classes).copied().collect()
}
