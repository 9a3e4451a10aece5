//! Plans made from measurements: which steps of a run to compute, and what to put in the place of the others.
//!
//! A forecast is a weighted sum of stored residuals. Which weights are best, and how far off they will be, follows from
//! how alike the residuals of any two steps are, the [`Gram`] matrix, which hardly depends on the prompt: ridge least
//! squares (the idea of L2P, <https://arxiv.org/abs/2604.26365>). Which steps are best left out is then a shortest path,
//! see [`Planner`].

mod calibration;
mod forecast;
mod gram;
mod planner;
mod run_plan;

pub use calibration::{Aim, Calibration, PlanError, Run, SegmentGrams};
pub use forecast::LinearForecast;
pub use gram::{Gram, GramError};
pub use planner::{MAX_PLANNED_STEPS, MEMORY, Planner, StepPlan, Track};
pub(crate) use run_plan::PlannedWeights;
pub use run_plan::RunPlan;
