//! Decides whether a denoising step may reuse the last residual.
//!
//! In neighbouring denoising steps the inputs of a diffusion transformer are nearly the same, and so is what its blocks
//! add to them, their *residual*. DBCache (of [cache-dit](https://github.com/vipshop/cache-dit)) therefore splits the
//! blocks of a segment, one list of blocks of the model, in three:
//!
//! ```text
//!    hidden ──► first blocks (Fn) ──► middle blocks ──► last blocks (Bn) ──►
//!               always run            may be skipped     always run
//! ```
//!
//! # A cached step
//!
//! The first blocks run. Their residual is compared with that of the last *computed* step:
//! `mean |previous - current| / mean |previous|`, the step's *diff*. Below `residual_diff_threshold` the step is
//! *reused*: a forecast of the middle blocks' residual is added in their place, nothing is stored, and the next diff is
//! taken against the same computed step. Otherwise the step is *computed*: the middle blocks run, and both residuals
//! are stored. The last blocks run either way. Some rules decide a step without a diff: a warmup, a mask of steps
//! (SCM), limits on how many steps are reused in all or in a row. In the guide's defaults, with steps that change
//! little until the eleventh:
//!
//! ```text
//!    step      0  1  2  3  4  5  6  7  8  9 10 11 12 13
//!    diff      -  -  -  - .06.12.18  -.06.12.31.07.14.21
//!              W  W  W  W  .  .  .  L  .  .  D  .  .  .
//!              └warmup───┘ └─reused─┘│        │
//!              (max_warmup_steps 4)  │        above residual_diff_threshold 0.24
//!                                    max_continuous_cached_steps 3
//! ```
//!
//! The forecast is a weighted sum of the residuals of the last computed steps: 1 x the newest for plain reuse, a Taylor
//! polynomial in [`TaylorSeer`]. This crate gives the weights; the caller holds the residuals. So its only input for a
//! step is one `f32`, and each of its rules is a unit test.
//!
//! # In a batch
//!
//! Every (request, CFG branch, segment) has its own [`StepCache`], and a [`RequestCache`] holds those of a request. For
//! each step and segment, the caller
//!
//! 1. runs the first blocks on all rows;
//! 2. asks [`RequestCache::needs_diff`] for every request, and measures the rows that need it in one
//!    go: if none does, as in the warmup, nothing is read from the device;
//! 3. hands the diffs to [`RequestCache::decide`], which advances the clocks;
//! 4. runs the middle blocks on the rows that compute, puts their residuals in front of those
//!    stored and keeps the newest [`StepCache::keep`];
//! 5. adds to each of the other rows what it has stored, weighted by [`StepCache::weights`];
//! 6. runs the last blocks on all rows.
//!
//! ```
//! use cache::{CacheConfig, RequestCache, RowObservation, Segment, Stream};
//!
//! let config = CacheConfig { max_warmup_steps: 1, ..CacheConfig::default() };
//! let segments = [Segment { name: "transformer_blocks", num_blocks: 60 }];
//! let (mut cache, warnings) = RequestCache::new(&config, 28, &segments, 2);
//! assert!(warnings.is_empty());
//!
//! assert_eq!(cache.needs_diff(0, &[64, 64]), [false, false]);
//! let unmeasured = RowObservation { tokens: 64, residual_diff: None };
//! cache.decide(0, &[unmeasured, unmeasured]);
//! assert_eq!(cache.branch(0, 1).keep(Stream::Hidden), 1);
//!
//! assert_eq!(cache.needs_diff(0, &[64, 64]), [true, true]);
//! let measured = |diff| RowObservation { tokens: 64, residual_diff: Some(diff) };
//! let records = cache.decide(0, &[measured(0.1), measured(0.3)]);
//! assert!(records[0].decision.reused() && !records[1].decision.reused());
//! assert_eq!(cache.branch(0, 0).weights(Stream::Hidden), [1.0]);
//! ```
//!
//! # What differs from cache-dit
//!
//! Decisions and forecasts are those of version 1.5.3, compared with its own traces, except for these points:
//!
//! - branches are identified by an index, not by the parity of a call counter, which a step of one
//!   pass shifts;
//! - a forced refresh counts denoising steps and refreshes all branches, where cache-dit counts calls;
//! - a stored residual of another shape is never added: such a step is computed, also under a
//!   static mask or a threshold of 1;
//! - a request's state comes from the configuration alone, never from what an earlier request left
//!   behind; a mask is made for each request's own step count;
//! - unknown keys and invalid values are errors.
//!
//! `branches_agree`, `compute_last_step`, `segment_threshold_factors`, `taylorseer_in_sigma` and the [`Preset`] presets are
//! additions.

mod calibrated;
mod config;
mod decision;
mod error;
mod forecast;
mod keys;
mod kinds;
mod mask;
mod memory;
mod names;
mod object;
mod overrides;
mod plan;
mod quality;
mod request;
mod rules;
mod segment;
mod stats;
mod step_cache;
mod taylor;
mod wire;

pub use calibrated::{
    Aim, CalibratedSettings, Calibration, Course, EQUAL, FittedPlan, Gram, Jump, JumpFit, Kind, Learning, LearntRun,
    MAX_PLANNED_STEPS, MEMORY, PlanError, Planner, Planning, Plans, Progress, Psnr, RunPlan, RunSpec, StepPath,
    VelocityChange, Way, solve_symmetric,
};
pub use config::{CacheConfig, CacheType, RefreshPolicy, StepsPolicy};
pub use decision::{Decision, Reason, StepRecord};
pub use error::ConfigError;
pub use forecast::Stream;
pub use mask::{MaskError, MaskSource, ScmPolicy, StepMask};
pub use memory::SegmentTokens;
pub use overrides::CacheOverrides;
pub use plan::{CachePlan, SimulateError, known_steps, plan, simulate};
pub use quality::Preset;
pub use request::{RequestCache, RowObservation, Warning};
pub use segment::Segment;
pub use stats::{CacheStats, DiffRange, RunStats};
pub use step_cache::StepCache;
pub use taylor::TaylorSeer;
