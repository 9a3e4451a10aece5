//! The settings of the cache backend that follows plans made from measurements.

use std::path::Path;
use std::sync::Arc;

use cache::{Aim, CacheConfig, Calibrated, Calibration};
use serde::Deserialize;

use crate::error::Error;

/// The settings of `--cache-backend calibrated`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The file of the measurements, perhaps behind an `@`.
    plan: String,
    /// Share of the steps to compute.
    budget: Option<f64>,
    /// How like its pictures are to be to those of all steps, in dB.
    psnr: Option<f64>,
}

/// The cache that `{"plan": "@FILE", "budget": SHARE}` or `{"plan": "@FILE", "psnr": DB}` describes.
///
/// # Errors
/// A key is missing, unknown or outside its bound, or the file holds no measurements.
pub fn calibrated_config(json: &str) -> Result<CacheConfig, Error> {
    let refuse = |why: String| Error::Flag(format!("`--cache-config`: {why}"));
    let Settings { plan, budget, psnr } = serde_json::from_str(json).map_err(|err| refuse(err.to_string()))?;
    let (key, given, aim) = match (budget, psnr) {
        (Some(share), None) => ("budget", share, Aim::Budget(share)),
        (None, Some(promise)) => ("psnr", promise, Aim::Psnr(promise)),
        _ => return Err(refuse("must have `budget` (a share of the steps) or `psnr` (in dB), and not both".into())),
    };
    aim.check().map_err(|bound| refuse(format!("`{key}` must {bound}. Given: {given}")))?;
    let calibration = Arc::new(read(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?);
    Ok(CacheConfig { calibrated: Some(Calibrated { calibration, aim }), ..CacheConfig::default() })
}

fn read(path: &Path) -> Result<Calibration, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    let refuse = |why: String| Error::Flag(format!("`{name}` is no calibration of this program: {why}"));
    let calibration: Calibration = serde_json::from_str(&text).map_err(|err| refuse(err.to_string()))?;
    calibration.check().map_err(|why| refuse(format!("it {why}")))?;
    Ok(calibration)
}
