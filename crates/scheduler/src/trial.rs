//! A small picture of our own, by which a pipeline shows that it works.

use diffusion::{Interrupt, Pipeline, PipelineError};

use crate::calibration::{request, smaller};

/// How much smaller than the default size the picture is.
const DIVISOR: usize = 4;

/// Makes a picture of one step from beginning to end.
///
/// # Errors
/// That of the stage that fails.
pub(crate) fn pass_trial<P: Pipeline>(pipeline: &mut P, interrupt: &Interrupt) -> Result<(), PipelineError> {
    let card = pipeline.card();
    let request = request(card, smaller(card.default_size, DIVISOR));
    let mut state = pipeline.prepare(&request, interrupt)?;
    pipeline.step(&mut [&mut state], interrupt)?;
    pipeline.release(&mut state);
    pipeline.decode(state, interrupt).map(|_| ())
}
