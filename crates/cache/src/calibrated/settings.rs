//! The settings of a cache that follows plans, as someone typed them.

use serde::Deserialize;

use super::calibration::Aim;
use crate::kinds::{FileName, Number, Pictures, given};

/// The keys of `--cache-config` with `--cache-backend calibrated`, each within its bound.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibratedSettings {
    /// The file of the measurements, perhaps behind an `@`; without one they are the built-in model's, or learnt.
    #[serde(deserialize_with = "given::<FileName, _>")]
    pub plan: Option<String>,
    /// Pictures to learn plans from where there are none.
    #[serde(deserialize_with = "given::<Pictures<4, 256>, _>")]
    pub learn: Option<usize>,
    /// Share of the steps to compute.
    #[serde(deserialize_with = "given::<Number, _>")]
    pub budget: Option<f64>,
    /// How like its pictures are to be to those of all steps, in dB.
    #[serde(deserialize_with = "given::<Number, _>")]
    pub psnr: Option<f64>,
}

impl CalibratedSettings {
    /// What plans are to reach, if that is given.
    pub fn aim(&self) -> Option<Aim> {
        self.budget.map(Aim::Budget).or(self.psnr.map(Aim::Psnr))
    }
}
