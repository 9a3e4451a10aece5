//! `--sampler`.

use diffusion::Sampler;

/// How a picture gets from noise level to noise level, along the model's own schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SamplerName {
    /// One run of the transformer a step: what the models come with, and what few-step (distilled) ones need
    Euler,
    /// Two runs of the transformer a step, but one in the last; each counts as a step wherever steps are told or cached
    Heun,
    /// DPM-Solver++(2M): one run a step, and what the run before it said
    #[value(name = "dpmpp_2m")]
    DpmPp2M,
    /// UniPC: the same, and each run corrects the step before
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
