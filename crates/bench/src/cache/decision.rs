//! Cost of a cache decision: the rules, and the residual diffs that they need.
//!
//! The timing covers the work that a step does only for the decision: the first blocks' residual of each pass, its
//! change against the previous step in one copy from the device, and the rules. It excludes storing and adding
//! residuals, which follow from the decision.

use std::time::Instant;

use cache::{CacheConfig, RequestCache, RowObservation, Segment};
use candle_core::{DType, Device, Tensor};
use diffusion::{CfgBranch, ImageRequest, Interrupt, Pipeline, PipelineError};
use kernels::{in_pool, residual_diffs, weighted_sums};
use latentd::Error;
use models::AnyPipeline;
use serde::Serialize;

use crate::median::median;

const RULE_RUNS: usize = 1000;
const DIFF_RUNS: usize = 300;
/// Number of steps of the request on which the rules are timed.
const STEPS: usize = 50;

/// Medians of one step of one request, in microseconds.
#[derive(Serialize)]
pub(super) struct DecisionCost {
    pub(super) passes: usize,
    pub(super) tokens: usize,
    pub(super) width: usize,
    /// `needs_diff` and `decide`, for all passes.
    pub(super) rules_us: f64,
    /// The first blocks' residuals and their diffs, for all passes.
    pub(super) diffs_us: f64,
    /// Time of a step without a cache.
    pub(super) step_us: f64,
    /// Rules and diffs as a share of that step.
    pub(super) share_of_step: f64,
}

/// Times a decision of `request`, whose uncached step takes `step_us`.
///
/// # Errors
/// The device fails.
pub(super) fn measure(pipeline: &mut AnyPipeline, request: &ImageRequest, step_us: f64) -> Result<DecisionCost, Error> {
    let state = pipeline.prepare(request, &Interrupt::default())?;
    let passes = request.params.guidance.branches().len();
    let (tokens, _) = state.latents().dims2().map_err(failed)?;
    let device = state.latents().device().clone();
    let width = pipeline.card().dim;
    let dtype = state.prompt_embeds(CfgBranch::Cond).map_or(DType::F32, Tensor::dtype);
    let diffs_us = in_pool(&device, || diffs(passes, tokens, width, dtype, &device)).map_err(failed)?;
    let rules_us = rules(passes, tokens, &pipeline.card().num_blocks);
    let share_of_step = (rules_us + diffs_us) / step_us;
    Ok(DecisionCost { passes, tokens, width, rules_us, diffs_us, step_us, share_of_step })
}

/// Times the rules of one step, averaged over a request with the guide's defaults and diffs on both sides of the
/// threshold.
fn rules(passes: usize, tokens: usize, num_blocks: &[usize]) -> f64 {
    let segments: Vec<_> = num_blocks.iter().map(|&num_blocks| Segment { name: "blocks", num_blocks }).collect();
    let fresh = RequestCache::new(&CacheConfig::default(), STEPS, &segments, passes).0;
    let tokens = vec![tokens; passes];
    let request = || {
        let mut cache = fresh.clone();
        let started = Instant::now();
        for step in 0..STEPS {
            for segment in 0..segments.len() {
                let needed = cache.needs_diff(segment, &tokens);
                let observe = |(needed, &tokens): (bool, &usize)| {
                    let diff = if step.is_multiple_of(5) { 0.3 } else { 0.1 };
                    RowObservation { tokens, residual_diff: needed.then_some(diff) }
                };
                let rows: Vec<_> = needed.into_iter().zip(&tokens).map(observe).collect();
                std::hint::black_box(cache.decide(segment, &rows));
            }
        }
        started.elapsed().as_secs_f64() * 1e6 / STEPS as f64
    };
    median((0..RULE_RUNS).map(|_| request()))
}

/// Times the first blocks' residual of every pass, and its diff against the last computed step's.
fn diffs(passes: usize, tokens: usize, width: usize, dtype: DType, device: &Device) -> candle_core::Result<f64> {
    let noise = || Tensor::randn(0f32, 1.0, (passes * tokens, width), device)?.to_dtype(dtype);
    let of_rows = |x: &Tensor| {
        let rows = (0..passes).map(|row| x.narrow(0, row * tokens, tokens));
        rows.collect::<candle_core::Result<Vec<_>>>()
    };
    let (input, output, previous) = (of_rows(&noise()?)?, of_rows(&noise()?)?, of_rows(&noise()?)?);
    let step = || {
        let started = Instant::now();
        let residual = |(output, input)| vec![(1.0, output), (-1.0, input)];
        let residuals = weighted_sums(&output.iter().zip(&input).map(residual).collect::<Vec<_>>())?;
        std::hint::black_box(residual_diffs(&residuals.iter().zip(&previous).collect::<Vec<_>>())?);
        Ok(started.elapsed().as_secs_f64() * 1e6)
    };
    Ok(median((0..DIFF_RUNS).map(|_| step()).collect::<candle_core::Result<Vec<f64>>>()?))
}

fn failed(err: candle_core::Error) -> Error {
    PipelineError::Model(err.to_string()).into()
}
