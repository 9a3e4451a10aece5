//! What the cached step asks of tensors: how much a row changed, and its forecast.

use candle_core::{DType, Result, Tensor, bail};

use crate::RowLayout;

/// `mean(|previous - current|) / mean(|previous|)` of each row that has a previous value,
/// cache-dit's measure of change, NaN where both means are 0:
/// <https://github.com/vipshop/cache-dit/blob/v1.1.5/src/cache_dit/caching/cache_contexts/cache_manager.py#L473>.
///
/// `current` is `[tokens, dim]`, `previous` holds one `[tokens of the row, dim]` a row. All
/// rows together cost one copy from the device to the host.
///
/// # Errors
/// A shape does not fit.
pub fn residual_diffs(current: &Tensor, previous: &[Option<&Tensor>], rows: &RowLayout) -> Result<Vec<Option<f32>>> {
    let (tokens, dim) = current.dims2()?;
    if tokens != rows.total() || previous.len() != rows.num_rows() {
        let given = (rows.total(), previous.len());
        bail!("rows must cover {tokens} tokens and previous hold {} values. Given: {given:?}", rows.num_rows())
    }
    for (row, previous) in previous.iter().enumerate() {
        let expected = [rows.length(row), dim];
        if let Some(previous) = previous.filter(|previous| previous.dims() != expected) {
            bail!("previous of row {row} must be {expected:?}. Given: {:?}", previous.dims())
        }
    }
    residual_diffs_reference(current, previous, rows)
}

/// `x + sum(weight * term)`: a forecast from stored derivatives, or a reused residual.
///
/// # Errors
/// A term has another shape than `x`.
pub fn add_weighted(x: &Tensor, terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    if let Some((_, term)) = terms.iter().find(|(_, term)| term.dims() != x.dims()) {
        bail!("terms must be {:?} as x is. Given: {:?}", x.dims(), term.dims())
    }
    add_weighted_reference(x, terms)
}

fn residual_diffs_reference(
    current: &Tensor,
    previous: &[Option<&Tensor>],
    rows: &RowLayout,
) -> Result<Vec<Option<f32>>> {
    let mut diffs = Vec::new();
    for (tokens, previous) in rows.iter().zip(previous) {
        let Some(previous) = previous else { continue };
        let current = current.narrow(0, tokens.start, tokens.len())?.to_dtype(DType::F32)?;
        let previous = previous.to_dtype(DType::F32)?;
        // Both means are over as many elements, so the sums have their ratio.
        diffs.push(((&previous - current)?.abs()?.sum_all()? / previous.abs()?.sum_all()?)?);
    }
    if diffs.is_empty() {
        return Ok(vec![None; previous.len()]);
    }
    let mut diffs = Tensor::stack(&diffs, 0)?.to_vec1::<f32>()?.into_iter();
    Ok(previous.iter().map(|previous| previous.and_then(|_| diffs.next())).collect())
}

fn add_weighted_reference(x: &Tensor, terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    terms.iter().try_fold(x.clone(), |sum, (weight, term)| sum + (*term * *weight)?)
}
