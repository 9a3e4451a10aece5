//! Request fields that have no effect on the result.

use std::borrow::Cow;
use std::fmt;

use crate::{Guidance, GuidanceKind, ModelCard, PreviewTimes, Quality, RequestDraft};

/// A given field without effect, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutEffect {
    /// The field's name on the wire.
    pub field: &'static str,
    /// The reason, as a sentence without its final period.
    pub why: Cow<'static, str>,
}

impl WithoutEffect {
    /// Reports that `field` has no effect because of `why`.
    pub fn new(field: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        WithoutEffect { field, why: why.into() }
    }
}

impl fmt::Display for WithoutEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` has no effect: {}.", self.field, self.why)
    }
}

impl RequestDraft {
    /// The fields of this draft that have no effect on this model's pictures. A request that turns guidance off, and
    /// gets none, is not reported.
    pub fn without_effect(&self, card: &ModelCard) -> Vec<WithoutEffect> {
        let guidance = self.guidance(card);
        let mut found = Vec::new();
        found.extend(self.guidance_scale.and_then(|scale| self.idle_guidance_scale(scale, card, guidance)));
        found.extend(self.true_cfg_scale.and_then(|scale| self.idle_true_cfg_scale(scale, card, guidance)));
        found.extend(self.idle_negative_prompt(card, guidance));
        if self.num_inference_steps.is_some() && self.quality != Quality::Medium {
            found.push(WithoutEffect::new("quality", "it picks the steps, and those are given"));
        }
        found.extend(self.idle_sampler(card));
        found.extend(self.idle_previews(card));
        found
    }

    fn idle_guidance_scale(&self, scale: f64, card: &ModelCard, guidance: Guidance) -> Option<WithoutEffect> {
        // Clients of Qwen-Image send 1 beside a `true_cfg_scale`, to turn off guidance that the model does not have.
        let is_off = scale <= 1.0 && (guidance == Guidance::None || self.true_cfg_scale.is_some());
        let why = match card.guidance {
            GuidanceKind::None | GuidanceKind::TrueCfg if is_off => return None,
            GuidanceKind::None => NO_GUIDANCE,
            GuidanceKind::TrueCfg => "the weight of this model's guidance is `true_cfg_scale`",
            GuidanceKind::Cfg if guidance == Guidance::None && scale > 1.0 => NO_NEGATIVE_PROMPT,
            GuidanceKind::Cfg | GuidanceKind::Embedded => return None,
        };
        Some(WithoutEffect::new("guidance_scale", why))
    }

    fn idle_true_cfg_scale(&self, scale: f64, card: &ModelCard, guidance: Guidance) -> Option<WithoutEffect> {
        let is_one_pass = guidance.branches().len() == 1;
        if scale <= 1.0 && is_one_pass {
            return None;
        }
        let why = match card.guidance {
            GuidanceKind::None => NO_GUIDANCE,
            GuidanceKind::Embedded => "the weight of this model's guidance is `guidance_scale`",
            GuidanceKind::Cfg if self.guidance_scale.is_some_and(|plain| plain != scale) => "`guidance_scale` is given",
            GuidanceKind::TrueCfg | GuidanceKind::Cfg if is_one_pass => NO_NEGATIVE_PROMPT,
            GuidanceKind::TrueCfg | GuidanceKind::Cfg => return None,
        };
        Some(WithoutEffect::new("true_cfg_scale", why))
    }

    fn idle_negative_prompt(&self, card: &ModelCard, guidance: Guidance) -> Option<WithoutEffect> {
        let says_something = self.negative_prompt.as_ref().is_some_and(|text| !text.trim().is_empty());
        if !says_something || guidance.branches().len() > 1 {
            return None;
        }
        let why = match card.guidance {
            GuidanceKind::None => NO_GUIDANCE,
            GuidanceKind::Embedded => "this model's guidance takes no negative prompt",
            GuidanceKind::TrueCfg | GuidanceKind::Cfg => "guidance runs at a weight above 1 only",
        };
        Some(WithoutEffect::new("negative_prompt", why))
    }

    /// The step count; `None` if it is out of bounds.
    fn steps(&self, card: &ModelCard) -> Option<usize> {
        let steps = self.num_inference_steps.unwrap_or(card.num_inference_steps(self.quality) as i64);
        usize::try_from(steps).ok()
    }

    fn idle_sampler(&self, card: &ModelCard) -> Option<WithoutEffect> {
        let (sampler, steps) = (self.sampler?, self.steps(card)?);
        let fewest = sampler.fewest_steps();
        let why = || format!("{} is another than euler from {fewest} steps on", sampler.name());
        (steps < fewest).then(|| WithoutEffect::new("sampler", why()))
    }

    fn idle_previews(&self, card: &ModelCard) -> Option<WithoutEffect> {
        let steps = self.sampler(card).num_evaluations(self.steps(card)?);
        let previews = self.previews.filter(|previews| (0..steps).all(|step| !previews.is_due(step, steps)))?;
        let field = match previews.times {
            PreviewTimes::Count(0) => return None,
            PreviewTimes::Count(_) => "partial_images",
            PreviewTimes::Interval(_) => "preview_interval",
        };
        let all = if steps == 1 { "there is but one step".to_owned() } else { format!("there are but {steps} steps") };
        Some(WithoutEffect::new(field, all))
    }
}

const NO_GUIDANCE: &str = "this model has no guidance";
const NO_NEGATIVE_PROMPT: &str = "guidance runs only with a `negative_prompt`, be it a space";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::{card, draft};
    use crate::{PreviewMethod, Previews, Sampler};

    /// The fields without effect for a model of this kind.
    fn told(kind: GuidanceKind, draft: &RequestDraft) -> Vec<&'static str> {
        let card = ModelCard { guidance: kind, ..card() };
        draft.without_effect(&card).iter().map(|idle| idle.field).collect()
    }

    fn with(plain: impl Into<Option<f64>>, true_cfg: impl Into<Option<f64>>, negative: Option<&str>) -> RequestDraft {
        RequestDraft {
            guidance_scale: plain.into(),
            true_cfg_scale: true_cfg.into(),
            negative_prompt: negative.map(str::to_owned),
            ..draft()
        }
    }

    #[test]
    fn a_weight_without_a_negative_prompt_is_told() {
        let alone = with(None, 8.0, None);
        let [idle] = &alone.without_effect(&card())[..] else { panic!("one field") };
        let expected = "`true_cfg_scale` has no effect: guidance runs only with a `negative_prompt`, be it a space.";
        assert_eq!(idle.to_string(), expected);
        for negative in [" ", "fog"] {
            assert!(told(GuidanceKind::TrueCfg, &with(None, 8.0, Some(negative))).is_empty());
        }
        let card = ModelCard { default_negative_prompt: Some(" ".into()), ..card() };
        assert!(alone.without_effect(&card).is_empty(), "the model has a negative prompt of its own");
    }

    #[test]
    fn each_kind_of_guidance_tells_what_it_does_not_take() {
        let all = with(2.0, 3.0, Some("fog"));
        for (kind, expected) in [
            (GuidanceKind::None, &["guidance_scale", "true_cfg_scale", "negative_prompt"][..]),
            (GuidanceKind::TrueCfg, &["guidance_scale"]),
            (GuidanceKind::Cfg, &["true_cfg_scale"]),
            (GuidanceKind::Embedded, &["true_cfg_scale", "negative_prompt"]),
        ] {
            assert_eq!(told(kind, &all), expected, "{kind:?}");
            assert!(told(kind, &draft()).is_empty(), "{kind:?}");
        }
        assert!(told(GuidanceKind::Cfg, &with(None, 3.0, Some(" "))).is_empty(), "by its other name");
        assert_eq!(told(GuidanceKind::Cfg, &with(3.0, None, None)), ["guidance_scale"]);
        assert!(told(GuidanceKind::Embedded, &with(3.0, None, None)).is_empty());
    }

    #[test]
    fn who_turns_guidance_off_is_told_of_the_negative_prompt_alone() {
        let off = with(1.0, 1.0, Some("fog"));
        for kind in [GuidanceKind::None, GuidanceKind::TrueCfg, GuidanceKind::Cfg, GuidanceKind::Embedded] {
            assert_eq!(told(kind, &off), ["negative_prompt"], "{kind:?}");
            assert!(told(kind, &RequestDraft { negative_prompt: Some(" ".into()), ..off.clone() }).is_empty());
        }
        assert!(
            told(GuidanceKind::TrueCfg, &with(1.0, 4.0, Some("fog"))).is_empty(),
            "as Qwen-Image's clients send it"
        );
        assert_eq!(told(GuidanceKind::TrueCfg, &with(1.0, None, Some("fog"))), ["guidance_scale"], "it is not off");
    }

    #[test]
    fn a_sampler_needs_steps() {
        let told = |sampler, steps| {
            told(GuidanceKind::None, &RequestDraft { sampler, num_inference_steps: Some(steps), ..draft() })
        };
        assert_eq!(told(Some(Sampler::DpmPp2M), 3), ["sampler"]);
        assert!(told(Some(Sampler::DpmPp2M), 4).is_empty() && told(Some(Sampler::Euler), 1).is_empty());
        assert!(told(None, 1).is_empty(), "nobody asked for one");
    }

    #[test]
    fn steps_stand_over_quality_and_previews_need_steps() {
        let high = RequestDraft { quality: Quality::High, ..draft() };
        assert!(told(GuidanceKind::None, &high).is_empty());
        assert_eq!(told(GuidanceKind::None, &RequestDraft { num_inference_steps: Some(3), ..high }), ["quality"]);
        let seen = |times, steps| {
            let previews = Some(Previews { method: PreviewMethod::Vae, times });
            told(GuidanceKind::None, &RequestDraft { previews, num_inference_steps: Some(steps), ..draft() })
        };
        assert_eq!(seen(PreviewTimes::Interval(5), 5), ["preview_interval"]);
        assert_eq!(seen(PreviewTimes::Count(3), 1), ["partial_images"]);
        assert!(seen(PreviewTimes::Interval(5), 6).is_empty() && seen(PreviewTimes::Count(3), 2).is_empty());
        assert!(seen(PreviewTimes::Count(0), 1).is_empty());
        // Two steps of Heun's method are three evaluations.
        let previews = Some(Previews { method: PreviewMethod::Vae, times: PreviewTimes::Interval(2) });
        let heun = |sampler| RequestDraft { sampler, previews, num_inference_steps: Some(2), ..draft() };
        assert_eq!(told(GuidanceKind::None, &heun(None)), ["preview_interval"]);
        assert!(told(GuidanceKind::None, &heun(Some(Sampler::Heun))).is_empty());
    }
}
