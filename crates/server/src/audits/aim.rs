//! What a cached picture is audited against: the name of its group and the quality promised to it.

use cache::{Aim, CacheConfig, Planning, Plans, Preset};
use diffusion::SamplingParams;

/// The group that a picture is audited in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Audited {
    /// Name of the group, one of a few dozen: it is a label of the metrics.
    pub(super) name: String,
    /// Expected mean PSNR, in dB.
    pub(super) promise: Option<f64>,
    /// The plans that the audit judges, and whether they are for requests with two passes a step.
    pub(super) judged: Option<(bool, Planning)>,
}

impl Audited {
    /// Returns the group of pictures made with this cache configuration. `None` if it never reuses a step.
    pub(super) fn by(config: &CacheConfig, plans: &Plans, params: &SamplingParams) -> Option<Audited> {
        if config.never_reuses() {
            return None;
        }
        let Some(aim) = config.planned else {
            let is_preset = |(_, quality): &&(&str, Preset)| quality.config() == *config;
            let name = Preset::NAMED.iter().find(is_preset).map_or("cache_dit", |(name, _)| name);
            return Some(Audited { name: name.to_owned(), promise: None, judged: None });
        };
        let guided = params.guidance.branches().len() > 1;
        // Without plans every step is computed.
        let planning = plans.current(guided)?;
        let expected = planning.promise(params.num_inference_steps, aim);
        // Rounded to 5 dB or to a tenth, because requests may ask for any value.
        Some(match aim {
            Aim::Psnr(asked) => Audited {
                name: format!("psnr_{:.0}", (asked / 5.0).round() * 5.0),
                promise: Some(asked.min(expected)),
                // Plans are judged only at the guidance they were measured at.
                judged: planning
                    .calibration
                    .is_measured_at(params.guidance.two_pass_scale())
                    .then_some((guided, planning)),
            },
            Aim::Budget(share) => {
                Audited { name: format!("budget_{:.1}", share.max(0.1)), promise: Some(expected), judged: None }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use cache::{Calibration, FittedPlan, Jump, Psnr};
    use diffusion::{Guidance, ImageSize, Sampler};

    use super::*;

    /// Plans of 3 to 10 of 20 steps for requests without guidance, each 4 dB better than the one before: 32 dB at 3.
    fn plans() -> Plans {
        let plan = |count: usize| FittedPlan {
            computed: (0..count).map(|i| 20 * i / count).collect(),
            jumps: vec![Jump::euler(); count],
            changes: Vec::new(),
            psnr: Psnr::of(vec![20.0 + 4.0 * count as f64]),
        };
        let (class, model, plans) = ("Some".into(), "digest".into(), (3..=10).map(plan).collect());
        let held = Plans::default();
        held.replace(Calibration { class, model, num_inference_steps: 20, guidance: None, pictures: 8, plans });
        held
    }

    fn params() -> SamplingParams {
        let size = ImageSize { width: 64, height: 64 };
        SamplingParams { size, num_inference_steps: 20, sampler: Sampler::Euler, guidance: Guidance::None, seed: 0 }
    }

    fn named(config: &CacheConfig, plans: &Plans) -> Option<(String, Option<f64>)> {
        Audited::by(config, plans, &params()).map(|audited| (audited.name, audited.promise))
    }

    #[test]
    fn a_cache_without_plans_promises_nothing() {
        let named = |config: CacheConfig| named(&config, &Plans::default());
        assert_eq!(named(CacheConfig::default()), Some(("cache_dit".into(), None)));
        assert_eq!(named(Preset::Fast.config()), Some(("fast".into(), None)));
        assert_eq!(named(Preset::Lossless.config()), None);
    }

    #[test]
    fn plans_promise_what_was_asked_for_or_what_they_can() {
        let plans = plans();
        let of = |aim, plans: &Plans| named(&CacheConfig { planned: Some(aim), ..CacheConfig::default() }, plans);
        assert_eq!(of(Aim::Psnr(43.0), &plans), Some(("psnr_45".into(), Some(43.0))));
        assert_eq!(of(Aim::Psnr(90.0), &plans), Some(("psnr_90".into(), Some(60.0))), "the best of them");
        assert_eq!(of(Aim::Budget(0.25), &plans), Some(("budget_0.2".into(), Some(40.0))));
        assert_eq!(of(Aim::Psnr(43.0), &Plans::default()), None, "everything is computed");
        plans.tighten(false, 2.5);
        assert_eq!(of(Aim::Psnr(43.0), &plans), Some(("psnr_45".into(), Some(43.0))), "by better plans");
    }
}
