//! Range checks of the numbers in a configuration file. A refusal names the key, the bound and the value.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

use crate::error::LoadError;

/// Layer widths, in features or channels.
pub(crate) const WIDTHS: RangeInclusive<usize> = 1..=1 << 17;
/// Number of layers in a list.
pub(crate) const LAYERS: RangeInclusive<usize> = 1..=1000;
/// Number of attention heads.
pub(crate) const HEADS: RangeInclusive<usize> = 1..=1024;
/// Features per head.
pub(crate) const HEAD_DIMS: RangeInclusive<usize> = 1..=1024;
/// Bases of the rotary frequencies.
pub(crate) const ROPE_THETAS: RangeInclusive<f64> = 1.0..=1e9;
/// The epsilon that a norm adds to a mean square or a variance.
pub(crate) const EPSILONS: RangeInclusive<f64> = 1e-12..=1.0;

/// A configuration file whose values are checked.
pub(crate) struct ConfigFile<'a>(pub(crate) &'a str);

impl ConfigFile<'_> {
    /// Returns the error that refuses `key`.
    pub(crate) fn refusal(&self, key: &'static str, bound: impl Display, given: impl Display) -> LoadError {
        LoadError::Config { file: self.0.into(), key, bound: bound.to_string(), given: given.to_string() }
    }

    /// Refuses `key` unless `holds` is true.
    ///
    /// # Errors
    /// `holds` is false.
    pub(crate) fn require(
        &self,
        holds: bool,
        key: &'static str,
        bound: &str,
        given: impl Debug,
    ) -> Result<(), LoadError> {
        if holds { Ok(()) } else { Err(self.refusal(key, bound, format!("{given:?}"))) }
    }

    /// Returns `value` if it lies in `range`.
    ///
    /// # Errors
    /// `value` lies outside `range`. (NaN lies in no range.)
    pub(crate) fn within<T: PartialOrd + Display>(
        &self,
        key: &'static str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<T, LoadError> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.refusal(key, format!("be between {} and {}", range.start(), range.end()), value))
    }

    /// Returns `value` if the file has it and it lies in `range`.
    ///
    /// # Errors
    /// The value is missing or lies outside `range`.
    pub(crate) fn needed(
        &self,
        key: &'static str,
        value: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize, LoadError> {
        match value {
            Some(value) => self.within(key, value, range),
            None => Err(self.refusal(key, format!("be between {} and {}", range.start(), range.end()), "nothing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_named_with_its_bound() {
        let file = ConfigFile("vae/config.json");
        let message = |result: Result<f64, LoadError>| result.unwrap_err().to_string();
        assert_eq!(
            message(file.within("eps", f64::NAN, 0.0..=1.0)),
            "`vae/config.json`: `eps` must be between 0 and 1. Given: NaN"
        );
        assert!(file.within("eps", 1.0, 0.0..=1.0).is_ok());
        assert!(file.needed("z_dim", None, WIDTHS).unwrap_err().to_string().ends_with("Given: nothing"));
    }
}
