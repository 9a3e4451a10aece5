//! What is simulated, as a TOML file says it.

use serde::Deserialize;

/// A trace and the devices that it is played on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Seed of the arrivals.
    pub(crate) seed: u64,
    /// Requests in the trace.
    pub(crate) requests: usize,
    /// Shares of the time for which one request at a time would keep the devices busy.
    pub(crate) loads: Vec<f64>,
    /// Devices, all alike.
    pub(crate) devices: usize,
    /// Most requests that a device of ours holds.
    pub(crate) max_batch: usize,
    /// How long a device takes.
    pub(crate) device: Device,
    /// What arrives.
    pub(crate) mix: Vec<Mix>,
}

/// How long a device takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// `[tokens of a step, seconds]`, linear in between.
    pub(crate) step: Vec<(f64, f64)>,
    /// Loads that are measured at start-up.
    pub(crate) calibration: Vec<f64>,
    /// Seconds of an encoding.
    pub(crate) encode: f64,
    /// Seconds of a decoding, for each image token.
    pub(crate) decode_per_token: f64,
}

/// One kind of request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mix {
    /// How often it comes, against the others.
    pub(crate) weight: f64,
    /// Width and height of the picture.
    pub(crate) side: usize,
    /// Denoising steps.
    pub(crate) steps: usize,
    /// Transformer passes of a step.
    pub(crate) passes: usize,
    /// The share of the blocks that a reused step computes; 1 without a cache.
    #[serde(default = "all")]
    pub(crate) least_share: f64,
}

fn all() -> f64 {
    1.0
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// What is missing or not understood.
    pub(crate) fn from_toml(text: &str) -> Result<Scenario, toml::de::Error> {
        toml::from_str(text)
    }
}
