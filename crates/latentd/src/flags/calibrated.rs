//! The settings of the cache backend `calibrated`, which follows plans made from measurements.

use std::path::Path;

use cache::{Aim, CacheConfig, CacheOverrides};
use omni::{PlanSource, read_calibration};

use crate::error::Error;

/// The resolved settings of `--cache-backend calibrated`.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The cache of requests that name none. It follows plans.
    pub config: CacheConfig,
    /// The source of the plans.
    pub source: PlanSource,
}

impl Calibrated {
    /// Reads `{"plan": "@FILE", "budget": SHARE}` or `{"plan": "@FILE", "psnr": DB}`. Without `budget` and `psnr` the
    /// aim is that of [`cache::Preset::Balanced`].
    ///
    /// # Errors
    /// A key is unknown or outside its bound, or the file is not a calibration.
    pub fn read(keys: &CacheOverrides) -> Result<Self, Error> {
        let settings = keys.calibrated().map_err(|err| Error::Flag(format!("`--cache-config`: {err}")))?;
        let aim = settings.aim().unwrap_or(Aim::Psnr(BALANCED));
        let source = match settings.plan {
            Some(plan) => PlanSource::Named(read_calibration(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?),
            None => PlanSource::Learnt { pictures: settings.learn.unwrap_or(LEARN_FROM) },
        };
        Ok(Calibrated { config: CacheConfig { planned: Some(aim), ..CacheConfig::default() }, source })
    }
}

/// Default number of pictures that plans are learnt from.
const LEARN_FROM: usize = 16;

/// Default PSNR to aim for, in dB.
const BALANCED: f64 = 50.0;

#[cfg(test)]
mod tests {
    use cache::Preset;

    use super::*;

    fn described(json: &str) -> Result<Calibrated, Error> {
        Calibrated::read(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn without_keys_it_promises_what_balanced_does() {
        let calibrated = described("{}").unwrap();
        assert_eq!(calibrated.config.planned, Some(Aim::Psnr(BALANCED)));
        assert_eq!(Preset::Balanced.psnr(), Some(BALANCED));
        assert_eq!(calibrated.source, PlanSource::Learnt { pictures: LEARN_FROM });
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        let told = |json: &str| described(json).unwrap_err().to_string();
        for given in ["3", "1000000000.0", "257", "\"many\"", "null"] {
            let expected = format!("`--cache-config`: `learn` must be 4 to 256 pictures. Given: {given}");
            assert_eq!(told(&format!(r#"{{"learn": {given}}}"#)), expected);
        }
        let both = told(r#"{"learn": 9, "plan": "@plan.json"}"#);
        assert_eq!(both, "`--cache-config`: `learn` must be absent where `plan` is given. Given: 9");
        let both = told(r#"{"budget": 0.4, "psnr": 45}"#);
        assert_eq!(both, "`--cache-config`: `psnr` must be absent where `budget` is given. Given: 45");
        let file = told(r#"{"plan": 3}"#);
        assert_eq!(file, "`--cache-config`: `plan` must be a file's name, such as \"@plan.json\". Given: 3");
        let near = told(r#"{"psmr": 45}"#);
        assert_eq!(near, "`--cache-config`: `psmr` is not a key of the cache configuration. Near: psnr");
    }
}
