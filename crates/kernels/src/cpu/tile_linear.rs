//! A linear map over tiles: weights packed once, rows packed at every product.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, WithDType};
use rayon::prelude::*;

use super::gemm::{Epilogue, Finish, Output, finish};
use super::linear::{MIN_PARALLEL, cut_to, even_block, with_rows};
use super::parallel::SharedMut;
use super::simd::{Simd, vectorized};
use super::tiles::{Format, Multiplier, Operands, SIDE, STEP, Sums, Tile};
use crate::Watch;

/// The weight of a linear map as tiles, the last ones padded with zeros.
#[derive(Clone, Debug)]
pub(crate) struct TiledWeights<F: Format> {
    in_features: usize,
    out_features: usize,
    /// `[panels][steps]`
    tiles: Vec<Tile>,
    outputs: Vec<[F::Output; SIDE]>,
    bias: Vec<[f32; SIDE]>,
}

impl<F: Format> TiledWeights<F> {
    /// Packs `[out, in]` weights, stacked one below the other. `None` unless they are in host memory and of one float
    /// type of at most 32 bits.
    pub(super) fn new(weights: &[Tensor], bias: &[f32]) -> Result<Option<TiledWeights<F>>> {
        if !weights.iter().all(|weight| weight.device().is_cpu()) {
            return Ok(None);
        }
        match weights[0].dtype() {
            DType::F32 => pack::<F, f32>(weights, bias, |x| x),
            DType::BF16 => pack::<F, half::bf16>(weights, bias, half::bf16::to_f32),
            DType::F16 => pack::<F, half::f16>(weights, bias, half::f16::to_f32),
            _ => return Ok(None),
        }
        .map(Some)
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    /// The `[out, in]` weight as the products use it, in f32, and the bias.
    pub(super) fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let mut weight = vec![0.0; self.out_features * self.in_features];
        weight.par_chunks_mut(self.in_features).enumerate().for_each(|(output, weights)| {
            let (panel, lane) = (output / SIDE, output % SIDE);
            F::unpack_output(self.panel(panel), lane, self.outputs[panel][lane], weights);
        });
        let weight = Tensor::from_vec(weight, (self.out_features, self.in_features), &Device::Cpu)?;
        Ok((weight, Tensor::new(&self.bias.as_flattened()[..self.out_features], &Device::Cpu)?))
    }

    fn steps(&self) -> usize {
        (self.in_features * F::BYTES).div_ceil(STEP)
    }

    fn panel(&self, panel: usize) -> &[Tile] {
        &self.tiles[panel * self.steps()..][..self.steps()]
    }

    /// `[tokens, in]` to `[tokens, out]`. If the work is interrupted, the result is incomplete or empty.
    pub(super) fn forward<S: Simd, M: Multiplier<F>>(
        &self,
        s: S,
        multiplier: M,
        x: &[f32],
        epilogue: Epilogue<'_>,
    ) -> Vec<f32> {
        cut_to(self.out_features, epilogue, |epilogue| self.padded_forward(s, multiplier, x, epilogue))
    }

    /// The product with the columns of all panels. Empty if the work is interrupted.
    fn padded_forward<S: Simd, M: Multiplier<F>>(
        &self,
        set: S,
        multiplier: M,
        x: &[f32],
        epilogue: Epilogue<'_>,
    ) -> Vec<f32> {
        let (tokens, columns) = (x.len() / self.in_features, self.bias.len() * SIDE);
        assert_eq!(x.len(), tokens * self.in_features, "rows of x are whole. This is a bug.");
        let threads = match tokens * columns * self.in_features {
            // Reading the number of threads starts the pool, which a small product does not need.
            0..MIN_PARALLEL => 1,
            _ => rayon::current_num_threads(),
        };
        let (rows, infos) = self.pack_rows(set, x, threads > 1);
        let mut out = Vec::with_capacity(tokens * columns);
        let place = SharedMut::spare(&mut out);
        let product = Product { set, multiplier, weights: self, rows: &rows, infos: &infos, columns, epilogue, place };
        let watch = Watch::current();
        let (block_rows, block_panels) = task_size::<F, M>(tokens, self.bias.len(), threads);
        let down = tokens.div_ceil(block_rows.max(1));
        let task = |task: usize| {
            if watch.is_set() {
                return;
            }
            let (row, panel) = (task % down * block_rows, task / down * block_panels);
            let (rows, panels) = (row..tokens.min(row + block_rows), panel..self.bias.len().min(panel + block_panels));
            // SAFETY: no two tasks share an element.
            vectorized!(set, unsafe { product.task(rows, panels) });
        };
        let tasks = down * self.bias.len().div_ceil(block_panels);
        if threads == 1 {
            (0..tasks).for_each(task)
        } else {
            (0..tasks).into_par_iter().for_each(task)
        }
        if watch.is_set() {
            // Some tasks may be missing.
            return Vec::new();
        }
        // SAFETY: the elements of all tasks are the whole result, and no task ended early.
        unsafe { out.set_len(tokens * columns) };
        out
    }

