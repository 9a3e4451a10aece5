//! Tiled VAE: a picture is cut into overlapping squares, whose results are blended where they overlap.
//!
//! Equal number by number to diffusers' `tiled_decode` and `tiled_encode`,
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L907>

use std::ops::Range;

use candle_core::{Device, Tensor};
use kernels::check_interrupt;

use crate::Result;

/// Pixels per latent position along a side.
const SCALE: usize = 8;

/// Size and spacing of the squares in which a picture is decoded or encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile, in latents.
    pub side: usize,
    /// Distance from the start of one tile to the start of the next, in latents; at least half a side.
    pub stride: usize,
}

/// When the VAE works in tiles. Tiling bounds the memory however large a picture is, at the cost of more work, since
/// tiles overlap. Pictures no larger than a tile are never tiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VaeTiling {
    /// Never.
    #[default]
    Never,
    /// Always.
    Always,
    /// Where the whole picture would need more than this many bytes.
    Above(u64),
}

/// A part of the latents: a full square, or what remains of one at the right and bottom edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Tile {
    /// Returns the number of latents.
    pub(crate) fn area(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl Tiling {
    /// Whether latents of the given rows and columns need more than one tile.
    pub(crate) fn divides(self, (rows, columns): (usize, usize)) -> bool {
        rows > self.side || columns > self.side
    }

    /// Returns the tiles of latents of the given rows and columns, from the top left, row by row.
    pub(crate) fn tiles(self, (rows, columns): (usize, usize)) -> Vec<Tile> {
        let along = |end: usize| (0..end).step_by(self.stride).map(move |start| start..end.min(start + self.side));
        along(rows).flat_map(|rows| along(columns).map(move |columns| Tile { rows: rows.clone(), columns })).collect()
    }
}

/// Decodes unpacked latents `[rows, columns, channels]` to pixels `[8 rows, 8 columns, 3]`. `decode` decodes one tile,
/// like [`crate::Family::decode`].
///
/// # Errors
/// `decode` fails, or the work was interrupted.
pub fn decode_tiles(latents: &Tensor, tiling: Tiling, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<f32>> {
    let (rows, columns, _) = latents.dims3()?;
    let pixels = in_tiles(tiling, (rows, columns), SCALE, |tile| decode(&part(latents, tile, 1)?))?;
    Ok(pixels.numbers)
}

/// Encodes pixels `[8 rows, 8 columns, 3]` to unpacked latents `[rows, columns, channels]` on the CPU. `encode` encodes
/// one tile, like [`crate::Family::encode`].
///
/// # Errors
/// `encode` fails, or the work was interrupted.
pub fn encode_tiles(pixels: &Tensor, tiling: Tiling, encode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (height, width, _) = pixels.dims3()?;
    let size = (height / SCALE, width / SCALE);
    let latents = in_tiles(tiling, size, 1, |tile| encode(&part(pixels, tile, SCALE)?))?;
    Tensor::from_vec(latents.numbers, (latents.height, latents.width, latents.channels), &Device::Cpu)
}

/// Cuts a tile out of `whole`, which has `scale` numbers per latent along each side.
fn part(whole: &Tensor, tile: &Tile, scale: usize) -> Result<Tensor> {
    let along = |of: &Tensor, dim, range: &Range<usize>| of.narrow(dim, scale * range.start, scale * range.len());
    along(&along(whole, 0, &tile.rows)?, 1, &tile.columns)?.contiguous()
}

/// Runs `work` on each tile of latents of the given rows and columns, and assembles the results, which have `scale`
/// numbers per latent along each side.
fn in_tiles(
    tiling: Tiling,
    size: (usize, usize),
    scale: usize,
    work: impl Fn(&Tile) -> Result<Tensor>,
) -> Result<Patch> {
    let mut tiles = tiling.tiles(size).into_iter();
    let mut next = || {
        let Some(tile) = tiles.next() else { return Ok(None) };
        check_interrupt()?;
        work(&tile).map(|made| Some((tile, made)))
    };
    let mut mosaic: Option<Mosaic> = None;
    let mut made = next()?;
    while let Some((tile, numbers)) = made {
        let (height, width, channels) = numbers.dims3()?;
        let patch = Patch { numbers: numbers.flatten_all()?.to_vec1::<f32>()?, height, width, channels };
        // A GPU works on this tile while the previous one is blended.
        made = next()?;
        mosaic.get_or_insert_with(|| Mosaic::new(tiling, size, scale, channels)).add(&tile, patch);
    }
    Ok(mosaic.map(|mosaic| mosaic.whole).unwrap_or_default())
}

/// Numbers `[height, width, channels]`.
#[derive(Default)]
struct Patch {
    numbers: Vec<f32>,
    height: usize,
    width: usize,
    channels: usize,
}

impl Patch {
    /// Returns the range of some columns of a row.
    fn range(&self, y: usize, columns: Range<usize>) -> Range<usize> {
        let begin = y * self.width;
        self.channels * (begin + columns.start)..self.channels * (begin + columns.end)
    }

    fn row(&self, y: usize, columns: Range<usize>) -> &[f32] {
        &self.numbers[self.range(y, columns)]
    }

    fn row_mut(&mut self, y: usize, columns: Range<usize>) -> &mut [f32] {
        let range = self.range(y, columns);
        &mut self.numbers[range]
    }

    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Patch {
        let (height, width, channels) = (rows.len(), columns.len(), self.channels);
        let numbers = rows.flat_map(|y| self.row(y, columns.clone())).copied().collect();
        Patch { numbers, height, width, channels }
    }

    /// Blends the first rows with the last rows of `above`, as diffusers' `blend_v`.
    fn blend_below(&mut self, above: &Patch) {
        let extent = above.height.min(self.height);
        for y in 0..extent {
            let share = y as f64 / extent as f64;
            let from = above.row(above.height - extent + y, 0..above.width);
            blend(self.row_mut(y, 0..above.width), from, share);
        }
    }

    /// Blends the first columns with the last columns of `left`, as diffusers' `blend_h`.
    fn blend_beside(&mut self, left: &Patch) {
        let extent = left.width.min(self.width);
        for y in 0..self.height {
            for x in 0..extent {
                let at = left.width - extent + x;
                blend(self.row_mut(y, x..x + 1), left.row(y, at..at + 1), x as f64 / extent as f64);
            }
        }
    }
}

/// Computes `old * (1 - share) + new * share` in f32, as torch does.
fn blend(new: &mut [f32], old: &[f32], share: f64) {
    let (of_old, of_new) = ((1.0 - share) as f32, share as f32);
    new.iter_mut().zip(old).for_each(|(new, old)| *new = old * of_old + *new * of_new);
}

/// A picture assembled from its tiles, in order. Of finished tiles only the overlaps are kept.
struct Mosaic {
    whole: Patch,
    /// Latents from one tile to the next.
    stride: usize,
    /// Latents by which tiles overlap.
    overlap: usize,
    /// Numbers per latent along a side.
    scale: usize,
    /// The last rows of the last tile of each column, blended.
    above: Vec<Patch>,
    /// The last columns of the last tile, blended.
    left: Option<Patch>,
}

impl Mosaic {
    fn new(tiling: Tiling, (rows, columns): (usize, usize), scale: usize, channels: usize) -> Self {
        let (height, width) = (scale * rows, scale * columns);
        let whole = Patch { numbers: vec![0.0; height * width * channels], height, width, channels };
        let (stride, overlap) = (tiling.stride, tiling.side - tiling.stride);
        Mosaic { whole, stride, overlap, scale, above: Vec::new(), left: None }
    }

    fn add(&mut self, tile: &Tile, mut patch: Patch) {
        let (scale, column) = (self.scale, tile.columns.start / self.stride);
        let (top, left, overlap) = (scale * tile.rows.start, scale * tile.columns.start, scale * self.overlap);
        if let Some(above) = self.above.get(column) {
            patch.blend_below(above);
        }
        if let Some(beside) = self.left.take().filter(|_| left > 0) {
            patch.blend_beside(&beside);
        }
        let end = |length: usize| length.min(scale * self.stride);
        let shown = end(patch.width);
        for y in 0..end(patch.height) {
            self.whole.row_mut(top + y, left..left + shown).copy_from_slice(patch.row(y, 0..shown));
        }
        let below = patch.part(patch.height.saturating_sub(overlap)..patch.height, 0..patch.width);
        match self.above.get_mut(column) {
            Some(above) => *above = below,
            None => self.above.push(below),
        }
        self.left = Some(patch.part(0..patch.height, patch.width.saturating_sub(overlap)..patch.width));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers per pixel.
    const COLOURS: usize = 3;

    /// A quarter overlaps, as in Qwen-Image's tiling.
    const TILING: Tiling = Tiling { side: 4, stride: 3 };

    /// Latents `[rows, columns, 1]`, each with a value of its own.
    fn latents(rows: usize, columns: usize) -> Tensor {
        let numbers: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        Tensor::from_vec(numbers, (rows, columns, 1), &Device::Cpu).unwrap()
    }

    /// A decoder that repeats each latent 8 times both ways in three colours.
    fn repeated(latents: &Tensor) -> Result<Tensor> {
        let (rows, columns, _) = latents.dims3()?;
        let wide = latents.reshape((rows, 1, columns, 1, 1))?;
        wide.broadcast_as((rows, SCALE, columns, SCALE, COLOURS))?.reshape((rows * SCALE, columns * SCALE, COLOURS))
    }

    #[test]
    fn tiles_cover_what_there_is() {
        let ranges = |tiling: Tiling, size| -> Vec<_> {
            let tiles = tiling.tiles(size);
            tiles.into_iter().map(|Tile { rows, columns }| (rows.start, rows.end, columns.start, columns.end)).collect()
        };
        assert_eq!(ranges(TILING, (5, 3)), [(0, 4, 0, 3), (3, 5, 0, 3)]);
        assert_eq!(ranges(TILING, (2, 7)), [(0, 2, 0, 4), (0, 2, 3, 7), (0, 2, 6, 7)]);
        assert!(TILING.divides((5, 4)) && TILING.divides((4, 5)) && !TILING.divides((4, 4)));
    }

    /// An operation that ignores neighbours gives the same result in tiles as on the whole, since blending equal values
    /// changes nothing.
    #[test]
    fn tiles_of_a_local_decoder_are_the_whole() {
        for (rows, columns) in [(4, 4), (5, 9), (10, 4), (7, 8), (1, 13), (11, 12)] {
            let latents = latents(rows, columns);
            let whole: Vec<f32> = repeated(&latents).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let tiled = decode_tiles(&latents, TILING, repeated).unwrap();
            let apart = tiled.iter().zip(&whole).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert_eq!(tiled.len(), whole.len());
            assert!(apart <= 1e-5 * (rows * columns) as f32, "{rows}x{columns}: {apart}");
        }
    }

    /// An encoder that keeps the first pixel of each square: each latent must come from its own place.
    #[test]
    fn what_is_encoded_in_tiles_comes_to_its_place() {
        let first = |pixels: &Tensor| {
            let (height, width, colours) = pixels.dims3()?;
            let squares = pixels.reshape((height / SCALE, SCALE, width / SCALE, SCALE * colours))?;
            squares.narrow(1, 0, 1)?.narrow(3, 0, colours)?.squeeze(1)?.contiguous()
        };
        for (rows, columns) in [(4, 4), (5, 9), (10, 4), (1, 13), (11, 12)] {
            let pixels = repeated(&latents(rows, columns)).unwrap();
            let tiled = encode_tiles(&pixels, TILING, first).unwrap();
            let whole = first(&pixels).unwrap();
            assert_eq!(tiled.dims(), whole.dims());
            let [tiled, whole] = [tiled, whole].map(|latents| latents.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            let apart = tiled.iter().zip(&whole).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(apart <= 1e-5 * (rows * columns) as f32, "{rows}x{columns}: {apart}");
        }
    }

    /// Two tiles, each of one grey: the second fades in from the first in equal steps, both ways.
    #[test]
    fn a_tile_emerges_from_those_before_it() {
        let first = |latents: &Tensor| {
            let grey = latents.get(0)?.get(0)?.get(0)?.to_scalar::<f32>()?;
            let (rows, columns, _) = latents.dims3()?;
            Tensor::full(grey, (rows * SCALE, columns * SCALE, COLOURS), latents.device())
        };
        for (rows, columns) in [(4, 7), (7, 4)] {
            let latents = latents(rows, columns);
            let second = if rows > columns { (TILING.stride * columns) as f32 } else { TILING.stride as f32 };
            let pixels = decode_tiles(&latents, TILING, first).unwrap();
            let step = if rows > columns { SCALE * columns * COLOURS } else { COLOURS };
            let along: Vec<_> = pixels.into_iter().step_by(step).take(SCALE * 6).collect();
            for (i, grey) in along.into_iter().enumerate() {
                let share = (i as f32 - 24.0).clamp(0.0, 8.0) / 8.0;
                assert!((grey - share * second).abs() < 1e-5, "{rows}x{columns}, pixel {i}: {grey}");
            }
        }
    }
}
