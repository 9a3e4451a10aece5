//! The noise schedule of a checkpoint.

use diffusion::{FlowMatchConfig, SigmaSpacing, Sigmas, TimeShift};
use serde::Deserialize;

use crate::bounds::ConfigFile;
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// `scheduler/scheduler_config.json` with every setting of diffusers' class. A missing or null setting has its default.
#[derive(Default, Deserialize)]
struct SchedulerFile {
    num_train_timesteps: Option<usize>,
    shift: Option<f64>,
    use_dynamic_shifting: Option<bool>,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: Option<usize>,
    max_image_seq_len: Option<usize>,
    invert_sigmas: Option<bool>,
    shift_terminal: Option<f64>,
    use_karras_sigmas: Option<bool>,
    use_exponential_sigmas: Option<bool>,
    use_beta_sigmas: Option<bool>,
    time_shift_type: Option<String>,
    stochastic_sampling: Option<bool>,
}

/// The library and class of the scheduler that `model_index.json` names.
#[derive(Deserialize)]
struct ModelIndex {
    scheduler: Option<[Option<String>; 2]>,
}

const FILE: ConfigFile<'_> = ConfigFile("scheduler/scheduler_config.json");
const CLASS: &str = "FlowMatchEulerDiscreteScheduler";
/// Image tokens of the smallest picture and roughly of the largest.
const IMAGE_SEQ_LENS: [usize; 2] = [1, 1 << 17];

/// A family's function from a configuration, a number of steps and a number of image tokens to noise levels.
pub(crate) type SigmasOf = fn(&FlowMatchConfig, usize, usize) -> Sigmas;

/// Reads `scheduler/scheduler_config.json`, and checks that `sigmas` gives a valid schedule for pictures of any size.
///
/// # Errors
/// The file is missing, gives no valid schedule, or has unsupported settings.
pub(crate) fn flow_match_config(checkpoint: &Checkpoint, sigmas: SigmasOf) -> Result<FlowMatchConfig, LoadError> {
    if let Some([_, Some(class)]) = checkpoint.json::<ModelIndex>("model_index.json")?.scheduler
        && class != CLASS
    {
        return Err(ConfigFile("model_index.json").refusal("scheduler", format!("be {CLASS}"), class));
    }
    checkpoint.require_class(&FILE, CLASS)?;
    let config = config(checkpoint.json(FILE.0)?)?;
    check(&config, sigmas)?;
    Ok(config)
}

fn config(file: SchedulerFile) -> Result<FlowMatchConfig, LoadError> {
    for (key, set) in [("invert_sigmas", file.invert_sigmas), ("stochastic_sampling", file.stochastic_sampling)] {
        FILE.require(set != Some(true), key, "be false", true)?;
    }
    let trained = file.num_train_timesteps.unwrap_or(1000);
    FILE.require(trained == 1000, "num_train_timesteps", "be 1000", trained)?;
    let default = FlowMatchConfig::default();
    let time_shift = match file.time_shift_type.as_deref() {
        None | Some("exponential") => TimeShift::Exponential,
        Some("linear") => TimeShift::Linear,
        Some(other) => return Err(FILE.refusal("time_shift_type", "be `exponential` or `linear`", other)),
    };
    // A terminal of 0 disables stretching, as in diffusers.
    let shift_terminal = file.shift_terminal.filter(|&terminal| terminal != 0.0);
    if let Some(terminal) = shift_terminal {
        FILE.within("shift_terminal", terminal, 0.0..=0.99)?;
    }
    Ok(FlowMatchConfig {
        shift: FILE.within("shift", file.shift.unwrap_or(default.shift), 1e-3..=1e3)?,
        use_dynamic_shifting: file.use_dynamic_shifting.unwrap_or(default.use_dynamic_shifting),
        base_shift: FILE.within("base_shift", file.base_shift.unwrap_or(default.base_shift), -20.0..=20.0)?,
        max_shift: FILE.within("max_shift", file.max_shift.unwrap_or(default.max_shift), -20.0..=20.0)?,
        base_image_seq_len: file.base_image_seq_len.unwrap_or(default.base_image_seq_len),
        max_image_seq_len: file.max_image_seq_len.unwrap_or(default.max_image_seq_len),
        time_shift,
        shift_terminal,
        spacing: spacing(&file)?,
    })
}

fn spacing(file: &SchedulerFile) -> Result<Option<SigmaSpacing>, LoadError> {
    let spacings = [
        ("use_karras_sigmas", file.use_karras_sigmas, SigmaSpacing::Karras),
        ("use_exponential_sigmas", file.use_exponential_sigmas, SigmaSpacing::Exponential),
        ("use_beta_sigmas", file.use_beta_sigmas, SigmaSpacing::Beta),
    ];
    let mut set = spacings.into_iter().filter(|(_, set, _)| *set == Some(true));
    let first = set.next();
    if let (Some((other, ..)), Some((key, ..))) = (first, set.next()) {
        return Err(FILE.refusal(key, format!("be false where {other} is true"), "true"));
    }
    Ok(first.map(|(_, _, spacing)| spacing))
}

