//! Plans that were learnt while serving, on this machine: beside the Hub's cache, by the digest of their model.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cache::Calibration;

use crate::whole_file::write_whole;

/// The learnt plans of one model.
#[derive(Clone, Debug)]
pub(crate) struct PlanStore {
    folder: PathBuf,
    digest: String,
}

impl PlanStore {
    /// Of the transformer with this digest, where the Hub's cache is `hub`.
    pub(crate) fn new(hub: &Path, digest: &str) -> Self {
        // `$HF_HOME/hub` is the cache of models alone.
        let home = hub.parent().unwrap_or(hub);
        PlanStore { folder: home.join("latentd").join("plans"), digest: digest.into() }
    }

    /// The plans that are there, for either kind of request. What is damaged is told, and as if it were not there.
    pub(crate) fn read(&self) -> Vec<Calibration> {
        let readable = |guided| match self.read_one(guided) {
            Ok(found) => found,
            Err(why) => {
                let file = self.file(guided);
                tracing::warn!(file = %file.display(), "learnt plans cannot be read and are learnt anew: {why}");
                None
            }
        };
        [true, false].into_iter().filter_map(readable).collect()
    }

    /// Keeps plans for the next start. That they cannot be is told.
    pub(crate) fn keep(&self, calibration: &Calibration) {
        let file = self.file(calibration.is_guided());
        let json = serde_json::to_string(calibration).expect("numbers make JSON. This is a bug.");
        match std::fs::create_dir_all(&self.folder).and_then(|()| write_whole(&file, json.as_bytes())) {
            Ok(()) => tracing::info!(
                file = %file.display(),
                "learnt plans are kept for the next start; `latentd cache calibrate` makes better ones"
            ),
            Err(err) => {
                tracing::warn!(file = %file.display(), %err, "learnt plans cannot be kept: they are learnt anew at the next start")
            }
        }
    }

    fn read_one(&self, guided: bool) -> Result<Option<Calibration>, String> {
        let text = match std::fs::read_to_string(self.file(guided)) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|err| err.to_string())?,
        };
        let calibration: Calibration = serde_json::from_str(&text).map_err(|err| err.to_string())?;
        calibration.check().map_err(|why| format!("it {why}"))?;
        match calibration.model == self.digest && calibration.is_guided() == guided {
            true => Ok(Some(calibration)),
            false => Err("it is of another model or of other requests".into()),
        }
    }

    fn file(&self, guided: bool) -> PathBuf {
        let kind = if guided { "guided" } else { "unguided" };
        self.folder.join(format!("{}-{kind}.json", self.digest))
    }
}

#[cfg(test)]
mod tests {
    use cache::FittedPlan;

    use super::*;

    fn calibration(guidance: Option<f64>) -> Calibration {
        let (class, model) = ("QwenImagePipeline".into(), "0123".into());
        let plans = vec![FittedPlan::whole(4)];
        Calibration { class, model, num_inference_steps: 4, guidance, pictures: 16, plans }
    }

    #[test]
    fn plans_are_there_at_the_next_start_and_those_of_another_model_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let hub = folder.path().join("hub");
        let store = PlanStore::new(&hub, "0123");
        assert_eq!(store.read(), []);
        store.keep(&calibration(None));
        store.keep(&calibration(Some(4.0)));
        assert_eq!(PlanStore::new(&hub, "0123").read(), [calibration(Some(4.0)), calibration(None)]);
        assert_eq!(PlanStore::new(&hub, "4567").read(), []);
        assert!(folder.path().join("latentd/plans/0123-guided.json").is_file());
    }

    #[test]
    fn a_damaged_file_is_as_if_it_were_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = PlanStore::new(&folder.path().join("hub"), "0123");
        store.keep(&calibration(Some(4.0)));
        let file = store.file(true);
        let whole = std::fs::read_to_string(&file).unwrap();
        let other = whole.replace("0123", "4567");
        for text in [&whole[..whole.len() / 2], "", "{}", &other, &whole.replace("\"latents\":0.0", "\"latents\":null")]
        {
            std::fs::write(&file, text).unwrap();
            assert!(store.read_one(true).is_err(), "{text}");
            assert_eq!(store.read(), [], "{text}");
        }
        store.keep(&calibration(Some(4.0)));
        assert_eq!(store.read().len(), 1);
    }
}
