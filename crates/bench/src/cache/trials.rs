//! The trials compared with the uncached picture: the configurations, then uncached pictures in fewer steps.

use diffusion::Sampler;

use super::inputs::NamedConfig;
use super::rounds::Trial;
use super::summary;

/// The uncached pictures in fewer steps.
pub(super) struct Fewer {
    pub(super) samplers: Vec<Sampler>,
    /// Maximum runs of the transformer; if empty, tenths of the step count.
    pub(super) counts: Vec<usize>,
}

impl Fewer {
    /// The trials for an uncached run of `steps` steps. Each sampler's begin with the most steps.
    fn trials(&self, steps: usize) -> impl Iterator<Item = Trial> {
        let counts = if self.counts.is_empty() { summary::fewer_steps(steps) } else { self.counts.clone() };
        self.samplers.iter().flat_map(move |&sampler| {
            counts.clone().into_iter().rev().map(move |count| {
                let steps = sampler.steps_within(count);
                let name = format!("{}, {steps} steps", sampler.name());
                Trial { name, sampler: Some(sampler), ..Trial::uncached(steps) }
            })
        })
    }
}

/// The trials of the configurations at `steps` steps, then those of uncached pictures in fewer.
pub(super) fn trials(configurations: &[NamedConfig], steps: usize, fewer: &Fewer) -> Vec<Trial> {
    let cached = configurations.iter().map(|named| Trial {
        name: named.name.clone(),
        config: Some(named.config.clone()),
        calibration: named.calibration.clone(),
        ..Trial::uncached(steps)
    });
    let mut trials = Vec::from_iter(cached);
    for fewer in fewer.trials(steps) {
        // Two counts may give the same number of steps of a sampler.
        if !trials.iter().any(|known| known.name == fewer.name) {
            trials.push(fewer);
        }
    }
    trials
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampler_has_no_step_count_twice() {
        let fewer = Fewer { samplers: vec![Sampler::Euler, Sampler::Heun], counts: vec![2, 3, 4, 5] };
        let names: Vec<_> = trials(&[], 8, &fewer).into_iter().map(|trial| trial.name).collect();
        let euler = [5, 4, 3, 2].map(|steps| format!("euler, {steps} steps")).into_iter();
        let heun = ["heun, 3 steps", "heun, 2 steps", "heun, 1 steps"].map(String::from);
        assert_eq!(names, euler.chain(heun).collect::<Vec<_>>());
    }
}
