//! Plans made from measurements: a few steps of a run that stand for all of them.
//!
//! Of the steps of a run only some are computed. From each the latents go straight to the next, along a weighted sum of the
//! velocities of the last computed steps and of the latents themselves ([`Jump`]): a multistep solver whose weights are
//! measured. Which steps are computed is a shortest path ([`Planner`]) by how alike the latents of whole runs are at any two
//! noise levels ([`Gram`]). The weights are then fitted jump by jump on runs that skip those steps ([`JumpFit`]), so that each makes up
//! for what the ones before have missed.
//!
//! Runs that were measured tell too how much the velocity changes from one computed step to the next ([`Change`]). Where a
//! request's changes far more, it goes another way than they did, and computes the steps that it would have skipped ([`Course`]).
//!
//! That weights are fitted is the idea of L2P (<https://arxiv.org/abs/2604.26365>), there of residuals; that a solver is, on its
//! own trajectories, that of S4S (<https://arxiv.org/abs/2502.17423>).

mod calibration;
mod course;
mod fitted_plan;
mod gram;
mod guard;
mod jump;
mod learning;
mod least_squares;
mod planner;
mod plans;
mod run_plan;
mod settings;

pub use calibration::{Aim, Calibration, PlanError, Run};
pub use course::{Course, Way};
pub use fitted_plan::{EQUAL, FittedPlan, Psnr};
pub use gram::Gram;
pub use guard::Change;
pub use jump::{Jump, JumpFit, MEMORY};
pub use learning::{Kind, Learning, LearntRun};
pub use least_squares::solve_symmetric;
pub use planner::{MAX_PLANNED_STEPS, Path, Planner};
pub use plans::{Planning, Plans, Progress};
pub use run_plan::RunPlan;
pub use settings::CalibratedSettings;