    /// Packs the left operand as `[strips][steps]` tiles, padded with zeros, and returns what the sums need of each
    /// row.
    fn pack_rows<S: Simd>(&self, s: S, x: &[f32], parallel: bool) -> (Vec<Tile>, Vec<[F::Row; SIDE]>) {
        let (steps, strip) = (self.steps(), SIDE * self.in_features);
        let strips = x.len().div_ceil(strip);
        let (mut tiles, mut infos) = (vec![Tile::ZERO; strips * steps], vec![[F::Row::default(); SIDE]; strips]);
        let pack = |tiles: &mut [Tile], infos: &mut [F::Row; SIDE], x: &[f32]| {
            vectorized!(
                s,
                for (lane, (x, info)) in x.chunks_exact(self.in_features).zip(infos).enumerate() {
                    *info = F::pack_row(x, tiles, lane);
                }
            );
        };
        if parallel {
            let strips = tiles.par_chunks_mut(steps).zip(&mut infos).zip(x.par_chunks(strip));
            strips.for_each(|((tiles, infos), x)| pack(tiles, infos, x));
        } else {
            let strips = tiles.chunks_mut(steps).zip(&mut infos).zip(x.chunks(strip));
            strips.for_each(|((tiles, infos), x)| pack(tiles, infos, x));
        }
        (tiles, infos)
    }
}

fn pack<F: Format, T: WithDType>(weights: &[Tensor], bias: &[f32], wide: fn(T) -> f32) -> Result<TiledWeights<F>> {
    let in_features = weights[0].dim(1)?;
    with_rows(weights, in_features, |rows: &[&[T]]| {
        let panels = rows.len().div_ceil(SIDE);
        let mut packed = TiledWeights {
            in_features,
            out_features: rows.len(),
            tiles: Vec::new(),
            outputs: vec![[F::Output::default(); SIDE]; panels],
            bias: vec![[0.0; SIDE]; panels],
        };
        packed.bias.as_flattened_mut()[..bias.len()].copy_from_slice(bias);
        packed.tiles = vec![Tile::ZERO; panels * packed.steps()];
        let tiles = packed.tiles.par_chunks_mut((in_features * F::BYTES).div_ceil(STEP));
        tiles.zip(&mut packed.outputs).zip(rows.par_chunks(SIDE)).for_each(|((tiles, outputs), rows)| {
            for (lane, (row, output)) in rows.iter().zip(outputs).enumerate() {
                let row: Vec<f32> = row.iter().map(|x| wide(*x)).collect();
                *output = F::pack_output(&row, tiles, lane);
            }
        });
        packed
    })
}

/// A product in progress.
struct Product<'a, F: Format, S, M> {
    set: S,
    multiplier: M,
    weights: &'a TiledWeights<F>,
    rows: &'a [Tile],
    infos: &'a [[F::Row; SIDE]],
    columns: usize,
    epilogue: Epilogue<'a>,
    place: SharedMut,
}