/// Checks that the noise levels fall. The shift is linear in the number of tokens, so checking both ends is enough.
fn check(config: &FlowMatchConfig, sigmas: SigmasOf) -> Result<(), LoadError> {
    for (tokens, steps) in IMAGE_SEQ_LENS.into_iter().flat_map(|tokens| [1, 2, 50].map(|steps| (tokens, steps))) {
        let levels = sigmas(config, steps, tokens);
        let levels = levels.as_slice();
        let falls = levels.is_sorted_by(|a, b| a >= b) && levels.iter().all(|level| (0.0..=1.0).contains(level));
        if !falls || levels[0] == 0.0 {
            return Err(no_schedule(config, tokens, steps));
        }
    }
    Ok(())
}

/// Returns an error that names the setting most likely wrong.
fn no_schedule(config: &FlowMatchConfig, tokens: usize, steps: usize) -> LoadError {
    let makes = format!("make falling noise levels (steps: {steps}, image tokens: {tokens})");
    if !config.use_dynamic_shifting {
        return FILE.refusal("shift", makes, config.shift);
    }
    if config.max_image_seq_len <= config.base_image_seq_len {
        let bound = format!("be above base_image_seq_len = {}", config.base_image_seq_len);
        return FILE.refusal("max_image_seq_len", bound, config.max_image_seq_len);
    }
    let given = format!(
        "{} at {} tokens, from {} at {}",
        config.max_shift, config.max_image_seq_len, config.base_shift, config.base_image_seq_len
    );
    FILE.refusal("max_shift", makes, given)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schedule of a text-to-image model with the scheduler configuration `json`.
    fn load(json: &str) -> Result<FlowMatchConfig, String> {
        let json: &'static str = json.to_owned().leak();
        let files = vec![("model_index.json", &b"{}"[..]), (FILE.0, json.as_bytes())];
        flow_match_config(&Checkpoint::Embedded(files), Sigmas::new).map_err(|err| err.to_string())
    }

    #[test]
    fn spacings_are_honoured() {
        for (key, spacing) in [
            ("use_karras_sigmas", SigmaSpacing::Karras),
            ("use_exponential_sigmas", SigmaSpacing::Exponential),
            ("use_beta_sigmas", SigmaSpacing::Beta),
        ] {
            assert_eq!(load(&format!(r#"{{"{key}": true}}"#)).unwrap().spacing, Some(spacing));
            assert_eq!(load(&format!(r#"{{"{key}": null}}"#)).unwrap().spacing, None);
        }
    }

    #[test]
    fn a_terminal_of_zero_stretches_nothing() {
        assert_eq!(load(r#"{"shift_terminal": 0}"#).unwrap().shift_terminal, None);
    }

    #[test]
    fn what_makes_no_schedule_is_named() {
        let dynamic = |rest: &str| format!(r#"{{"use_dynamic_shifting": true, {rest}}}"#);
        let levels = |steps, tokens| format!("make falling noise levels (steps: {steps}, image tokens: {tokens})");
        for (json, key, bound, given) in [
            (r#"{"stochastic_sampling": true}"#.into(), "stochastic_sampling", "be false".into(), "true"),
            (r#"{"invert_sigmas": true}"#.into(), "invert_sigmas", "be false".into(), "true"),
            (r#"{"num_train_timesteps": 500}"#.into(), "num_train_timesteps", "be 1000".into(), "500"),
            (r#"{"time_shift_type": "sine"}"#.into(), "time_shift_type", "be `exponential` or `linear`".into(), "sine"),
            (r#"{"shift": -3.0}"#.into(), "shift", "be between 0.001 and 1000".into(), "-3"),
            (r#"{"shift": 0}"#.into(), "shift", "be between 0.001 and 1000".into(), "0"),
            (r#"{"shift_terminal": 1.0}"#.into(), "shift_terminal", "be between 0 and 0.99".into(), "1"),
            (r#"{"max_shift": 1e30}"#.into(), "max_shift", "be between -20 and 20".into(), "1e30"),
            (
                r#"{"use_beta_sigmas": true, "use_karras_sigmas": true}"#.into(),
                "use_beta_sigmas",
                "be false where use_karras_sigmas is true".into(),
                "true",
            ),
            (
                dynamic(r#""base_image_seq_len": 256, "max_image_seq_len": 256"#),
                "max_image_seq_len",
                "be above base_image_seq_len = 256".into(),
                "256",
            ),
            (
                dynamic(r#""max_shift": 20, "max_image_seq_len": 257"#),
                "max_shift",
                levels(1, 1),
                "20 at 257 tokens, from 0.5 at 256",
            ),
            (
                r#"{"_class_name": "DDIMScheduler"}"#.into(),
                "_class_name",
                "be FlowMatchEulerDiscreteScheduler".into(),
                "DDIMScheduler",
            ),
        ] {
            let expected = format!("`scheduler/scheduler_config.json`: `{key}` must {bound}. Given: {given}");
            let given = load(&json).expect_err(&json);
            assert!(given.contains(&expected.replace("1e30", "1000000000000000000000000000000")), "{given}");
        }
    }

    #[test]
    fn the_class_that_the_pipeline_names_counts() {
        let index = br#"{"scheduler": ["diffusers", "UniPCMultistepScheduler"]}"#;
        let files = vec![("model_index.json", &index[..]), (FILE.0, &b"{}"[..])];
        let message = flow_match_config(&Checkpoint::Embedded(files), Sigmas::new).unwrap_err().to_string();
        let expected =
            "`model_index.json`: `scheduler` must be FlowMatchEulerDiscreteScheduler. Given: UniPCMultistepScheduler";
        assert_eq!(message, expected);
    }
}
