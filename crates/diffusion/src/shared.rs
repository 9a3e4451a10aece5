//! Serialization of pictures that several requests share: each serialized request has its own copy.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{InputImage, Mask};

pub(crate) mod images {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(images: &Arc<[InputImage]>, serializer: S) -> Result<S::Ok, S::Error> {
        images[..].serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[InputImage]>, D::Error> {
        Vec::deserialize(deserializer).map(Into::into)
    }
}

pub(crate) mod mask {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(mask: &Option<Arc<Mask>>, serializer: S) -> Result<S::Ok, S::Error> {
        mask.as_deref().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Mask>>, D::Error> {
        Option::deserialize(deserializer).map(|mask: Option<Mask>| mask.map(Arc::new))
    }
}
