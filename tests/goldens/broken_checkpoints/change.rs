//! Changes to the folder of a tiny checkpoint.

use std::fs;
use std::path::Path;

use models::{Checkpoint, family_of};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use tempfile::TempDir;

use Change::{Halve, Json, Remove, Rename, Tensor, Text, Write};

use crate::compare::changed_checkpoint;
use crate::loading::{load, tiny};

/// One change to a checkpoint's folder.
pub enum Change {
    /// Sets the value of a JSON file at a pointer such as `/text_config/rope_theta`.
    Json(&'static str, &'static str, Value),
    /// Replaces a part of a text file.
    Text(&'static str, &'static str, &'static str),
    Write(&'static str, &'static str),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    /// Truncates a file to its first half.
    Halve(&'static str),
    /// Replaces a tensor by zeros of another format and shape; `None` removes it.
    Tensor(&'static str, &'static str, Option<(Dtype, &'static [usize])>),
}

/// Copies the tiny checkpoint of `class` and applies `changes`.
pub fn changed(class: &str, changes: &[Change]) -> TempDir {
    let folder = changed_checkpoint(&tiny(class).0, &[("model_index.json", "_class_name", class.into())]);
    changes.iter().for_each(|change| change.apply(folder.path()));
    folder
}

impl Change {
    fn apply(&self, folder: &Path) {
        let at = |file: &str| folder.join(file);
        let read = |file: &str| fs::read(at(file)).unwrap();
        // The copied file may be a link, or read-only.
        let write = |file: &str, bytes: &[u8]| {
            let _ = fs::remove_file(at(file));
            fs::write(at(file), bytes).unwrap();
        };
        match self {
            Json(file, pointer, value) => {
                let mut json: Value = serde_json::from_slice(&read(file)).unwrap();
                match json.pointer_mut(pointer) {
                    Some(there) => *there = value.clone(),
                    None => {
                        let (parent, key) = pointer.rsplit_once('/').unwrap();
                        json.pointer_mut(parent).unwrap()[key] = value.clone();
                    }
                }
                write(file, json.to_string().as_bytes());
            }
            Text(file, from, to) => {
                let text = String::from_utf8(read(file)).unwrap();
                assert!(text.contains(from), "{file}");
                write(file, text.replace(from, to).as_bytes());
            }
            Write(file, text) => write(file, text.as_bytes()),
            Remove(file) => fs::remove_file(at(file)).unwrap(),
            Rename(from, to) => fs::rename(at(from), at(to)).unwrap(),
            Halve(file) => write(file, &read(file)[..read(file).len() / 2]),
            Tensor(file, name, becomes) => write(file, &with_tensor(&read(file), name, *becomes)),
        }
    }
}

fn with_tensor(file: &[u8], name: &str, becomes: Option<(Dtype, &[usize])>) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    assert!(tensors.names().contains(&name), "{name}");
    let zeros = becomes.map(|(dtype, shape)| vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8]);
    let views = tensors.tensors().into_iter().filter_map(|(other, view)| match (other == name, becomes) {
        (false, _) => Some((other, view)),
        (true, None) => None,
        (true, Some((dtype, shape))) => {
            Some((other, TensorView::new(dtype, shape.to_vec(), zeros.as_deref().unwrap()).unwrap()))
        }
    });
    safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
}

/// Returns the error message of loading a checkpoint.
#[track_caller]
pub fn message(folder: &Path) -> String {
    let loaded = Checkpoint::open(folder).and_then(|checkpoint| family_of(&checkpoint).map(|_| ()));
    match loaded.and_then(|()| load(folder)) {
        Ok(_) => "nothing: it was loaded".into(),
        Err(err) => err.to_string(),
    }
}

#[track_caller]
pub fn assert_messages(cases: Vec<(&str, Change, &str)>) {
    for (class, change, expected) in cases {
        let folder = changed(class, &[change]);
        let message = message(folder.path());
        let place = folder.path().display().to_string();
        assert!(message.starts_with(&expected.replace("{folder}", &place)), "{message}\nis not\n{expected}");
    }
}
