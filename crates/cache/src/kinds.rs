//! The kinds of values of keys: how each is read, and its bound in words.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde_json::Value;

use crate::names::names;
use crate::{MaskSource, ScmPolicy, StepMask};

/// A kind of value. A failed read is reported by the bound alone: the reader of the object knows the key and the given
/// value.
pub(crate) trait Kind {
    type Value;

    /// The bound on the value, as a verb phrase.
    fn bound() -> String;

    fn read(value: &Value) -> Option<Self::Value>;
}

/// Serde deserializer for a key whose value is of this kind.
pub(crate) fn given<'de, K: Kind, D: Deserializer<'de>>(deserializer: D) -> Result<Option<K::Value>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    K::read(&value).map(Some).ok_or_else(|| D::Error::custom(K::bound()))
}

/// Serde deserializer for a key whose value is of this kind, or `null`.
pub(crate) fn nullable<'de, K: Kind, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<K::Value>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.is_null() {
        true => Ok(Some(None)),
        false => given::<K, _>(value).map(Some).map_err(D::Error::custom),
    }
}

/// A whole number of at least `LEAST`.
pub(crate) struct Count<const LEAST: usize>;

impl<const LEAST: usize> Kind for Count<LEAST> {
    type Value = usize;

    fn bound() -> String {
        format!("be a whole number of at least {LEAST}")
    }

    fn read(value: &Value) -> Option<usize> {
        value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|&count| count >= LEAST)
    }
}

/// A number of pictures to learn from.
pub(crate) struct Pictures<const LEAST: usize, const MOST: usize>;

impl<const LEAST: usize, const MOST: usize> Kind for Pictures<LEAST, MOST> {
    type Value = usize;

    fn bound() -> String {
        format!("be {LEAST} to {MOST} pictures")
    }

    fn read(value: &Value) -> Option<usize> {
        Count::<LEAST>::read(value).filter(|&count| count <= MOST)
    }
}

/// A whole number, or -1 for no limit.
pub(crate) struct Limit;

impl Kind for Limit {
    type Value = Option<usize>;

    fn bound() -> String {
        "be a whole number of at least 0, or -1 for no limit".into()
    }

    fn read(value: &Value) -> Option<Option<usize>> {
        if value.as_i64() == Some(-1) { Some(None) } else { Count::<0>::read(value).map(Some) }
    }
}

pub(crate) struct Number;

impl Kind for Number {
    type Value = f64;

    fn bound() -> String {
        "be a number".into()
    }

    fn read(value: &Value) -> Option<f64> {
        value.as_f64()
    }
}

pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn bound() -> String {
        "be true or false".into()
    }

    fn read(value: &Value) -> Option<bool> {
        value.as_bool()
    }
}

/// The path of a file.
pub(crate) struct FileName;

impl Kind for FileName {
    type Value = String;

    fn bound() -> String {
        "be a file's name, such as \"@plan.json\"".into()
    }

    fn read(value: &Value) -> Option<String> {
        value.as_str().map(str::to_owned)
    }
}

/// The name of an enum variant.
pub(crate) struct Word<T>(PhantomData<T>);

impl<T: DeserializeOwned> Kind for Word<T> {
    type Value = T;

    fn bound() -> String {
        format!("be one of {}", quoted(names::<T>()))
    }

    fn read(value: &Value) -> Option<T> {
        T::deserialize(value).ok()
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

/// A list of numbers.
pub(crate) struct Numbers;

impl Kind for Numbers {
    type Value = Vec<f64>;

    fn bound() -> String {
        "be a list of numbers".into()
    }

    fn read(value: &Value) -> Option<Vec<f64>> {
        value.as_array()?.iter().map(Number::read).collect()
    }
}

/// A list of lengths of runs of steps.
pub(crate) struct Bins;

impl Kind for Bins {
    type Value = Vec<usize>;

    fn bound() -> String {
        "be a list of whole numbers of at least 0".into()
    }

    fn read(value: &Value) -> Option<Vec<usize>> {
        value.as_array()?.iter().map(Count::<0>::read).collect()
    }
}

/// A mask given step by step, or the name of a policy.
pub(crate) struct Mask;

impl Kind for Mask {
    type Value = MaskSource;

    fn bound() -> String {
        format!("be a list of 0 and 1, a string of them, or one of {}", quoted(names::<ScmPolicy>()))
    }

    fn read(value: &Value) -> Option<MaskSource> {
        if let Some(policy) = Word::<ScmPolicy>::read(value) {
            return Some(MaskSource::Policy(policy));
        }
        let mask = match value {
            Value::String(text) => text.parse().ok(),
            Value::Array(steps) => steps.iter().map(zero_or_one).collect::<Option<Vec<_>>>().map(StepMask::from_steps),
            _ => None,
        };
        mask.map(MaskSource::Steps)
    }
}

fn zero_or_one(step: &Value) -> Option<bool> {
    match step.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    }
}

/// cache-dit's `enable_separate_cfg`, which has only one valid value here.
pub(crate) struct SeparateBranches;

impl Kind for SeparateBranches {
    type Value = ();

    fn bound() -> String {
        "be true or null: each branch has a state of its own (see `branches_agree`)".into()
    }

    fn read(value: &Value) -> Option<()> {
        (value == &Value::Bool(true)).then_some(())
    }
}

/// cache-dit's `cfg_compute_first`, which has only one valid value here.
pub(crate) struct ConditionalFirst;

impl Kind for ConditionalFirst {
    type Value = ();

    fn bound() -> String {
        "be false or null: the conditional branch comes first".into()
    }

    fn read(value: &Value) -> Option<()> {
        (value == &Value::Bool(false)).then_some(())
    }
}
