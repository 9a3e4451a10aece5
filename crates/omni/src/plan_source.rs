//! Where the plans of a calibrated cache come from.

use std::path::Path;
use std::sync::Arc;

use cache::{Calibration, Planning, Plans, Progress};
use models::OnLearnt;

use crate::error::Error;
use crate::hub::HubSettings;
use crate::json::json_by_path;
use crate::plan_store::PlanStore;

/// The source of a calibrated cache's plans.
#[derive(Clone, Debug, PartialEq)]
pub enum PlanSource {
    /// Plans from a file that the operator named.
    Named(Calibration),
    /// Plans known for the model, else plans learnt from its first pictures.
    Learnt {
        /// Number of pictures to learn from.
        pictures: usize,
    },
}

impl PlanSource {
    /// The plans before anything is learnt: the named ones, or those of the built-in model.
    pub fn known(self) -> Calibration {
        match self {
            PlanSource::Named(calibration) => calibration,
            PlanSource::Learnt { .. } => built_in(),
        }
    }

    /// Stores the plans of the model with this digest in `plans` where there are none yet. A worker that reloads its
    /// model keeps what has been learnt since. Returns the callback for plans that are learnt.
    ///
    /// # Errors
    /// The named plans belong to another model.
    pub(crate) fn put(self, plans: &Plans, digest: &str) -> Result<OnLearnt, Error> {
        let hub = HubSettings::from_env().cache_dir;
        let put = |calibration: Calibration| {
            let is_missing = plans.current(calibration.is_guided()).is_none();
            if is_missing {
                plans.replace(calibration);
            }
            is_missing
        };
        match self {
            PlanSource::Named(calibration) => {
                check_model(&calibration, digest)?;
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

/// Logs which kinds of requests have no plans, and how many pictures plans are learnt from.
fn tell_of_learning(plans: &Plans) {
    for (guided, requests) in [(true, "with guidance"), (false, "without guidance")] {
        if let Some(Progress { of, .. }) = plans.progress(guided) {
            tracing::info!(
                "there are no plans for requests {requests}: the first {of} alike are computed whole, and plans learnt from them"
            );
        }
    }
}

/// The plans shipped with the built-in model.
fn built_in() -> Calibration {
    serde_json::from_str(demo::CALIBRATION).expect("it was written by this program. This is a bug.")
}

/// Checks that plans belong to the model with this digest.
///
/// # Errors
/// They belong to another model.
pub(crate) fn check_model(calibration: &Calibration, digest: &str) -> Result<(), Error> {
    if calibration.model == digest {
        return Ok(());
    }
    Err(Error::PlanOfAnotherModel { class: calibration.class.clone() })
}

/// Reads a calibration from a file.
///
/// # Errors
/// The file cannot be read, or is not a valid calibration.
pub fn read_calibration(path: &Path) -> Result<Calibration, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    let refuse = |why: String| Error::Calibration { path: name.clone(), why };
    let calibration: Calibration = json_by_path(&text).map_err(refuse)?;
    calibration.check().map_err(|why| refuse(format!("it {why}")))?;
    Ok(calibration)
}

#[cfg(test)]
mod tests {
    use models::Checkpoint;

    use super::*;

    const DIGEST: &str = "digest of no model";

    #[test]
    fn the_built_in_model_comes_calibrated() {
        assert_eq!(built_in().check(), Ok(()));
        let model = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
        let (plans, digest) = (Plans::default(), model.digest("transformer").unwrap());
        PlanSource::Learnt { pictures: 16 }.put(&plans, &digest).unwrap();
        assert!(plans.current(true).is_some(), "new weights need a new calibration.json");
        assert_eq!(plans.progress(false), Some(Progress { pictures: 0, of: 16 }));
    }

    #[test]
    fn another_model_s_plans_are_refused_or_learnt() {
        let refused = PlanSource::Named(built_in()).put(&Plans::default(), DIGEST).err().unwrap();
        assert_eq!(refused.to_string(), "the plan is of another model (QwenImagePipeline)");
        let plans = Plans::default();
        let on_learnt = PlanSource::Learnt { pictures: 5 }.put(&plans, DIGEST).unwrap();
        assert!(plans.current(true).is_none() && on_learnt.0.is_some());
        assert_eq!(plans.progress(true), Some(Progress { pictures: 0, of: 5 }));
        // A restarted worker finds what was learnt.
        plans.replace(Calibration { model: DIGEST.into(), pictures: 5, ..built_in() });
        PlanSource::Learnt { pictures: 16 }.put(&plans, DIGEST).unwrap();
        assert_eq!(plans.current(true).unwrap().calibration.pictures, 5);
    }
}