impl<F: Format, S: Simd, M: Multiplier<F>> Product<'_, F, S, M> {
    /// Computes some rows and panels of the result. The first row begins a strip.
    ///
    /// # Safety
    /// No other thread writes there.
    #[inline(always)]
    unsafe fn task(&self, rows: Range<usize>, panels: Range<usize>) {
        let _session = self.multiplier.begin();
        let steps = self.weights.steps();
        let cut = even_block(steps, M::STEPS);
        let (block_rows, block_sums) = (SIDE * M::STRIPS, SIDE * M::STRIPS * M::PANELS);
        let (down, across) = (rows.len().div_ceil(block_rows), panels.len().div_ceil(M::PANELS));
        // Sums are kept here until the next part of k. If k has a single part, all blocks share the room of one.
        let waiting = if cut < steps { down * across } else { 1 };
        let mut sums = vec![Sums::<F::Sum>::default(); waiting * block_sums];
        for from in (0..steps).step_by(cut) {
            let cut = cut.min(steps - from);
            for (group, panel) in panels.clone().step_by(M::PANELS).enumerate() {
                let num_panels = M::PANELS.min(panels.end - panel);
                let next = panel + num_panels..panels.end.min(panel + num_panels + M::PANELS);
                for (strip, row) in rows.clone().step_by(block_rows).enumerate() {
                    for panel in next.clone() {
                        self.prefetch(panel, from, cut, (strip, down));
                    }
                    let index = (group * down + strip) % waiting;
                    let sums = &mut sums[index * block_sums..][..block_sums];
                    let num_rows = block_rows.min(rows.end - row);
                    let operands = Operands {
                        a: self.rows[row / SIDE * steps + from..].as_ptr(),
                        a_stride: steps,
                        b: self.weights.panel(panel)[from..].as_ptr(),
                        b_stride: steps,
                        rows: num_rows,
                        panels: num_panels,
                        steps: cut,
                    };
                    // SAFETY: the strips and panels have tiles for all steps. The sums have room for a block and hold
                    // the result of the previous part. The session lives.
                    unsafe { self.multiplier.multiply(operands, sums.as_mut_ptr(), from == 0) };
                    if from + cut == steps {
                        // SAFETY: the caller's promise.
                        unsafe { self.finish(sums, row..row + num_rows, panel..panel + num_panels) };
                    }
                }
            }
        }
    }

    /// Stores complete sums in f32, after bias and epilogue.
    ///
    /// # Safety
    /// No other thread writes there.
    #[inline(always)]
    unsafe fn finish(&self, sums: &[Sums<F::Sum>], rows: Range<usize>, panels: Range<usize>) {
        let (column, width) = (panels.start * SIDE, panels.len() * SIDE);
        for (row, sums) in rows.clone().zip(sums.chunks_exact(M::PANELS)) {
            let info = self.infos[row / SIDE][row % SIDE];
            // SAFETY: row and columns lie inside the result, and no other thread writes there. Floats need no
            // initialising before they are written.
            let out = unsafe { self.place.at(row * self.columns + column, width).cast::<[f32; SIDE]>() };
            for (panel, (sums, outputs)) in sums.iter().zip(&self.weights.outputs[panels.clone()]).enumerate() {
                let mut wide = [0.0; SIDE];
                for (wide, (sum, output)) in wide.iter_mut().zip(sums.0.iter().zip(outputs)) {
                    *wide = F::wide(*sum, info, *output);
                }
                // SAFETY: as above.
                unsafe { *out.add(panel) = wide };
            }
        }
        let span = (rows.len() - 1) * self.columns + width;
        let bias = self.weights.bias[panels].as_flattened();
        let end = Finish { bias, epilogue: self.epilogue, row: rows.start, column, columns: self.columns };
        // SAFETY: as above, and all elements have been written.
        unsafe {
            let out =
                Output { start: self.place.at(rows.start * self.columns + column, span), row_stride: self.columns };
            finish(self.set, rows.len(), out, &end);
        }
    }

    /// Prefetches one share of a part of a panel.
    #[inline(always)]
    fn prefetch(&self, panel: usize, from: usize, steps: usize, (share, shares): (usize, usize)) {
        let tiles = &self.weights.panel(panel)[from..from + steps];
        for row in tiles[steps * share / shares..steps * (share + 1) / shares].iter().flat_map(|tile| &tile.0) {
            self.set.prefetch(row.as_ptr());
        }
    }
}

/// Rows and panels of a task. The rows are whole blocks, and every thread gets the same number of tasks.
fn task_size<F: Format, M: Multiplier<F>>(tokens: usize, panels: usize, threads: usize) -> (usize, usize) {
    let down = tokens.div_ceil(M::TASK_ROWS).max(1);
    let (down, across) =
        if down < threads { (down, threads.div_ceil(down)) } else { (down.next_multiple_of(threads), 1) };
    let block_rows = tokens.div_ceil(down).next_multiple_of(SIDE * M::STRIPS);
    (block_rows, panels.div_ceil(across).next_multiple_of(M::PANELS))
}

#[cfg(test)]
mod tests;
