//! Files beside the Hub's cache with the plans that were learnt while serving, and by how much audits tightened plans.
//! Each file is named after the digest of its model.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cache::{Calibration, Planning, Plans};
use serde::{Deserialize, Serialize};

use crate::json::json_by_path;
use crate::whole_file::{check_writable, write_whole};

/// The plans of one model.
#[derive(Clone, Debug)]
pub(crate) struct PlanStore {
    folder: PathBuf,
    digest: String,
    /// Suffix of the file name. It separates learnt plans from the tightening of plans in a named file.
    source: &'static str,
    is_writable: bool,
}

/// Contents of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Kept {
    calibration: Calibration,
    /// How much audits tightened the plans, in dB.
    tightened_by: f64,
}

impl PlanStore {
    /// The store of learnt plans for the transformer with this digest, beside the Hub's cache at `hub`. Logs a warning
    /// if the place is not writable.
    pub(crate) fn new(hub: &Path, digest: &str) -> Self {
        PlanStore::open(hub, digest, "")
    }

    /// The store for plans from a named file, of which only the tightening is read back.
    pub(crate) fn of_named(hub: &Path, digest: &str) -> Self {
        PlanStore::open(hub, digest, "-named")
    }

    fn open(hub: &Path, digest: &str, source: &'static str) -> Self {
        // `$HF_HOME/hub` is the cache of models alone.
        let home = hub.parent().unwrap_or(hub);
        let folder = home.join("latentd").join("plans");
        let unwritable = check_place(&folder).err();
        if let Some(err) = &unwritable {
            tracing::warn!(
                folder = %folder.display(),
                "`HF_HOME`: plans that are learnt cannot be kept for the next start ({err})"
            );
        }
        PlanStore { folder, digest: digest.into(), source, is_writable: unwritable.is_none() }
    }

    /// Restores what is stored. Offers the plans to `put`, which returns whether they are followed now. Applies the
    /// stored tightening to followed plans that are the same. Later tightening is written to the store.
    pub(crate) fn resume(&self, plans: &Plans, put: impl Fn(Calibration) -> bool) {
        for Planning { calibration, shift } in self.read() {
            let guided = calibration.is_guided();
            if put((*calibration).clone()) {
                let (file, pictures, steps) =
                    (self.file(guided), calibration.pictures, calibration.num_inference_steps);
                tracing::info!(file = %file.display(), pictures, steps, guided, "plans were read");
            }
            let is_followed =
                plans.current(guided).is_some_and(|now| now.calibration == calibration && now.shift < shift);
            if is_followed {
                tracing::info!(tightened = shift, guided, "plans are as tight as audits made them before (dB)");
                plans.tighten(guided, shift);
            }
        }
        let store = self.clone();
        plans.on_tightened(move |planning| store.keep(planning));
    }

    /// The stored plans, for guided and unguided requests. A damaged file is logged and ignored.
    fn read(&self) -> Vec<Planning> {
        let readable = |guided| match self.read_one(guided) {
            Ok(found) => found,
            Err(why) => {
                let file = self.file(guided);
                tracing::warn!(file = %file.display(), "kept plans cannot be read and are learnt anew: {why}");
                None
            }
        };
        [true, false].into_iter().filter_map(readable).collect()
    }

    /// Writes plans for the next start. A failure is logged, unless the place was found unwritable at the start.
    pub(crate) fn keep(&self, planning: &Planning) {
        if !self.is_writable {
            return;
        }
        let file = self.file(planning.calibration.is_guided());
        let kept = Kept { calibration: (*planning.calibration).clone(), tightened_by: planning.shift };
        let json = serde_json::to_string(&kept).expect("numbers make JSON. This is a bug.");
        match std::fs::create_dir_all(&self.folder).and_then(|()| write_whole(&file, json.as_bytes())) {
            Ok(()) => tracing::info!(
                file = %file.display(),
                tightened = planning.shift,
                "plans are kept for the next start; `latentd cache calibrate` makes better ones than are learnt"
            ),
            Err(err) => {
                tracing::warn!(file = %file.display(), %err, "plans cannot be kept: they are learnt anew at the next start")
            }
        }
    }

    fn read_one(&self, guided: bool) -> Result<Option<Planning>, String> {
        let text = match std::fs::read_to_string(self.file(guided)) {
            Err(err) if err.kind() == ErrorKind::NotFound || !self.is_writable => return Ok(None),
            text => text.map_err(|err| err.to_string())?,
        };
        // Older versions wrote the calibration alone, without the tightening.
        let bare = |why| {
            json_by_path(&text).map(|calibration| Kept { calibration, tightened_by: 0.0 }).map_err(|_: String| why)
        };
        let Kept { calibration, tightened_by: shift } = json_by_path(&text).or_else(bare)?;
        calibration.check().map_err(|why| format!("it {why}"))?;
        if !(0.0..=MOST_TIGHTENED).contains(&shift) {
            return Err(format!("it must have `tightened_by` from 0 to {MOST_TIGHTENED} dB. Given: {shift}"));
        }
        match calibration.model == self.digest && calibration.is_guided() == guided {
            true => Ok(Some(Planning { shift, ..Planning::new(calibration) })),
            false => Err("it is of another model or of other requests".into()),
        }
    }

