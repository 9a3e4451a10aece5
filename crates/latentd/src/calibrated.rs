//! The settings of the cache backend that follows plans made from measurements.

use std::path::Path;
use std::sync::Arc;

use cache::{Aim, CacheConfig, CacheOverrides, Calibration, Planning, Plans, Progress};
use models::OnLearnt;

use crate::error::Error;
use crate::hub_settings::HubSettings;
use crate::json::json_by_path;
use crate::plan_store::PlanStore;

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
    /// A key is unknown or outside its bound, or the file holds no measurements.
    pub fn read(keys: &CacheOverrides) -> Result<Self, Error> {
        let settings = keys.calibrated().map_err(|err| Error::Flag(format!("`--cache-config`: {err}")))?;
        let aim = settings.aim().unwrap_or(Aim::Psnr(BALANCED));
        let source = match settings.plan {
            Some(plan) => PlanSource::Named(read(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?),
            None => PlanSource::Learnt { pictures: settings.learn.unwrap_or(LEARN_FROM) },
        };
        Ok(Calibrated { config: CacheConfig { planned: Some(aim), ..CacheConfig::default() }, source })
    }

    /// Puts the plans of the model with this digest where there are none yet: a worker that loads its model again goes on with
    /// what has been learnt since. Who is to be told of plans that are learnt.
    ///
    /// # Errors
    /// The plans that were named are of another model.
    pub(crate) fn put(self, plans: &Plans, digest: &str) -> Result<OnLearnt, Error> {
        let hub = HubSettings::from_env().cache_dir;
        let put = |calibration: Calibration| {
            let is_missing = plans.current(calibration.is_guided()).is_none();
            if is_missing {
                plans.replace(calibration);
            }
            is_missing
        };
        match self.source {
            PlanSource::Named(calibration) => {
                check_model(&calibration, digest, "--cache-config")?;
                put(calibration);
                PlanStore::of_named(&hub, digest).resume(plans, |_| false);
                Ok(OnLearnt::default())
            }
            PlanSource::Learnt { pictures } => {
                if built_in().model == digest && put(built_in()) {
                    tracing::info!("plans of the built-in model are followed");
                }
                let store = PlanStore::new(&hub, digest);
                store.resume(plans, put);
                let is_new = plans.progress(true).or(plans.progress(false)).is_none();
                plans.learn_from(pictures);
                if is_new {
                    tell_of_learning(plans);
                }
                Ok(OnLearnt(Some(Arc::new(move |calibration| store.keep(&Planning::new(calibration.clone()))))))
            }
        }
    }
}

/// Tells what plans are learnt from.
fn tell_of_learning(plans: &Plans) {
    for (guided, requests) in [(true, "with guidance"), (false, "without guidance")] {
        if let Some(Progress { of, .. }) = plans.progress(guided) {
            tracing::info!(
                "there are no plans for requests {requests}: the first {of} alike are computed whole, and plans learnt from them"
            );
        }
    }
}

/// Pictures that plans are learnt from where nothing is said.
const LEARN_FROM: usize = 16;

/// The plans that the built-in model comes with.
fn built_in() -> Calibration {
    serde_json::from_str(demo::CALIBRATION).expect("it was written by this program. This is a bug.")
}

/// Checks that plans are of the model with this digest.
///
/// # Errors
/// They are of another.
pub(crate) fn check_model(calibration: &Calibration, digest: &str, flag: &str) -> Result<(), Error> {
    if calibration.model == digest {
        return Ok(());
    }
    Err(Error::Flag(format!(
        "`{flag}`: the plan is of another model ({}): make one with `latentd cache calibrate --model ... -o plan.json`, \
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
    let calibration: Calibration = json_by_path(&text).map_err(refuse)?;
    calibration.check().map_err(|why| refuse(format!("it {why}")))?;
    Ok(calibration)
}

#[cfg(test)]
mod tests {
    use cache::Quality;
    use models::Checkpoint;

    use super::*;

    const DIGEST: &str = "digest of no model";

    fn described(json: &str) -> Result<Calibrated, Error> {
        Calibrated::read(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_built_in_model_comes_calibrated() {
        let calibrated = described("{}").unwrap();
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
        let told = check_model(&built_in(), DIGEST, "--cache-config").unwrap_err().to_string();
        assert!(told.contains("the plan is of another model (QwenImagePipeline): make one with"), "{told}");
        let plans = Plans::default();
        let on_learnt = described(r#"{"learn": 5}"#).unwrap().put(&plans, DIGEST).unwrap();
        assert!(plans.current(true).is_none() && on_learnt.0.is_some());
        assert_eq!(plans.progress(true), Some(Progress { pictures: 0, of: 5 }));
        // A worker that begins again finds what was learnt.
        plans.replace(Calibration { model: DIGEST.into(), pictures: 5, ..built_in() });
        described("{}").unwrap().put(&plans, DIGEST).unwrap();
        assert_eq!(plans.current(true).unwrap().calibration.pictures, 5);
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
