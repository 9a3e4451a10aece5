//! The products of an attention in bf16. Queries, keys, values and the softmax's weights are rounded; sums and the
//! softmax itself are f32.

use super::bf16::Bf16;
use super::head::HeadProducts;
use super::simd::Simd;
use super::tiles::{Format, Multiplier, Operands, SIDE, STEP, Sums, Tile};

/// Elements per step.
const LEN: usize = STEP / Bf16::BYTES;

/// Products in tiles.
#[derive(Clone, Copy)]
pub(super) struct InTiles<M>(pub(super) M);

/// Keys packed as the weights of `tokens` outputs, values as those of `head_dim` outputs, padded with zeros.
pub(super) struct TileHead {
    head_dim: usize,
    keys: Matrix,
    values: Matrix,
}

/// Tiles as `[strips or panels][steps]`.
struct Matrix {
    steps: usize,
    tiles: Vec<Tile>,
}

impl Matrix {
    fn new(rows: usize, len: usize) -> Matrix {
        let steps = len.div_ceil(LEN);
        Matrix { steps, tiles: vec![Tile::ZERO; rows.div_ceil(SIDE) * steps] }
    }

    /// Packs a left operand: rows that are `row_len` apart, of which the first `len` numbers are used.
    #[inline(always)]
    fn of_rows(rows: &[f32], row_len: usize, len: usize) -> Matrix {
        let mut matrix = Matrix::new(rows.len() / row_len, len);
        for (index, row) in rows.chunks_exact(row_len).enumerate() {
            Bf16::pack_row(&row[..len], matrix.strip_mut(index / SIDE), index % SIDE);
        }
        matrix
    }

    fn strip_mut(&mut self, index: usize) -> &mut [Tile] {
        &mut self.tiles[index * self.steps..][..self.steps]
    }
}

impl<S: Simd, M: Multiplier<Bf16>> HeadProducts<S> for InTiles<M> {
    type Packed = TileHead;

    #[inline(always)]
    fn room(self, head_dim: usize, tokens: usize) -> TileHead {
        TileHead { head_dim, keys: Matrix::new(tokens, head_dim), values: Matrix::new(head_dim, tokens) }
    }

    #[inline(always)]
    fn put_key(packed: &mut TileHead, token: usize, key: &[f32]) {
        Bf16::pack_output(key, packed.keys.strip_mut(token / SIDE), token % SIDE);
    }

    #[inline(always)]
    fn put_value(packed: &mut TileHead, token: usize, value: &[f32]) {
        let steps = packed.values.steps;
        for (tile, part) in packed.values.tiles.iter_mut().skip(token / LEN).step_by(steps).zip(value.chunks(SIDE)) {
            Bf16::put_element(tile, token % LEN, part);
        }
    }

    #[inline(always)]
    fn score(self, _: S, queries: &[f32], packed: &TileHead, columns: usize, scores: &mut [f32]) {
        let queries = Matrix::of_rows(queries, packed.head_dim, packed.head_dim);
        self.multiply(&queries, &packed.keys, queries.steps, scores, columns);
    }

    #[inline(always)]
    fn average(self, _: S, weights: &[f32], columns: usize, visible: usize, packed: &TileHead, attended: &mut [f32]) {
        let weights = Matrix::of_rows(weights, columns, visible);
        self.multiply(&weights, &packed.values, weights.steps, attended, packed.head_dim);
    }
}

impl<M: Multiplier<Bf16>> InTiles<M> {
    /// Writes rows of `columns` sums, which are whole panels, over the first `steps` of both operands.
    #[inline(always)]
    fn multiply(self, left: &Matrix, right: &Matrix, steps: usize, out: &mut [f32], columns: usize) {
        let (rows, panels) = (out.len() / columns, columns / SIDE);
        assert!(columns.is_multiple_of(SIDE) && steps <= left.steps && steps <= right.steps);
        assert!(left.tiles.len() >= rows.div_ceil(SIDE) * left.steps && right.tiles.len() >= panels * right.steps);
        let _session = self.0.begin();
        let mut sums = vec![Sums::<f32>::default(); SIDE * M::STRIPS * M::PANELS];
        for panel in (0..panels).step_by(M::PANELS) {
            let num_panels = M::PANELS.min(panels - panel);
            for row in (0..rows).step_by(SIDE * M::STRIPS) {
                let operands = Operands {
                    a: left.tiles[row / SIDE * left.steps..].as_ptr(),
                    a_stride: left.steps,
                    b: right.tiles[panel * right.steps..].as_ptr(),
                    b_stride: right.steps,
                    rows: (SIDE * M::STRIPS).min(rows - row),
                    panels: num_panels,
                    steps,
                };
                // SAFETY: the strips and panels have tiles for all steps, as asserted. The sums have room for a block,
                // and the session lives.
                unsafe { self.0.multiply(operands, sums.as_mut_ptr(), true) };
                let out = out[row * columns..].chunks_exact_mut(columns).take(operands.rows);
                for (out, sums) in out.zip(sums.chunks_exact(M::PANELS)) {
                    for (out, sums) in out[panel * SIDE..].chunks_exact_mut(SIDE).zip(&sums[..num_panels]) {
                        out.copy_from_slice(&sums.0);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::super::attention::{Stream, joint};
    use super::super::head::InF32;
    use super::super::portable::Portable;
    use super::super::tiles::Plain;
    use super::*;
    use crate::RowLayout;
    use crate::testing::{assert_close, numbers, randn};

    /// The image's output of an attention with `text` and `image` tokens and three heads.
    fn attended(products: impl HeadProducts<Portable>, text: usize, image: usize, head_dim: usize) -> Tensor {
        let rows = [text, image].map(|tokens| RowLayout::new(&[tokens]));
        let qkv = rows.each_ref().map(|rows| numbers(&randn(1, (rows.total(), 9 * head_dim))));
        let (norm, angles) = (numbers(&randn(2, head_dim)), randn(3, ((text + image) * head_dim / 2,)));
        let (cos, sin) = (numbers(&angles.cos().unwrap()), numbers(&angles.sin().unwrap()));
        let stream = |i: usize| Stream { qkv: &qkv[i], norm_q: &norm, norm_k: &norm, rows: &rows[i] };
        let [_, out] = joint(Portable, products, [stream(0), stream(1)], &[(&cos, &sin)], 3, 1e-6);
        Tensor::from_vec(out, (image, 3 * head_dim), &Device::Cpu).unwrap()
    }

    /// Heads of half a step and of several steps; tokens of part of a strip, of part of a step, and of several blocks.
    #[test]
    fn plain_products_of_bf16_are_near_those_of_f32() {
        for (text, image, head_dim) in [(0, 1, 16), (3, 14, 16), (18, 64, 32), (5, 95, 48), (7, 130, 128)] {
            let exact = attended(InF32, text, image, head_dim);
            let name = format!("{text} + {image} tokens, {head_dim} features");
            assert_close(&name, &attended(InTiles(Plain), text, image, head_dim), &exact, 1e-2);
        }
    }
}
