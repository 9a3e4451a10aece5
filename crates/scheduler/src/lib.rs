//! Decides which jobs step together on which worker, and owns the workers.
//!
//! Decisions are functions of the books (`state`), plain values that a simulation can fill as well as a server.
//! `admission` decides whether a job is accepted, `ordering` who goes first, `step` who steps together, and `policy`
//! which turn each worker takes. They predict times with `cost`, a model that is measured at startup (`calibration`)
//! and corrected by every turn. `run` is the only event loop: it alone owns both the books and the channels. `worker`
//! is one OS thread per device that executes orders and reports; async code ends at its inbox.
//!
//! A large picture fills a device alone: stepping eight together makes each of them eight times slower. Small ones do
//! not fill it. So a step is filled as long as throughput grows, and between steps every decision is made again: a
//! short job goes before a running long one, whose state stays in place. The price is memory, which
//! [`SchedulerConfig::memory_budget`] bounds.
//!
//! A job is one picture. It is queued, encoded, takes its denoising steps together with other running jobs, is decoded,
//! and is answered exactly once: with a picture, with the error of its own turn, or because its worker crashed or the
//! server stops. Dropping its [`Ticket`] cancels it at any stage. A turn whose jobs are all gone is interrupted; a turn
//! that still serves others continues.
//!
//! Work that no client waits for is not a job but idle work (`idle`), which has no part in any of this. A worker starts
//! it when it has nothing else to do, and leaves it within a block of a step when a job comes.

mod admission;
mod backoff;
mod booked_job;
mod calibration;
mod config;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod cost;
mod curve;
mod dry_run;
mod event;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod handle;
mod health;
mod idle;
mod interrupts;
mod job;
mod lane;
mod mean;
mod memory;
mod observer;
mod order;
mod ordering;
mod pace;
mod policy;
mod queue;
mod readiness;
mod refusal;
mod retries;
mod reuse;
mod run;
mod sharing;
mod state;
mod step;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod ticket;
mod times;
mod trial;
mod turn;
mod unanswered;
mod worker;

pub use backoff::Backoff;
pub use booked_job::{JobId, WorkerId};
pub use config::{JobOptions, PRIORITIES, SchedulerConfig, SpawnOptions};
pub use dry_run::{DryRun, MeasuredTimes};
pub use handle::Scheduler;
pub use job::{Generated, JobError, Outcome, Timings, Update};
pub use observer::{Observation, Observer};
pub use queue::{Queue, QueueFuture};
pub use readiness::{Load, Readiness};
pub use refusal::SubmitError;
pub use ticket::{Place, Ticket};
pub use turn::Turn;
