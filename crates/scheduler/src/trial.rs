//! The trial: a small picture of the scheduler's own that shows whether a pipeline works.

use diffusion::{Interrupt, Pipeline, PipelineError};

use crate::calibration::{request, smaller};

/// Divisor of the default size.
const DIVISOR: usize = 4;

/// Generates a picture of one step from beginning to end.
///
/// # Errors
/// The error of the stage that fails.
pub(crate) fn pass_trial<P: Pipeline>(pipeline: &mut P, interrupt: &Interrupt) -> Result<(), PipelineError> {
    let card = pipeline.card();
    let request = request(card, smaller(card.default_size, DIVISOR));
    let mut state = pipeline.prepare(&request, interrupt)?;
    pipeline.step(&mut [&mut state], interrupt)?;
    pipeline.release(&mut state);
    pipeline.decode(state, interrupt).map(|_| ())
}
