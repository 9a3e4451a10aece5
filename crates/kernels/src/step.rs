//! Tensor operations of a cached denoising step: the change of a row, its forecast, and the concatenation of rows.

use candle_core::{DType, Result, Tensor, bail};

use crate::WeightedTensors;
use crate::devices::backend;

/// cache-dit's measure of change, `mean(|previous - current|) / mean(|previous|)`, of each row's `(current, previous)`;
/// NaN if both means are 0:
/// <https://github.com/vipshop/cache-dit/blob/v1.5.3/src/cache_dit/caching/cache_contexts/cache_manager.py#L553>.
///
/// All tensors are `[tokens of the row, dim]`. All rows together cost one copy from the device to the host.
///
/// # Errors
/// The values of a row have different shapes, or the rows different widths.
pub fn residual_diffs(rows: &[(&Tensor, &Tensor)]) -> Result<Vec<f32>> {
    let Some((first, _)) = rows.first() else { return Ok(Vec::new()) };
    let (_, dim) = first.dims2()?;
    for (row, (current, previous)) in rows.iter().enumerate() {
        let expected = [current.dim(0)?, dim];
        if current.dims() != expected || previous.dims() != expected {
            let given = (current.dims(), previous.dims());
            bail!("current and previous of row {row} must be {expected:?}. Given: {given:?}")
        }
    }
    match backend(first.device()).residual_diffs(rows)? {
        Some(diffs) => Ok(diffs),
        None => residual_diffs_reference(rows),
    }
}

