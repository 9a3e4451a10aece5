//! The scenario of a simulation, read from a TOML file.

use serde::Deserialize;

/// A trace and the devices that it is played on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Seed of the arrivals.
    pub(crate) seed: u64,
    /// Number of requests in the trace.
    pub(crate) requests: usize,
    /// Shares of the time for which one request at a time would keep the devices busy.
    pub(crate) loads: Vec<f64>,
    /// Number of devices, which are all alike.
    pub(crate) devices: usize,
    /// Maximum number of requests on a device under latentd's policy.
    pub(crate) max_batch: usize,
    /// Times of a device.
    pub(crate) device: Device,
    /// The kinds of requests.
    pub(crate) mix: Vec<Mix>,
}

/// Times of a device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// `[tokens of a step, seconds]`, linear in between.
    pub(crate) step: Vec<(f64, f64)>,
    /// Loads whose step time is measured at start-up.
    pub(crate) calibration: Vec<f64>,
    /// Seconds per encoding.
    pub(crate) encode: f64,
    /// Seconds per image token of a decoding.
    pub(crate) decode_per_token: f64,
}

/// One kind of request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mix {
    /// Frequency relative to the other kinds.
    pub(crate) weight: f64,
    /// Width and height of the picture.
    pub(crate) side: usize,
    /// Denoising steps.
    pub(crate) steps: usize,
    /// Transformer passes per step.
    pub(crate) passes: usize,
    /// The share of the blocks that a reused step computes; 1 without a cache.
    #[serde(default = "all")]
    pub(crate) least_share: f64,
}

fn all() -> f64 {
    1.0
}

impl Scenario {
    /// Parses a scenario.
    ///
    /// # Errors
    /// A key is missing or unknown, or a value has a wrong type.
    pub(crate) fn from_toml(text: &str) -> Result<Scenario, toml::de::Error> {
        toml::from_str(text)
    }
}
