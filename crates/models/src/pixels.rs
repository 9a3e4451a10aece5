//! Checked conversion of tensors to pixel values.

use candle_core::Tensor;
use diffusion::PipelineError;

use crate::device_error;

/// Copies the numbers of a tensor to the host. `what` names the tensor in an error.
///
/// # Errors
/// Some numbers are not finite.
pub(crate) fn finite_numbers(what: &'static str, tensor: &Tensor) -> Result<Vec<f32>, PipelineError> {
    let numbers = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(device_error)?;
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(PipelineError::NotFinite { what }),
    }
}

/// Converts pixels in -1..=1 to bytes, clamping values outside.
///
/// # Errors
/// Some pixels are not finite; as bytes they would be black.
pub(crate) fn bytes(pixels: &[f32]) -> Result<Vec<u8>, PipelineError> {
    let mut all_finite = true;
    let byte = |&x: &f32| {
        all_finite &= x.is_finite();
        // Rounds half to even, like numpy.
        ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
    };
    let bytes = pixels.iter().map(byte).collect();
    if all_finite { Ok(bytes) } else { Err(PipelineError::NotFinite { what: "pixels" }) }
}
