//! One key with the value given for it, read as what the key must be.

use crate::keys::KEYS;
use crate::value::Value;
use crate::{ConfigError, MaskSource, ScmPolicy, StepMask};

/// A key that exists, with the value given for it.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'static str,
    pub(crate) value: &'a Value,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(name: &str, value: &'a Value) -> Result<Self, ConfigError> {
        match KEYS.iter().find(|&&key| key == name) {
            Some(key) => Ok(Entry { key, value }),
            None => Err(ConfigError::unknown_key(name)),
        }
    }

    pub(crate) fn invalid(self, bound: impl Into<String>) -> ConfigError {
        ConfigError::invalid(self.key, bound, self.value)
    }

    pub(crate) fn count(self, least: usize) -> Result<usize, ConfigError> {
        match *self.value {
            Value::Int(n) if n >= least as i64 => Ok(n as usize),
            _ => Err(self.invalid(format!("be a whole number of at least {least}"))),
        }
    }

    /// A whole number, or -1 for no limit.
    pub(crate) fn limit(self) -> Result<Option<usize>, ConfigError> {
        match *self.value {
            Value::Int(-1) => Ok(None),
            Value::Int(n) if n >= 0 => Ok(Some(n as usize)),
            _ => Err(self.invalid("be a whole number of at least 0, or -1 for no limit")),
        }
    }

    pub(crate) fn number(self) -> Result<f64, ConfigError> {
        match *self.value {
            Value::Number(x) => Ok(x),
            Value::Int(n) => Ok(n as f64),
            _ => Err(self.invalid("be a number")),
        }
    }

    pub(crate) fn flag(self) -> Result<bool, ConfigError> {
        match *self.value {
            Value::Bool(flag) => Ok(flag),
            _ => Err(self.invalid("be true or false")),
        }
    }

    pub(crate) fn or_null<T>(self, read: impl Fn(Self) -> Result<T, ConfigError>) -> Result<Option<T>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            _ => read(self).map(Some),
        }
    }

    pub(crate) fn list<T>(
        self,
        of: &str,
        read: impl Fn(Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let list = match self.value {
            Value::List(values) => values.iter().map(|value| read(Entry { value, ..self }).ok()).collect(),
            _ => None,
        };
        list.ok_or_else(|| self.invalid(format!("be a list of {of}")))
    }

    pub(crate) fn one_of<T: Copy>(self, named: &[(&str, T)]) -> Result<T, ConfigError> {
        let found = match self.value {
            Value::Text(text) => named.iter().find(|(name, _)| name == text),
            _ => None,
        };
        found.map(|&(_, meaning)| meaning).ok_or_else(|| {
            let names: Vec<_> = named.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.invalid(format!("be one of {}", names.join(", ")))
        })
    }

    /// A flag of cache-dit's that has one meaning here.
    pub(crate) fn only(self, accepted: bool, bound: &str) -> Result<(), ConfigError> {
        match *self.value {
            Value::Null => Ok(()),
            Value::Bool(flag) if flag == accepted => Ok(()),
            _ => Err(self.invalid(bound)),
        }
    }

    pub(crate) fn bins(self) -> Result<Vec<usize>, ConfigError> {
        self.list("whole numbers of at least 0", |entry| entry.count(0))
    }

    /// `scm_steps_mask_policy`, or `steps_computation_mask`, which may name a policy too.
    pub(crate) fn mask(self) -> Result<MaskSource, ConfigError> {
        if self.key == "scm_steps_mask_policy" {
            return self.one_of(&ScmPolicy::NAMED).map(MaskSource::Policy);
        }
        if let Ok(policy) = self.one_of(&ScmPolicy::NAMED) {
            return Ok(MaskSource::Policy(policy));
        }
        let mask = match self.value {
            Value::Text(text) => text.parse().ok(),
            Value::List(steps) => steps.iter().map(zero_or_one).collect::<Option<Vec<_>>>().map(StepMask::from_steps),
            _ => None,
        };
        let bound = "be a list of 0 and 1, a string of them, or one of \"slow\", \"medium\", \"fast\", \"ultra\"";
        mask.map(MaskSource::Steps).ok_or_else(|| self.invalid(bound))
    }
}

fn zero_or_one(step: &Value) -> Option<bool> {
    match step {
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        _ => None,
    }
}
