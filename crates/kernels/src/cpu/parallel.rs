//! Splitting work over rayon's threads.

use std::ops::Range;

/// Runs `work` over `0..n`, in one piece per thread with at least `min` items each.
pub(super) fn split(n: usize, min: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    if n > 0 {
        split_range(0..n, pieces(n, min), work);
    }
}

fn split_range(range: Range<usize>, pieces: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    if pieces <= 1 {
        return work(range);
    }
    let middle = range.start + range.len() * (pieces / 2) / pieces;
    rayon::join(
        || split_range(range.start..middle, pieces / 2, work),
        || split_range(middle..range.end, pieces - pieces / 2, work),
    );
}

/// Runs `work(first row, rows)` over the rows of `out`, in one piece per thread with at least `min` floats each.
pub(super) fn split_rows(out: &mut [f32], row_len: usize, min: usize, work: &(impl Fn(usize, &mut [f32]) + Sync)) {
    if !out.is_empty() {
        let rows = out.len() / row_len;
        split_slice(0, out, row_len, pieces(rows, min.div_ceil(row_len)), work);
    }
}

fn split_slice(
    first_row: usize,
    out: &mut [f32],
    row_len: usize,
    pieces: usize,
    work: &(impl Fn(usize, &mut [f32]) + Sync),
) {
    if pieces <= 1 {
        return work(first_row, out);
    }
    let rows = out.len() / row_len * (pieces / 2) / pieces;
    let (above, below) = out.split_at_mut(rows * row_len);
    rayon::join(
        || split_slice(first_row, above, row_len, pieces / 2, work),
        || split_slice(first_row + rows, below, row_len, pieces - pieces / 2, work),
    );
}

fn pieces(n: usize, min: usize) -> usize {
    // Reading the number of threads starts the pool, which a single piece does not need.
    match n / min.max(1) {
        0 | 1 => 1,
        most => most.min(rayon::current_num_threads()),
    }
}

/// Memory that several threads write through, each to its own elements.
#[derive(Clone, Copy)]
pub(super) struct SharedMut {
    start: *mut f32,
    len: usize,
}

// SAFETY: a pointer is only a number. The writers are responsible for disjoint writes.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(super) fn new(out: &mut [f32]) -> Self {
        SharedMut { start: out.as_mut_ptr(), len: out.len() }
    }

    /// The memory after the last element of a vector. It must be written before it is read.
    pub(super) fn spare(out: &mut Vec<f32>) -> Self {
        let spare = out.spare_capacity_mut();
        SharedMut { start: spare.as_mut_ptr().cast(), len: spare.len() }
    }

    /// A pointer to `count` elements from `index` on.
    ///
    /// # Safety
    /// The elements lie inside the memory that this was made from.
    #[inline(always)]
    pub(super) unsafe fn at(self, index: usize, count: usize) -> *mut f32 {
        debug_assert!(index + count <= self.len, "{index} + {count} > {}. This is a bug.", self.len);
        // SAFETY: the caller promises that the elements lie inside.
        unsafe { self.start.add(index) }
    }
}

/// The first `len` floats of a buffer that only grows, with unspecified contents.
pub(super) fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_item_is_visited_once() {
        for n in [0, 1, 2, 7, 100] {
            for min in [1, 3, 1000] {
                let visited = Mutex::new(Vec::new());
                split(n, min, &|range| visited.lock().unwrap().extend(range));
                let mut visited = visited.into_inner().unwrap();
                visited.sort_unstable();
                assert_eq!(visited, (0..n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn every_row_knows_its_number() {
        let mut out = vec![0.0; 7 * 3];
        split_rows(&mut out, 3, 1, &|first_row, rows| {
            rows.chunks_mut(3).enumerate().for_each(|(i, row)| row.fill((first_row + i) as f32));
        });
        assert_eq!(out, (0..7).flat_map(|row| [row as f32; 3]).collect::<Vec<_>>());
    }
}
