//! Guidance: how strongly the prompt counts, and which transformer passes that takes.

use serde::{Deserialize, Serialize};

/// One of the two passes of classifier-free guidance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CfgBranch {
    /// The pass that sees the prompt.
    Cond,
    /// The pass that sees the negative prompt.
    Uncond,
}

impl CfgBranch {
    /// `"cond"` or `"uncond"`.
    pub fn name(self) -> &'static str {
        match self {
            CfgBranch::Cond => "cond",
            CfgBranch::Uncond => "uncond",
        }
    }
}

/// The guidance that a model was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuidanceKind {
    /// No guidance: few-step models have it distilled into their weights.
    None,
    /// Two passes with their difference scaled up. Each token is rescaled to its norm in the conditional pass.
    /// `true_cfg_scale` is the weight (Qwen-Image).
    TrueCfg,
    /// Two passes with their difference scaled up. `guidance_scale` is the weight.
    Cfg,
    /// One pass that takes `guidance_scale` as an input.
    Embedded,
}

impl GuidanceKind {
    /// `"none"`, `"true_cfg"`, `"cfg"` or `"embedded"`.
    pub fn name(self) -> &'static str {
        match self {
            GuidanceKind::None => "none",
            GuidanceKind::TrueCfg => "true_cfg",
            GuidanceKind::Cfg => "cfg",
            GuidanceKind::Embedded => "embedded",
        }
    }

    /// The guidance of a request with this weight. Two passes run if there is a negative prompt and the weight is above
    /// 1, as in diffusers.
    pub fn guidance(self, scale: f64, has_negative_prompt: bool) -> Guidance {
        let two_passes = has_negative_prompt && scale > 1.0;
        match self {
            GuidanceKind::TrueCfg if two_passes => Guidance::TrueCfg { scale },
            GuidanceKind::Cfg if two_passes => Guidance::Cfg { scale },
            GuidanceKind::Embedded => Guidance::Embedded { scale },
            GuidanceKind::None | GuidanceKind::TrueCfg | GuidanceKind::Cfg => Guidance::None,
        }
    }
}

/// The guidance of one request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Guidance {
    /// One pass.
    None,
    /// See [`GuidanceKind::TrueCfg`].
    TrueCfg {
        /// Above 1.
        scale: f64,
    },
    /// See [`GuidanceKind::Cfg`].
    Cfg {
        /// Above 1.
        scale: f64,
    },
    /// See [`GuidanceKind::Embedded`].
    Embedded {
        /// The value that the pass takes as input.
        scale: f64,
    },
}

impl Guidance {
    /// The passes of a step, the conditional pass first as in diffusers.
    pub fn branches(self) -> &'static [CfgBranch] {
        match self {
            Guidance::TrueCfg { .. } | Guidance::Cfg { .. } => &[CfgBranch::Cond, CfgBranch::Uncond],
            Guidance::None | Guidance::Embedded { .. } => &[CfgBranch::Cond],
        }
    }

    /// The weight of two-pass guidance; `None` for one pass.
    pub fn two_pass_scale(self) -> Option<f64> {
        match self {
            Guidance::TrueCfg { scale } | Guidance::Cfg { scale } => Some(scale),
            Guidance::None | Guidance::Embedded { .. } => None,
        }
    }

    /// The guidance input of the transformer, if it takes one.
    pub fn embedded(self) -> Option<f32> {
        match self {
            Guidance::Embedded { scale } => Some(scale as f32),
            Guidance::None | Guidance::TrueCfg { .. } | Guidance::Cfg { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_passes_need_a_negative_prompt_and_a_weight_above_one() {
        for kind in [GuidanceKind::TrueCfg, GuidanceKind::Cfg] {
            let passes = |scale, negative| kind.guidance(scale, negative).branches().len();
            assert_eq!([passes(4.0, true), passes(1.0, true), passes(4.0, false)], [2, 1, 1], "{kind:?}");
        }
        assert_eq!(GuidanceKind::None.guidance(4.0, true), Guidance::None);
    }

    #[test]
    fn an_embedded_weight_is_one_pass_that_is_told_it() {
        let guidance = GuidanceKind::Embedded.guidance(3.5, false);
        assert_eq!((guidance.branches().len(), guidance.embedded()), (1, Some(3.5)));
        assert_eq!(GuidanceKind::TrueCfg.guidance(3.5, true).embedded(), None);
    }
}