    fn file(&self, guided: bool) -> PathBuf {
        let kind = if guided { "guided" } else { "unguided" };
        self.folder.join(format!("{}-{kind}{}.json", self.digest, self.source))
    }
}

/// Upper bound of a plausible tightening in a file, in dB.
const MOST_TIGHTENED: f64 = 100.0;

/// Checks that a folder exists or can be created, and is writable.
fn check_place(folder: &Path) -> io::Result<()> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    check_writable(&there.join("plans.json"))
}

#[cfg(test)]
mod tests {
    use cache::FittedPlan;

    use super::*;

    fn planning(guidance: Option<f64>, shift: f64) -> Planning {
        let (class, model) = ("QwenImagePipeline".into(), "0123".into());
        let plans = vec![FittedPlan::whole(4)];
        let calibration = Calibration { class, model, num_inference_steps: 4, guidance, pictures: 16, plans };
        Planning { shift, ..Planning::new(calibration) }
    }

    #[test]
    fn plans_are_there_at_the_next_start_and_those_of_another_model_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let hub = folder.path().join("hub");
        let store = PlanStore::new(&hub, "0123");
        assert_eq!(store.read(), []);
        store.keep(&planning(None, 0.0));
        store.keep(&planning(Some(4.0), 1.5));
        assert_eq!(PlanStore::new(&hub, "0123").read(), [planning(Some(4.0), 1.5), planning(None, 0.0)]);
        assert_eq!(PlanStore::new(&hub, "4567").read(), []);
        assert!(folder.path().join("latentd/plans/0123-guided.json").is_file());
        // The format of older versions, without the tightening.
        let bare = serde_json::to_string(&*planning(None, 0.0).calibration).unwrap();
        std::fs::write(store.file(false), bare).unwrap();
        assert_eq!(store.read_one(false), Ok(Some(planning(None, 0.0))));
    }

    #[test]
    fn tightening_outlives_a_restart_with_the_same_plans_alone() {
        let folder = tempfile::tempdir().unwrap();
        let hub = folder.path().join("hub");
        let started = |calibration: &Calibration, store: PlanStore| {
            let plans = Plans::default();
            plans.replace(calibration.clone());
            store.resume(&plans, |_| false);
            plans
        };
        let known = planning(Some(4.0), 0.0).calibration;
        started(&known, PlanStore::of_named(&hub, "0123")).tighten(true, 2.5);
        let shift = |calibration: &Calibration, store| started(calibration, store).current(true).unwrap().shift;
        assert_eq!(shift(&known, PlanStore::of_named(&hub, "0123")), 2.5);
        let other = Calibration { pictures: 17, ..(*known).clone() };
        assert_eq!(shift(&other, PlanStore::of_named(&hub, "0123")), 0.0);
        assert_eq!(shift(&known, PlanStore::new(&hub, "0123")), 0.0, "those were learnt");
        // A server without named plans follows the learnt ones, with their tightening.
        let learnt = PlanStore::new(&hub, "0123");
        learnt.keep(&planning(Some(4.0), 1.25));
        let plans = Plans::default();
        learnt.resume(&plans, |calibration| {
            plans.replace(calibration);
            true
        });
        assert_eq!(plans.current(true).unwrap(), planning(Some(4.0), 1.25));
    }

    #[test]
    fn a_damaged_file_is_as_if_it_were_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = PlanStore::new(&folder.path().join("hub"), "0123");
        store.keep(&planning(Some(4.0), 0.0));
        let file = store.file(true);
        let whole = std::fs::read_to_string(&file).unwrap();
        let other = whole.replace("0123", "4567");
        let (wild, null) = ("\"tightened_by\":-1.0", "\"tightened_by\":null");
        let [wild, null] = [wild, null].map(|tightened| whole.replace("\"tightened_by\":0.0", tightened));
        assert!(wild != whole);
        let latents = whole.replace("\"latents\":0.0", "\"latents\":null");
        for text in [&whole[..whole.len() / 2], "", "{}", &other, &latents, &wild, &null] {
            std::fs::write(&file, text).unwrap();
            assert!(store.read_one(true).is_err(), "{text}");
            assert_eq!(store.read(), [], "{text}");
        }
        store.keep(&planning(Some(4.0), 0.0));
        assert_eq!(store.read().len(), 1);
    }

    #[test]
    fn a_place_that_takes_no_files_is_found_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_place(&file.join("latentd/plans")).is_err());
        assert!(check_place(&folder.path().join("latentd/plans")).is_ok());
        assert!(!folder.path().join("latentd").exists(), "nothing is left behind");
        let store = PlanStore::new(&file.join("hub"), "0123");
        store.keep(&planning(None, 0.0));
        assert_eq!((store.is_writable, store.read().len()), (false, 0));
    }
}
