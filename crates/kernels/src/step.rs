//! What the cached step asks of tensors: how much a row changed, and its forecast.

use candle_core::{DType, Result, Tensor, bail};

use crate::RowLayout;
use crate::devices::backend;

/// `mean(|previous - current|) / mean(|previous|)` of each row that has a previous value,
/// cache-dit's measure of change, NaN where both means are 0:
/// <https://github.com/vipshop/cache-dit/blob/v1.5.3/src/cache_dit/caching/cache_contexts/cache_manager.py#L553>.
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
    match backend(current.device()).residual_diffs(current, previous, rows)? {
        Some(diffs) => Ok(diffs),
        None => residual_diffs_reference(current, previous, rows),
    }
}

/// `x + sum(weight * term)`: a forecast from stored derivatives, or a reused residual.
///
/// # Errors
/// A term has another shape than `x`.
pub fn add_weighted(x: &Tensor, terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    if let Some((_, term)) = terms.iter().find(|(_, term)| term.dims() != x.dims()) {
        bail!("terms must be {:?} as x is. Given: {:?}", x.dims(), term.dims())
    }
    match backend(x.device()).add_weighted(x, terms)? {
        Some(sum) => Ok(sum),
        None => add_weighted_reference(x, terms),
    }
}

/// The scalar products of `x` with each of `others`, summed in f64: what a calibrated cache knows of residuals. All
/// together cost one copy from the device to the host.
///
/// # Errors
/// Another has another shape than `x`.
pub fn inner_products(x: &Tensor, others: &[&Tensor]) -> Result<Vec<f64>> {
    if let Some(other) = others.iter().find(|other| other.dims() != x.dims()) {
        bail!("others must be {:?} as x is. Given: {:?}", x.dims(), other.dims())
    }
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let x = x.to_dtype(DType::F64)?;
    let products = others.iter().map(|other| (&x * other.to_dtype(DType::F64)?)?.sum_all());
    Tensor::stack(&products.collect::<Result<Vec<_>>>()?, 0)?.to_vec1()
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    #[test]
    fn diffs_agree_with_candle() {
        on_each_set(|_| {
            for (lengths, dim) in [(&[18usize, 0, 64, 3][..], 160), (&[5], 7), (&[300, 411], 192)] {
                let rows = RowLayout::new(lengths);
                let current = randn(1, (rows.total(), dim));
                let previous: Vec<_> =
                    lengths.iter().enumerate().map(|(i, n)| randn(2 + i as u64, (*n, dim))).collect();
                // The second row has no previous value.
                let previous: Vec<_> = previous.iter().enumerate().map(|(i, t)| (i != 1).then_some(t)).collect();
                let given = residual_diffs(&current, &previous, &rows).unwrap();
                let expected = with_reference(|| residual_diffs(&current, &previous, &rows)).unwrap();
                for (given, expected) in given.iter().zip(expected) {
                    assert_eq!(given.is_some(), expected.is_some());
                    let (given, expected) = (given.unwrap_or(1.0), expected.unwrap_or(1.0));
                    assert!((given / expected - 1.0).abs() < 2e-6, "{given} {expected}");
                }
            }
        });
    }

    #[test]
    fn a_row_is_compared_with_its_own_past() {
        on_each_set(|_| {
            let rows = RowLayout::new(&[1, 1, 1, 1]);
            let current = Tensor::new(&[[3f32, -1.0], [2.0, 2.0], [0.0, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
            let previous = [[2f32, -2.0], [0.0, 0.0], [0.0, 0.0]].map(|x| Tensor::new(&[x], &Device::Cpu).unwrap());
            let previous = [Some(&previous[0]), None, Some(&previous[1]), Some(&previous[2])];
            let diffs = || residual_diffs(&current, &previous, &rows).unwrap();
            for given in [diffs(), with_reference(diffs)] {
                // |2 - 3| + |-2 + 1| of |2| + |-2|; nothing of nothing; something of nothing.
                assert_eq!((given[0], given[1], given[3]), (Some(0.5), None, Some(f32::INFINITY)));
                assert!(given[2].unwrap().is_nan());
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            let rows = RowLayout::new(&[37, 700]);
            let (current, previous) = (randn(1, (737, 192)), randn(2, (700, 192)));
            let together = residual_diffs(&current, &[None, Some(&previous)], &rows).unwrap();
            let current = current.narrow(0, 37, 700).unwrap();
            assert_eq!(together[1], residual_diffs(&current, &[Some(&previous)], &RowLayout::new(&[700])).unwrap()[0]);
        });
    }

    #[test]
    fn weighted_sums_agree_with_candle() {
        on_each_set(|_| {
            for (tokens, dim) in [(1, 5), (64, 160), (700, 193)] {
                let [x, a, b] = [1, 2, 3].map(|seed| randn(seed, (tokens, dim)));
                for terms in [&[][..], &[(1.0, &a)], &[(-0.5, &a), (2.25, &b)]] {
                    let sum = || add_weighted(&x, terms).unwrap();
                    assert_close("weighted sum", &sum(), &with_reference(sum), 3e-7);
                }
            }
        });
    }

    #[test]
    fn a_weighted_sum_by_hand() {
        on_each_set(|_| {
            let [x, a, b] = [[1f32, 2.0], [10.0, 20.0], [4.0, 0.0]].map(|x| Tensor::new(&x, &Device::Cpu).unwrap());
            let sum = || numbers(&add_weighted(&x, &[(0.5, &a), (-1.0, &b)]).unwrap());
            assert_eq!((sum(), with_reference(sum)), (vec![2.0, 12.0], vec![2.0, 12.0]));
        });
    }
}
