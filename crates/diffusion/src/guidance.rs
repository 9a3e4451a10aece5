//! Which transformer passes a step makes.

/// One of the two passes of true classifier-free guidance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CfgBranch {
    /// The pass that sees the prompt.
    Cond,
    /// The pass that sees the negative prompt.
    Uncond,
}

impl CfgBranch {
    /// The passes of a step, the conditional one first as in diffusers.
    pub fn of_step(do_true_cfg: bool) -> &'static [CfgBranch] {
        if do_true_cfg { &[CfgBranch::Cond, CfgBranch::Uncond] } else { &[CfgBranch::Cond] }
    }

    /// `"cond"` or `"uncond"`.
    pub fn name(self) -> &'static str {
        match self {
            CfgBranch::Cond => "cond",
            CfgBranch::Uncond => "uncond",
        }
    }
}
