//! The settings of a cache with calibrated plans, as given by the user.

use serde::Deserialize;

use super::calibration::Aim;
use crate::kinds::{FileName, Number, Pictures, given};

/// The keys of `--cache-config` with `--cache-backend calibrated`; each is within its bound.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibratedSettings {
    /// The calibration file, optionally with a leading `@`. Without one the plans are the built-in model's, or learnt.
    #[serde(deserialize_with = "given::<FileName, _>")]
    pub plan: Option<String>,
    /// Number of pictures to learn plans from if there are none.
    #[serde(deserialize_with = "given::<Pictures<4, 256>, _>")]
    pub learn: Option<usize>,
    /// Maximum share of the steps to compute.
    #[serde(deserialize_with = "given::<Number, _>")]
    pub budget: Option<f64>,
    /// PSNR in dB to keep against the pictures of all steps.
    #[serde(deserialize_with = "given::<Number, _>")]
    pub psnr: Option<f64>,
}

impl CalibratedSettings {
    /// The aim of plans, if given.
    pub fn aim(&self) -> Option<Aim> {
        self.budget.map(Aim::Budget).or(self.psnr.map(Aim::Psnr))
    }
}
