//! Where the plans of a calibrated cache come from.

use std::path::Path;
use std::sync::Arc;

use cache::{Calibration, Planning, Plans, Progress};
use models::OnLearnt;

use crate::error::Error;
use crate::hub::HubSettings;
use crate::json::json_by_path;
use crate::plan_store::PlanStore;

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

/// The plans that the built-in model comes with.
fn built_in() -> Calibration {
    serde_json::from_str(demo::CALIBRATION).expect("it was written by this program. This is a bug.")
}

/// Checks that plans are of the model with this digest.
///
/// # Errors
/// They are of another.
pub(crate) fn check_model(calibration: &Calibration, digest: &str) -> Result<(), Error> {
    if calibration.model == digest {
        return Ok(());
    }
    Err(Error::PlanOfAnotherModel { class: calibration.class.clone() })
}

/// The calibration that a file holds.
///
/// # Errors
/// It cannot be read, or is none.
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
        // A worker that begins again finds what was learnt.
        plans.replace(Calibration { model: DIGEST.into(), pictures: 5, ..built_in() });
        PlanSource::Learnt { pictures: 16 }.put(&plans, DIGEST).unwrap();
        assert_eq!(plans.current(true).unwrap().calibration.pictures, 5);
    }
}
