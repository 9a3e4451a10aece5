//! The layout of a ragged batch: where each row begins.

use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor, bail};

/// Offsets of rows that lie one after another along the token axis. A row may be empty.
#[derive(Clone, Debug)]
pub struct RowLayout {
    /// `num_rows + 1` offsets, the first 0, the last the number of tokens.
    offsets: Vec<usize>,
    /// The offsets on the first device that asked for them, shared by all clones.
    #[cfg(feature = "cuda")]
    on_device: Arc<OnceLock<Tensor>>,
}

impl PartialEq for RowLayout {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets
    }
}

impl Eq for RowLayout {}

impl RowLayout {
    /// Lays out rows of the given numbers of tokens, in order.
    pub fn new(lengths: &[usize]) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        RowLayout {
            offsets: std::iter::once(0).chain(ends).collect(),
            #[cfg(feature = "cuda")]
            on_device: Arc::default(),
        }
    }

    /// The number of rows.
    pub fn num_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Tokens of all rows together.
    pub fn total(&self) -> usize {
        self.offsets[self.num_rows()]
    }

    /// The tokens of `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.offsets[row]..self.offsets[row + 1]
    }

    /// The number of tokens of `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn length(&self, row: usize) -> usize {
        self.range(row).len()
    }

    /// The tokens of each row, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// Repeats the vector of each row for each of its tokens: `[num_rows, dim]` to `[total, dim]`.
    pub(crate) fn expand(&self, vectors: &Tensor) -> Result<Tensor> {
        let dim = vectors.dim(1)?;
        if self.total() == 0 {
            return vectors.narrow(0, 0, 0);
        }
        if self.num_rows() == 1 {
            return vectors.broadcast_as((self.total(), dim));
        }
        let parts = self.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty());
        let parts = parts.map(|(row, tokens)| vectors.narrow(0, row, 1)?.broadcast_as((tokens.len(), dim)));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The offsets on `device`, `[num_rows + 1]` of u32. The first call copies them.
    #[cfg(feature = "cuda")]
    pub(crate) fn offsets_on(&self, device: &candle_core::Device) -> Result<Tensor> {
        if let Some(offsets) = self.on_device.get().filter(|offsets| offsets.device().same_device(device)) {
            return Ok(offsets.clone());
        }
        let offsets = Tensor::from_iter(self.offsets.iter().map(|&offset| offset as u32), device)?;
        // If the offsets of another device are cached, every call for this device copies them.
        let _ = self.on_device.set(offsets.clone());
        Ok(offsets)
    }

    /// Like `offsets_on`; `None` if no row has a token.
    #[cfg(feature = "cuda")]
    pub(crate) fn offsets_if_any(&self, device: &candle_core::Device) -> Result<Option<Tensor>> {
        if self.total() == 0 { Ok(None) } else { self.offsets_on(device).map(Some) }
    }

    /// Checks that `x` is `[total, dim]` and that `vectors` has one `[dim]` per row.
    pub(crate) fn check(&self, name: &str, x: &Tensor, vectors: &Tensor) -> Result<()> {
        let (tokens, dim) = x.dims2()?;
        if tokens != self.total() {
            bail!("rows must cover the {tokens} tokens of x. Given: {}", self.total())
        }
        if vectors.dims() != [self.num_rows(), dim] {
            bail!("{name} must be [{}, {dim}], one vector a row. Given: {:?}", self.num_rows(), vectors.dims())
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rows_lie_one_after_another() {
        let rows = RowLayout::new(&[3, 0, 2]);
        assert_eq!((rows.num_rows(), rows.total(), rows.length(2)), (3, 5, 2));
        assert_eq!(rows.iter().collect::<Vec<_>>(), [0..3, 3..3, 3..5]);
        assert_eq!(rows.range(1), 3..3);
        assert_eq!(RowLayout::new(&[]).total(), 0);
    }

    #[test]
    fn a_vector_is_repeated_for_each_token_of_its_row() {
        let vectors = Tensor::new(&[[1f32], [2.0], [3.0]], &Device::Cpu).unwrap();
        let tokens = RowLayout::new(&[3, 0, 2]).expand(&vectors).unwrap();
        assert_eq!(tokens.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1.0, 1.0, 1.0, 3.0, 3.0]);
        assert_eq!(RowLayout::new(&[0, 0, 0]).expand(&vectors).unwrap().dims(), [0, 1]);
    }
}
