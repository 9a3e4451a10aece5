//! `latentd bench simulate`: compares the scheduler's policy with others on the same arrivals, without a model or a
//! clock.

use std::path::PathBuf;

use latentd::{Error, terminal};

use crate::simulation::{Policy, RIVALS, Scenario, simulate};

/// Play arrivals against the scheduler's policy and against others
#[derive(clap::Args)]
pub(crate) struct Simulate {
    /// A scenario such as tests/bench/scheduler.toml
    #[arg(value_name = "SCENARIO.toml")]
    scenario: PathBuf,
}

impl Simulate {
    pub(crate) fn run(self) -> Result<(), Error> {
        let path = self.scenario.display().to_string();
        let text = std::fs::read_to_string(&self.scenario);
        let text = text.map_err(|source| Error::File { action: "read", path: path.clone(), source })?;
        let scenario = Scenario::from_toml(&text).map_err(|err| Error::Flag(format!("`{path}`: {err}")))?;
        terminal::line("load  policy                mean s     p50 s     p99 s  worst wait  requests/s");
        for load in &scenario.loads {
            for policy in [Policy::Latentd].iter().chain(&RIVALS) {
                terminal::line(&format!("{load:4}  {:18} {}", policy.to_string(), simulate(&scenario, *policy, *load)));
            }
        }
        terminal::line("\nA wait is what a request took longer than alone, in times that it takes alone.");
        Ok(())
    }
}