/// Weighted sums. The tensors of one sum have the same shape.
///
/// # Errors
/// A sum has no terms, or terms of different shapes.
pub fn weighted_sums(sums: &[WeightedTensors<'_>]) -> Result<Vec<Tensor>> {
    for terms in sums {
        let Some((_, first)) = terms.first() else { bail!("terms must not be empty") };
        if let Some((_, term)) = terms.iter().find(|(_, term)| term.dims() != first.dims()) {
            bail!("terms must all be {:?} as the first is. Given: {:?}", first.dims(), term.dims())
        }
    }
    let Some((_, first)) = sums.first().and_then(|terms| terms.first()) else { return Ok(Vec::new()) };
    match backend(first.device()).weighted_sums(sums)? {
        Some(sums) => Ok(sums),
        None => sums.iter().map(|terms| weighted_sum_reference(terms)).collect(),
    }
}

/// `x + sum(weight * term)`.
///
/// # Errors
/// A term has another shape than `x`.
pub fn add_weighted(x: &Tensor, terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let terms = std::iter::once((1.0, x)).chain(terms.iter().copied()).collect();
    Ok(weighted_sums(&[terms])?.remove(0))
}

/// Concatenates the rows of `parts`, `[tokens, dim]` each.
///
/// # Errors
/// `parts` is empty, or its tensors have different widths or types.
pub fn cat_rows(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else { bail!("parts must not be empty") };
    let (_, dim) = first.dims2()?;
    if let Some(part) = parts.iter().find(|part| part.dims().get(1) != Some(&dim) || part.dtype() != first.dtype()) {
        let (dtype, given) = (first.dtype(), (part.dims(), part.dtype()));
        bail!("parts must all be [tokens, {dim}] of {dtype:?}. Given: {given:?}")
    }
    match backend(first.device()).cat_rows(parts)? {
        Some(rows) => Ok(rows),
        None => Tensor::cat(parts, 0),
    }
}

/// Inner products of `x` with each of `others`, summed in f64: all that a calibration needs of the latents. All
/// together cost one copy from the device to the host.
///
/// # Errors
/// One of `others` has another shape than `x`.
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

fn residual_diffs_reference(rows: &[(&Tensor, &Tensor)]) -> Result<Vec<f32>> {
    let diff = |(current, previous): &(&Tensor, &Tensor)| {
        let (current, previous) = (current.to_dtype(DType::F32)?, previous.to_dtype(DType::F32)?);
        // Both means are over the same number of elements, so the ratio of the sums is that of the means.
        (&previous - current)?.abs()?.sum_all()? / previous.abs()?.sum_all()?
    };
    Tensor::stack(&rows.iter().map(diff).collect::<Result<Vec<_>>>()?, 0)?.to_vec1::<f32>()
}

fn weighted_sum_reference(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut weighted =
        terms.iter().map(|(weight, term)| if *weight == 1.0 { Ok((*term).clone()) } else { *term * *weight });
    let first = weighted.next().ok_or_else(|| candle_core::Error::msg("terms must not be empty"))?;
    weighted.try_fold(first?, |sum, term| sum + term?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    /// Rows of one matrix, each with its previous values.
    fn rows(lengths: &[usize], dim: usize) -> Vec<(Tensor, Tensor)> {
        let all = randn(1, (lengths.iter().sum(), dim));
        let mut first = 0;
        let row = |(length, seed): (&usize, u64)| {
            first += length;
            (all.narrow(0, first - length, *length).unwrap(), randn(seed, (*length, dim)))
        };
        lengths.iter().zip(2..).map(row).collect()
    }

    fn pairs(rows: &[(Tensor, Tensor)]) -> Vec<(&Tensor, &Tensor)> {
        rows.iter().map(|(current, previous)| (current, previous)).collect()
    }

    #[test]
    fn diffs_agree_with_candle() {
        on_each_set(|_| {
            for (lengths, dim) in [(&[18usize, 1, 64, 3][..], 160), (&[5], 7), (&[300, 411], 192)] {
                let rows = rows(lengths, dim);
                let given = residual_diffs(&pairs(&rows)).unwrap();
                let expected = with_reference(|| residual_diffs(&pairs(&rows))).unwrap();
                assert_eq!(given.len(), lengths.len());
                for (given, expected) in given.iter().zip(expected) {
                    assert!((given / expected - 1.0).abs() < 2e-6, "{given} {expected}");
                }
            }
        });
    }

    #[test]
    fn a_row_is_compared_with_its_own_past() {
        on_each_set(|_| {
            let current = Tensor::new(&[[3f32, -1.0], [0.0, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
            let current = [0, 1, 2].map(|row| current.narrow(0, row, 1).unwrap());
            let previous = [[2f32, -2.0], [0.0, 0.0], [0.0, 0.0]].map(|x| Tensor::new(&[x], &Device::Cpu).unwrap());
            let rows: Vec<_> = current.iter().zip(&previous).collect();
            let diffs = || residual_diffs(&rows).unwrap();
            for given in [diffs(), with_reference(diffs)] {
                // (|2 - 3| + |-2 + 1|) / (|2| + |-2|), then 0 / 0, then 1 / 0.
                assert_eq!((given[0], given[2]), (0.5, f32::INFINITY));
                assert!(given[1].is_nan());
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            let rows = rows(&[37, 700], 192);
            let together = residual_diffs(&pairs(&rows)).unwrap();
            assert_eq!(together[1], residual_diffs(&pairs(&rows[1..])).unwrap()[0]);
        });
    }

    #[test]
    fn weighted_sums_agree_with_candle() {
        on_each_set(|_| {
            for (tokens, dim) in [(1, 5), (64, 160), (700, 193)] {
                let [x, a, b] = [1, 2, 3].map(|seed| randn(seed, (tokens, dim)));
                let sums = [vec![(1.0, &x)], vec![(0.75, &x), (1.0, &a)], vec![(1.0, &x), (-0.5, &a), (2.25, &b)]];
                let given = weighted_sums(&sums).unwrap();
                let expected = with_reference(|| weighted_sums(&sums)).unwrap();
                for (given, expected) in given.iter().zip(&expected) {
                    assert_close("weighted sum", given, expected, 3e-7);
                }
            }
        });
    }

    /// The residual of the middle blocks, equal to candle's subtraction.
    #[test]
    fn a_difference_is_exact() {
        on_each_set(|_| {
            let [output, input] = [1, 2].map(|seed| randn(seed, (70, 193)));
            let given = weighted_sums(&[vec![(1.0, &output), (-1.0, &input)]]).unwrap();
            assert_eq!(numbers(&given[0]), numbers(&(&output - &input).unwrap()));
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

    #[test]
    fn errors_name_what_was_given() {
        let [a, b] = [randn(1, (2, 3)), randn(2, (2, 4))];
        let message = weighted_sums(&[vec![(1.0, &a), (1.0, &b)]]).unwrap_err().to_string();
        assert!(message.starts_with("terms must all be [2, 3] as the first is. Given: [2, 4]"), "{message}");
        assert!(weighted_sums(&[Vec::new()]).unwrap_err().to_string().starts_with("terms must not be empty"));
        let message = residual_diffs(&[(&a, &a), (&a, &b)]).unwrap_err().to_string();
        assert!(message.starts_with("current and previous of row 1 must be [2, 3]. Given:"), "{message}");
        let message = cat_rows(&[&a, &b]).unwrap_err().to_string();
        assert!(message.starts_with("parts must all be [tokens, 3] of F32. Given: ([2, 4], F32)"), "{message}");
        assert!(cat_rows(&[]).is_err());
    }
}
