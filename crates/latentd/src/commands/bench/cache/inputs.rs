//! The files that say what to measure: prompts, one a line, and named configurations.

use std::path::Path;

use cache::{CacheConfig, CacheOverrides, Calibration, Quality};
use latentd::{Calibrated, Error};
use serde::Deserialize;
use serde_json::{Value, json};

/// A configuration under the name that the table gives it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    /// The keys as they were typed.
    pub(super) keys: Value,
    /// What they mean.
    pub(super) config: CacheConfig,
    /// What its plans are made from, if it follows plans.
    pub(super) calibration: Option<Calibration>,
}

/// An entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    /// Keys over the guide's defaults.
    config: Value,
}

/// The configurations of a JSON list of `{"name": …, "config": {…}}`.
///
/// # Errors
/// It is none, two have one name, or a key does not exist or is outside its bound.
pub(super) fn configurations(text: &str, file: &str) -> Result<Vec<Named>, Error> {
    let refuse = |why: String| Error::Flag(format!("`--configs`, `{file}`: {why}"));
    let entries: Vec<Entry> = serde_json::from_str(text).map_err(|err| refuse(err.to_string()))?;
    let mut named: Vec<Named> = Vec::new();
    for Entry { name, config: keys } in entries {
        if named.iter().any(|known| known.name == name) {
            return Err(refuse(format!("two configurations are named {name:?}")));
        }
        let (config, calibration) = meaning(&keys).map_err(|why| refuse(format!("{name:?}: {why}")))?;
        named.push(Named { name, keys, config, calibration });
    }
    Ok(named)
}

fn meaning(keys: &Value) -> Result<(CacheConfig, Option<Calibration>), String> {
    if keys.get("plan").is_some() {
        let Calibrated { config, calibration } = Calibrated::read(&keys.to_string()).map_err(|err| err.to_string())?;
        return Ok((config, Some(calibration)));
    }
    let overrides = CacheOverrides::deserialize(keys).map_err(|err| err.to_string())?;
    Ok((CacheConfig::default().overlaid(&overrides).map_err(|err| err.to_string())?, None))
}

/// The guide's defaults and the presets: what there is to choose from without a word of JSON.
pub(super) fn presets() -> Vec<Named> {
    let defaults =
        Named { name: "defaults".into(), keys: json!({}), config: CacheConfig::default(), calibration: None };
    let preset = |(name, quality): (&str, Quality)| Named {
        name: format!("preset {name}"),
        keys: json!({ "quality": name }),
        config: quality.config(),
        calibration: None,
    };
    std::iter::once(defaults).chain(Quality::NAMED.map(preset)).collect()
}

/// The whole of a file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_keep_their_order_and_their_keys() {
        let text = r#"[{"name": "tight", "config": {"residual_diff_threshold": 0.12}}, {"name": "a", "config": {}}]"#;
        let named = configurations(text, "c.json").unwrap();
        assert_eq!(named.iter().map(|named| named.name.as_str()).collect::<Vec<_>>(), ["tight", "a"]);
        assert_eq!(named[0].keys, json!({"residual_diff_threshold": 0.12}));
        assert_eq!(named[0].config.residual_diff_threshold, 0.12);
    }

    #[test]
    fn a_refusal_names_the_file_and_the_configuration() {
        let refusal = |text| configurations(text, "c.json").unwrap_err().to_string();
        assert_eq!(
            refusal(r#"[{"name": "a", "config": {}}, {"name": "a", "config": {}}]"#),
            r#"`--configs`, `c.json`: two configurations are named "a""#
        );
        let message = refusal(r#"[{"name": "a", "config": {"Fn_compute_blocks": 0}}]"#);
        assert!(message.starts_with(r#"`--configs`, `c.json`: "a": `Fn_compute_blocks` must"#), "{message}");
        for bad in ["{}", r#"[{"name": "a"}]"#, r#"[{"name": "a", "configs": {}}]"#, r#"[{"name": "a", "config": 1}]"#]
        {
            assert!(refusal(bad).starts_with("`--configs`, `c.json`: "), "{bad}");
        }
    }

    #[test]
    fn every_preset_is_measured_without_a_file() {
        let names: Vec<_> = presets().into_iter().map(|named| named.name).collect();
        assert_eq!((names.len(), names[0].as_str(), names[1].as_str()), (6, "defaults", "preset lossless"));
    }
}
