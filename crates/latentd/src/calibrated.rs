//! The settings of the cache backend that follows plans made from measurements.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use cache::{Aim, CacheConfig, Calibration, Plans};
use models::OnLearnt;
use serde::Deserialize;

use crate::error::Error;
use crate::hub_settings::HubSettings;
use crate::plan_store::PlanStore;

/// The settings of `--cache-backend calibrated`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The file of the measurements, perhaps behind an `@`; without one they are the built-in model's, or learnt.
    plan: Option<String>,
    /// Pictures to learn plans from where there are none.
    learn: Option<usize>,
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
    /// Where the plans come from.
    pub source: PlanSource,
}

/// Where plans come from.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanSource {
    /// A file that was named.
    Named(Calibration),
    /// What is known of the model, and what is learnt from so many of its first pictures.
    Learnt {
        /// Pictures.
        pictures: usize,
    },
}

impl PlanSource {
    /// The plans before anything is learnt: where none are named, the built-in model's.
    pub fn known(self) -> Calibration {
        match self {
            PlanSource::Named(calibration) => calibration,
            PlanSource::Learnt { .. } => built_in(),
        }
    }
}

impl Calibrated {
    /// What `{"plan": "@FILE", "budget": SHARE}` or `{"plan": "@FILE", "psnr": DB}` describes. Without either it promises
    /// what [`cache::Quality::Balanced`] does.
    ///
    /// # Errors
    /// A key is missing, unknown or outside its bound, or the file holds no measurements.
    pub fn read(json: &str) -> Result<Self, Error> {
        let refuse = |why: String| Error::Flag(format!("`--cache-config`: {why}"));
        let Settings { plan, learn, budget, psnr } =
            serde_json::from_str(json).map_err(|err| refuse(err.to_string()))?;
        let (key, given, aim) = match (budget, psnr) {
            (Some(share), None) => ("budget", share, Aim::Budget(share)),
            (None, Some(promise)) => ("psnr", promise, Aim::Psnr(promise)),
            (None, None) => ("psnr", BALANCED, Aim::Psnr(BALANCED)),
            _ => {
                return Err(refuse("must have `budget` (a share of the steps) or `psnr` (in dB), and not both".into()));
            }
        };
        aim.check().map_err(|bound| refuse(format!("`{key}` must {bound}. Given: {given}")))?;
        let source = match (plan, learn) {
            (Some(_), Some(_)) => return Err(refuse("must have `plan` or `learn`, and not both".into())),
            (Some(plan), None) => PlanSource::Named(read(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?),
            (None, Some(given)) if !LEARN.contains(&given) => {
                let bound = format!("`learn` must be {} to {} pictures. Given: {given}", LEARN.start(), LEARN.end());
                return Err(refuse(bound));
            }
            (None, learn) => PlanSource::Learnt { pictures: learn.unwrap_or(LEARN_FROM) },
        };
        Ok(Calibrated { config: CacheConfig { planned: Some(aim), ..CacheConfig::default() }, source })
    }

    /// Puts the plans of the model with this digest where there are none yet: a worker that loads its model again goes on with
    /// what has been learnt since. Who is to be told of plans that are learnt.
    ///
    /// # Errors
    /// The plans that were named are of another model.
    pub(crate) fn put(self, plans: &Plans, digest: &str) -> Result<OnLearnt, Error> {
        let put = |calibration: Calibration| {
            if plans.current(calibration.is_guided()).is_none() {
                plans.replace(calibration);
            }
        };
        match self.source {
            PlanSource::Named(calibration) => {
                check_model(&calibration, digest)?;
                put(calibration);
                Ok(OnLearnt::default())
            }
            PlanSource::Learnt { pictures } => {
                let store = PlanStore::new(&HubSettings::from_env().cache_dir, digest);
                Some(built_in()).filter(|calibration| calibration.model == digest).into_iter().for_each(put);
                store.read().into_iter().for_each(put);
                plans.learn_from(pictures);
                Ok(OnLearnt(Some(Arc::new(move |calibration| store.keep(calibration)))))
            }
        }
    }
}

/// Pictures that plans may be learnt from.
const LEARN: RangeInclusive<usize> = 4..=256;
/// How many are where nothing is said.
const LEARN_FROM: usize = 16;

/// The plans that the built-in model comes with.
fn built_in() -> Calibration {
    serde_json::from_str(demo::CALIBRATION).expect("it was written by this program. This is a bug.")
}

/// Checks that plans are of the model with this digest.
///
/// # Errors
/// They are of another.
fn check_model(calibration: &Calibration, digest: &str) -> Result<(), Error> {
    if calibration.model == digest {
        return Ok(());
    }
    Err(Error::Flag(format!(
        "`--cache-config`: the plan is of another model ({}): make one with `latentd cache calibrate --model ... -o plan.json`, \
         and name it as `{{\"plan\":\"@plan.json\"}}`",
        calibration.class
    )))
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
    use cache::{Progress, Quality};
    use models::Checkpoint;

    use super::*;

    const DIGEST: &str = "digest of no model";

    #[test]
    fn the_built_in_model_comes_calibrated() {
        let calibrated = Calibrated::read("{}").unwrap();
        assert_eq!(calibrated.config.planned, Some(Aim::Psnr(BALANCED)));
        assert_eq!((Quality::Balanced.psnr(), built_in().check()), (Some(BALANCED), Ok(())));
        let model = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
        let (plans, digest) = (Plans::default(), model.digest("transformer").unwrap());
        calibrated.put(&plans, &digest).unwrap();
        assert!(plans.current(true).is_some(), "new weights need a new calibration.json");
        assert_eq!(plans.progress(false), Some(Progress { pictures: 0, of: LEARN_FROM }));
    }

    #[test]
    fn another_model_s_plans_are_refused_or_learnt() {
        let told = check_model(&built_in(), DIGEST).unwrap_err().to_string();
        assert!(told.contains("the plan is of another model (QwenImagePipeline): make one with"), "{told}");
        let plans = Plans::default();
        let on_learnt = Calibrated::read(r#"{"learn": 5}"#).unwrap().put(&plans, DIGEST).unwrap();
        assert!(plans.current(true).is_none() && on_learnt.0.is_some());
        assert_eq!(plans.progress(true), Some(Progress { pictures: 0, of: 5 }));
        // A worker that begins again finds what was learnt.
        plans.replace(Calibration { model: DIGEST.into(), pictures: 5, ..built_in() });
        Calibrated::read("{}").unwrap().put(&plans, DIGEST).unwrap();
        assert_eq!(plans.current(true).unwrap().calibration.pictures, 5);
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        let told = |json: &str| Calibrated::read(json).unwrap_err().to_string();
        assert_eq!(told(r#"{"learn": 3}"#), "`--cache-config`: `learn` must be 4 to 256 pictures. Given: 3");
        let both = told(r#"{"learn": 9, "plan": "@plan.json"}"#);
        assert_eq!(both, "`--cache-config`: must have `plan` or `learn`, and not both");
    }
}
