//! The field and variant names of types with serde's derive, and suggestions for mistyped names.

use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The serialized names of a struct's fields or an enum's variants.
pub(crate) fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    T::deserialize(Asked).map_or_else(|names| names.0, |_| &[])
}

/// Maximum length of a typed name that is compared with the known ones: twice their own.
const MAX_TYPED: usize = 80;

/// Up to three names that `typed` may have meant, most similar first.
pub(crate) fn near(typed: &str, names: &'static [&'static str]) -> Vec<&'static str> {
    if typed.len() > MAX_TYPED {
        return Vec::new();
    }
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let edits = |name: &str| strsim::levenshtein(&normal(typed), &normal(name));
    let mut near: Vec<_> = names.iter().map(|&name| (edits(name), name)).collect();
    near.retain(|(edits, name)| *edits <= (name.len() / 3).max(2));
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// A deserializer that holds no value and returns the type's names as its error.
struct Asked;

#[derive(Debug)]
struct Names(&'static [&'static str]);

impl<'de> Deserializer<'de> for Asked {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(words))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl de::Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Names(&[])
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Names {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CacheOverrides;

    #[test]
    fn a_mistyped_key_is_recognised() {
        let near = |typed: &str| near(typed, CacheOverrides::keys());
        assert_eq!(near("fn_compute_blocks"), ["Fn_compute_blocks", "Bn_compute_blocks"]);
        assert_eq!(near("residual-diff-treshold"), ["residual_diff_threshold"]);
        assert_eq!(near("max_cached_step")[0], "max_cached_steps");
        assert_eq!(near("prompt"), [""; 0]);
        assert_eq!(near(&"x".repeat(1 << 20)), [""; 0]);
    }
}
