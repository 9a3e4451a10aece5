//! The configurations to measure: from a file, from the guide, presets and plans.

use std::path::Path;

use cache::{CacheConfig, CacheOverrides, Calibration, Preset};
use latentd::{Calibrated, Error};
use serde::Deserialize;
use serde_json::{Value, json};

/// A configuration with its name in the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedConfig {
    pub(super) name: String,
    /// The keys as typed.
    pub(super) keys: Value,
    /// The resolved configuration.
    pub(super) config: CacheConfig,
    /// The calibration that its plans are made from, if it follows plans.
    pub(super) calibration: Option<Calibration>,
}

/// An entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct ConfigEntry {
    name: String,
    /// Keys that override the guide's defaults.
    config: Value,
}

/// Parses a JSON list of `{"name": …, "config": {…}}`.
///
/// # Errors
/// The text is not such a list, two configurations have the same name, or a key is unknown or outside its bound.
pub(super) fn configurations(text: &str, file: &str) -> Result<Vec<NamedConfig>, Error> {
    let refuse = |why: String| Error::Flag(format!("`--configs`, `{file}`: {why}"));
    let entries: Vec<ConfigEntry> = omni::json_by_path(text).map_err(refuse)?;
    let mut named: Vec<NamedConfig> = Vec::new();
    for ConfigEntry { name, config: keys } in entries {
        if named.iter().any(|known| known.name == name) {
            return Err(refuse(format!("two configurations are named {name:?}")));
        }
        let (config, calibration) = meaning(&keys).map_err(|why| refuse(format!("{name:?}: {why}")))?;
        named.push(NamedConfig { name, keys, config, calibration });
    }
    Ok(named)
}

fn meaning(keys: &Value) -> Result<(CacheConfig, Option<Calibration>), String> {
    let overrides = CacheOverrides::deserialize(keys).map_err(|err| err.to_string())?;
    if keys.get("plan").is_some() {
        let Calibrated { config, source } = Calibrated::read(&overrides).map_err(|err| err.to_string())?;
        return Ok((config, Some(source.known())));
    }
    Ok((CacheConfig::default().overlaid(&overrides).map_err(|err| err.to_string())?, None))
}

/// The configurations of the Cache-DiT guide: its defaults, and its options one by one.
pub(super) fn guide() -> Vec<NamedConfig> {
    configurations(include_str!("guide.json"), "guide.json").expect("it is of this program. This is a bug.")
}

/// The presets, as they resolve for a model without a calibration.
pub(super) fn presets() -> Vec<NamedConfig> {
    let preset = |(name, quality): (&str, Preset)| NamedConfig {
        name: format!("preset {name}"),
        keys: json!({ "quality": name }),
        config: quality.config(),
        calibration: None,
    };
    Preset::NAMED.map(preset).into()
}

/// Budgets of the measured plans, as shares of the steps. Of 28 steps, four of them are 13, 10, 8 and 6 steps.
const BUDGETS: [f64; 5] = [0.6, 0.47, 0.36, 0.29, 0.22];

/// Plans for several budgets, and for the PSNR that the presets promise on a calibrated model. They are made from the
/// calibration in `file`, or from the built-in model's.
///
/// # Errors
/// The file is not a calibration.
pub(super) fn plans(file: Option<&Path>) -> Result<Vec<NamedConfig>, Error> {
    let promises = Preset::NAMED.iter().filter_map(|(_, quality)| quality.psnr());
    let budgets = BUDGETS.map(|share| (format!("plan, budget {share}"), "budget", share));
    let promises = promises.map(|promise| (format!("plan, psnr {promise}"), "psnr", promise));
    let named = budgets.into_iter().chain(promises).map(|(name, key, aim)| {
        let mut keys = json!({ key: aim });
        if let Some(file) = file {
            keys["plan"] = format!("@{}", file.display()).into();
        }
        let overrides = CacheOverrides::deserialize(&keys).expect("it is an object. This is a bug.");
        let Calibrated { config, source } = Calibrated::read(&overrides)?;
        Ok(NamedConfig { name, keys, config, calibration: Some(source.known()) })
    });
    named.collect()
}

/// Reads a file as text.
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
    fn what_is_customary_is_measured_without_a_file() {
        let all = [guide(), presets(), plans(None).unwrap()].concat();
        let names: Vec<_> = all.iter().map(|named| named.name.as_str()).collect();
        for name in ["defaults", "TaylorSeer 1", "preset lossless", "plan, budget 0.36", "plan, psnr 50"] {
            assert_eq!(names.iter().filter(|known| **known == name).count(), 1, "{name}: {names:?}");
        }
        for named in &all {
            // They must also be valid for models with lists of blocks as short as these.
            assert_eq!(named.config.validate(&[2, 1]), Ok(()), "{}", named.name);
            assert_eq!(named.config.planned.is_some(), named.name.starts_with("plan"), "{}", named.name);
            assert_eq!(named.calibration.is_some(), named.config.planned.is_some(), "{}", named.name);
        }
    }

    #[test]
    fn a_plan_is_read_from_its_file() {
        let told = plans(Some(Path::new("no/such/plan.json"))).unwrap_err().to_string();
        assert!(told.contains("no/such/plan.json"), "{told}");
    }
}
