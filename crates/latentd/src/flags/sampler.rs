//! `--sampler`.

use diffusion::Sampler;

/// The method that takes the denoising steps, along the model's own schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SamplerName {
    /// One run of the transformer per step: the models' own sampler, and the one that few-step (distilled) models need
    Euler,
    /// Two runs of the transformer per step, one in the last; each run counts as a step in reports and in the cache
    Heun,
    /// DPM-Solver++(2M): one run per step, combined with the result of the previous run
    #[value(name = "dpmpp_2m")]
    DpmPp2M,
    /// UniPC: the same, and each run corrects the previous step
    #[value(name = "unipc")]
    UniPc,
}

impl From<SamplerName> for Sampler {
    fn from(name: SamplerName) -> Self {
        match name {
            SamplerName::Euler => Sampler::Euler,
            SamplerName::Heun => Sampler::Heun,
            SamplerName::DpmPp2M => Sampler::DpmPp2M,
            SamplerName::UniPc => Sampler::UniPc,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_are_those_of_requests() {
        let named = SamplerName::value_variants().iter().map(|&name| {
            let value = name.to_possible_value().unwrap();
            (value.get_name().to_owned(), Sampler::from(name))
        });
        let known = Sampler::NAMED.map(|(name, sampler)| (name.to_owned(), sampler));
        assert_eq!(named.collect::<Vec<_>>(), known);
    }
}
