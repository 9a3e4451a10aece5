//! The settings of the cache backend that follows plans made from measurements.

use std::path::Path;

use cache::{Aim, CacheConfig, Calibration};
use serde::Deserialize;

use crate::error::Error;

/// The settings of `--cache-backend calibrated`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The file of the measurements, perhaps behind an `@`; without one they are the built-in model's.
    plan: Option<String>,
    /// Share of the steps to compute.
    budget: Option<f64>,
    /// How like its pictures are to be to those of all steps, in dB.
    psnr: Option<f64>,
}

/// What `--cache-backend calibrated` comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The cache of requests that bring none: it follows plans.
    pub config: CacheConfig,
    /// What the plans are made from.
    pub calibration: Calibration,
}

impl Calibrated {
    /// What `{"plan": "@FILE", "budget": SHARE}` or `{"plan": "@FILE", "psnr": DB}` describes. Without either it promises
    /// what [`cache::Quality::Balanced`] does.
    ///
    /// # Errors
    /// A key is missing, unknown or outside its bound, or the file holds no measurements.
    pub fn read(json: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Flag(format!("`--cache-config`: {why}"));
        let Settings { plan, budget, psnr } = serde_json::from_str(json).map_err(|err| refuse(err.to_string()))?;
        let (key, given, aim) = match (budget, psnr) {
            (Some(share), None) => ("budget", share, Aim::Budget(share)),
            (None, Some(promise)) => ("psnr", promise, Aim::Psnr(promise)),
            (None, None) => ("psnr", BALANCED, Aim::Psnr(BALANCED)),
            _ => {
                return Err(refuse("must have `budget` (a share of the steps) or `psnr` (in dB), and not both".into()));
            }
        };
        aim.check().map_err(|bound| refuse(format!("`{key}` must {bound}. Given: {given}")))?;
        let calibration = match plan {
            Some(plan) => read(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?,
            None => serde_json::from_str(demo::CALIBRATION).expect("it was written by this program. This is a bug."),
        };
        Ok(Calibrated { config: CacheConfig { planned: Some(aim), ..CacheConfig::default() }, calibration })
    }

    /// Checks that the plans are of the model with this digest.
    ///
    /// # Errors
    /// They are of another.
    pub(crate) fn check_model(&self, digest: &str) -> Result<(), Error> {
        if self.calibration.model == digest {
            return Ok(());
        }
        Err(Error::Flag(format!(
            "`--cache-config`: the plan is of another model ({}): make one with `latentd cache calibrate --model ... -o plan.json`, \
             and name it as `{{\"plan\":\"@plan.json\"}}`",
            self.calibration.class
        )))
    }
}

/// What is promised where nothing is said, in dB.
const BALANCED: f64 = 50.0;

fn read(path: &Path) -> Result<Calibration, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    let refuse = |why: String| Error::Flag(format!("`{name}` is no calibration of this program: {why}"));
    let calibration: Calibration = serde_json::from_str(&text).map_err(|err| refuse(err.to_string()))?;
    calibration.check().map_err(|why| refuse(format!("it {why}")))?;
    Ok(calibration)
}

#[cfg(test)]
mod tests {
    use cache::Quality;
    use models::Checkpoint;

    use super::*;

    #[test]
    fn the_built_in_model_comes_calibrated() {
        let calibrated = Calibrated::read("{}").unwrap();
        assert_eq!((calibrated.calibration.check(), calibrated.config.planned), (Ok(()), Some(Aim::Psnr(BALANCED))));
        assert_eq!(Quality::Balanced.psnr(), Some(BALANCED));
        let model = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
        let digest = model.digest("transformer").unwrap();
        assert!(calibrated.check_model(&digest).is_ok(), "new weights need a new calibration.json");
        let told = calibrated.check_model("another").unwrap_err().to_string();
        assert!(told.contains("the plan is of another model (QwenImagePipeline): make one with"), "{told}");
    }
}
