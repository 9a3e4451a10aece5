//! The Pareto frontier: the points for which no cheaper point is as good.

use super::summary::Summary;

/// Indices on the frontier of PSNR over the computed share, the cheapest first.
pub(super) fn by_share(summaries: &[Summary]) -> Vec<usize> {
    frontier(summaries.iter().map(|summary| (summary.computed, summary.psnr)))
}

/// Indices on the frontier of PSNR over the measured time, the cheapest first.
pub(super) fn by_time(summaries: &[Summary]) -> Vec<usize> {
    frontier(summaries.iter().map(|summary| (1.0 / summary.speedup, summary.psnr)))
}

/// Indices on the frontier of points (cost, PSNR). The PSNR of identical pictures is `None`. Of equal points the first
/// counts.
fn frontier(points: impl Iterator<Item = (f64, Option<f64>)>) -> Vec<usize> {
    let points = points.map(|(cost, psnr)| (cost, psnr.unwrap_or(f64::INFINITY)));
    let mut points: Vec<_> = points.enumerate().collect();
    points.sort_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut best = f64::NEG_INFINITY;
    points.retain(|(_, (_, psnr))| {
        let is_better = *psnr > best;
        best = best.max(*psnr);
        is_better
    });
    points.into_iter().map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_something_cheaper_is_as_good_as_is_not_on_it() {
        let of = |points: &[(f64, Option<f64>)]| frontier(points.iter().copied());
        assert_eq!(
            of(&[(0.5, Some(40.0)), (0.2, Some(30.0)), (0.6, Some(40.0)), (1.0, None), (0.3, Some(29.0))]),
            [1, 0, 3]
        );
        // A point as cheap as another and worse; a duplicate.
        assert_eq!(of(&[(0.5, Some(40.0)), (0.5, Some(41.0)), (0.5, Some(41.0))]), [1]);
        assert_eq!(of(&[(1.0, None), (1.2, None)]), [0]);
        assert_eq!(of(&[]), [0; 0]);
    }
}
