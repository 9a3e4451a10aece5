//! Plans from measurements: a few computed steps that replace a full run.
//!
//! A plan computes only some steps of a run. From each the latents go straight to the next, along a weighted sum of the
//! velocities of the last computed steps and of the latents themselves ([`Jump`]): a multistep solver with measured
//! weights. The computed steps are a shortest path ([`Planner`]), with lengths from the scalar products of whole runs'
//! latents at any two noise levels ([`Gram`]). The weights are then fitted jump by jump on runs that skip those steps
//! ([`JumpFit`]), so that each corrects the errors of the jumps before it.
//!
//! The measured runs also give the change of the velocity from one computed step to the next ([`VelocityChange`]). If the
//! velocity of a request changes far more, the request departs from the measured runs, and computes the steps that it
//! would have skipped ([`Course`]).
//!
//! Fitted weights are the idea of L2P (<https://arxiv.org/abs/2604.26365>), there for residuals; a solver fitted on its
//! own trajectories is that of S4S (<https://arxiv.org/abs/2502.17423>).

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

pub use calibration::{Aim, Calibration, PlanError, RunSpec};
pub use course::{Course, Way};
pub use fitted_plan::{EQUAL, FittedPlan, Psnr};
pub use gram::Gram;
pub use guard::VelocityChange;
pub use jump::{Jump, JumpFit, MEMORY};
pub use learning::{Kind, Learning, LearntRun};
pub use least_squares::solve_symmetric;
pub use planner::{MAX_PLANNED_STEPS, Planner, StepPath};
pub use plans::{Planning, Plans, Progress};
pub use run_plan::RunPlan;
pub use settings::CalibratedSettings;
