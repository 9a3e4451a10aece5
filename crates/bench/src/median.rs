//! The median of measurements.

/// The median; for an even count the upper of the two middle values, and NaN for no values.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = Vec::from_iter(values);
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
