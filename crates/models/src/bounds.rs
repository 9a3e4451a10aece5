//! Checks of the numbers of a configuration file: what is outside its bound is named, with the bound and the value.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

use crate::error::LoadError;

/// Widths of layers, in features or channels.
pub(crate) const WIDTHS: RangeInclusive<usize> = 1..=1 << 17;
/// Layers of a list.
pub(crate) const LAYERS: RangeInclusive<usize> = 1..=1000;
/// Heads of an attention.
pub(crate) const HEADS: RangeInclusive<usize> = 1..=1024;
/// Features of a head.
pub(crate) const HEAD_DIMS: RangeInclusive<usize> = 1..=1024;
/// Bases of rotary frequencies.
pub(crate) const ROPE_THETAS: RangeInclusive<f64> = 1.0..=1e9;
/// What norms add to a mean square or a variance.
pub(crate) const EPSILONS: RangeInclusive<f64> = 1e-12..=1.0;

/// A configuration file whose values are checked.
pub(crate) struct ConfigFile<'a>(pub(crate) &'a str);

impl ConfigFile<'_> {
    /// The refusal of `key`.
    pub(crate) fn refusal(&self, key: &'static str, bound: impl Display, given: impl Display) -> LoadError {
        LoadError::Config { file: self.0.into(), key, bound: bound.to_string(), given: given.to_string() }
    }

    /// Refuses `key` unless `holds`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn require(
        &self,
        holds: bool,
        key: &'static str,
        bound: &str,
        given: impl Debug,
    ) -> Result<(), LoadError> {
        if holds { Ok(()) } else { Err(self.refusal(key, bound, format!("{given:?}"))) }
    }

    /// `value` if it lies in `range`.
    ///
    /// # Errors
    /// It does not. (NaN lies in no range.)
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

    /// `value` if it is there and lies in `range`.
    ///
    /// # Errors
    /// It does not, or the file says nothing of it.
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
