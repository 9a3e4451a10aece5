//! Plays an arrival trace against the policy and its rivals, and prints what came of it.
//!
//!     cargo run --release -p scheduler --features simulation --example simulate [SCENARIO.toml]

use std::error::Error;

use scheduler::simulation::{Policy, RIVALS, Scenario, simulate};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "tests/bench/scheduler.toml".into());
    let scenario = Scenario::from_toml(&std::fs::read_to_string(path)?)?;
    println!("load  policy                mean s     p50 s     p99 s  worst wait  requests/s");
    for load in &scenario.loads {
        for policy in [Policy::Latentd].iter().chain(&RIVALS) {
            println!("{load:4}  {:18} {}", policy.to_string(), simulate(&scenario, *policy, *load));
        }
    }
    println!("\nA wait is what a request took longer than alone, in times that it takes alone.");
    Ok(())
}
