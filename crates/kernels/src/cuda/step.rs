//! What the cached step asks of tensors: `cuda/step.cu`.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::gpu::{Address, Kernel, argument, gpu, grid, is_served};
use super::layout::{WIDTH, dense};
use crate::RowLayout;

const ABS_SUMS: Kernel = Kernel { module: "step", name: "abs_sums" };
const ADD_WEIGHTED: Kernel = Kernel { module: "step", name: "add_weighted" };

/// As in `step.cu`.
const MAX_ROWS: usize = 64;
const MAX_TERMS: usize = 16;

/// Numbers that are worth a block of their own, and blocks a row at most: some for each of a large card's 130
/// processors.
const NUMBERS_A_PIECE: usize = 8192;
const MAX_PIECES: usize = 512;
const BLOCK: usize = 256;

/// `Compared` of `step.cu`, whose layout it has.
#[derive(Clone, Copy)]
#[repr(C)]
struct Compared<'t> {
    current: Address<'t>,
    previous: Address<'t>,
    length: i64,
    pieces: i32,
}

impl Compared<'_> {
    const NONE: Compared<'static> = Compared { current: Address::NULL, previous: Address::NULL, length: 0, pieces: 0 };
}

#[repr(C)]
struct Rows<'t>([Compared<'t>; MAX_ROWS]);

// SAFETY: addresses and integers, laid out as the kernel has them.
unsafe impl DeviceRepr for Rows<'_> {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Term<'t> {
    numbers: Address<'t>,
    weight: f32,
}

#[repr(C)]
struct Terms<'t>([Term<'t>; MAX_TERMS]);

// SAFETY: as above.
unsafe impl DeviceRepr for Terms<'_> {}

argument!(Rows<'_>, Terms<'_>);

/// Into how many pieces a row is cut, by its own length alone.
fn pieces(length: usize) -> usize {
    length.div_ceil(NUMBERS_A_PIECE).min(MAX_PIECES)
}

pub(super) fn residual_diffs(
    current: &Tensor,
    previous: &[Option<&Tensor>],
    rows: &RowLayout,
) -> Result<Option<Vec<Option<f32>>>> {
    let (dtype, dim) = (current.dtype(), current.dim(1)?);
    if !is_served(dtype) || !dim.is_multiple_of(WIDTH) || previous.iter().flatten().any(|p| p.dtype() != dtype) {
        return Ok(None);
    }
    let current = dense(current)?;
    let previous = previous.iter().map(|p| p.map(dense).transpose()).collect::<Result<Vec<_>>>()?;
    let max_pieces = rows.iter().map(|tokens| pieces(tokens.len() * dim)).max().unwrap_or(0);
    if max_pieces == 0 || previous.iter().all(Option::is_none) {
        return Ok(Some(previous.iter().map(|p| p.as_ref().map(|_| f32::NAN)).collect()));
    }
    let sums = abs_sums(&current, &previous, rows, max_pieces)?.flatten_all()?.to_vec1::<f32>()?;
    let of_row = |(row, previous): (usize, &Option<Tensor>)| {
        previous.as_ref()?;
        let of_row = &sums[row * max_pieces * 2..][..pieces(rows.length(row) * dim) * 2];
        let total = |which: usize| of_row.iter().skip(which).step_by(2).map(|&sum| f64::from(sum)).sum::<f64>();
        Some((total(0) / total(1)) as f32)
    };
    Ok(Some(previous.iter().enumerate().map(of_row).collect()))
}

/// `[rows, max_pieces, 2]`: the sums of each piece, anything where a row has fewer pieces.
fn abs_sums(current: &Tensor, previous: &[Option<Tensor>], rows: &RowLayout, max_pieces: usize) -> Result<Tensor> {
    let gpu = gpu(current)?;
    let sums = gpu.output((rows.num_rows(), max_pieces, 2), DType::F32)?;
    for first in (0..rows.num_rows()).step_by(MAX_ROWS) {
        let end = rows.num_rows().min(first + MAX_ROWS);
        let part = sums.narrow(0, first, end - first)?;
        let of_rows = (first..end)
            .map(|row| current.narrow(0, rows.range(row).start, rows.length(row)))
            .collect::<Result<Vec<_>>>()?;
        let mut compared = [Compared::NONE; MAX_ROWS];
        for ((slot, current), previous) in compared.iter_mut().zip(&of_rows).zip(&previous[first..end]) {
            let (Some(previous), length) = (previous, current.elem_count()) else { continue };
            let (current, previous) = (Address::of(current)?, Address::of(previous)?);
            *slot = Compared { current, previous, length: length as i64, pieces: pieces(length) as i32 };
        }
        gpu.launch(
            ABS_SUMS,
            current.dtype(),
            grid((max_pieces, end - first, 1), (BLOCK, 1), 0),
            &[&Rows(compared), &Address::of(&part)?, &(max_pieces as i32)],
        )?;
    }
    Ok(sums)
}

pub(super) fn add_weighted(x: &Tensor, terms: &[(f64, &Tensor)]) -> Result<Option<Tensor>> {
    let dtype = x.dtype();
    let served = is_served(dtype) && x.elem_count().is_multiple_of(WIDTH);
    if !served || terms.len() > MAX_TERMS || terms.iter().any(|(_, term)| term.dtype() != dtype) {
        return Ok(None);
    }
    let (gpu, x, pieces) = (gpu(x)?, dense(x)?, x.elem_count() / WIDTH);
    let out = gpu.output(x.shape(), dtype)?;
    if pieces == 0 {
        return Ok(Some(out));
    }
    let numbers = terms.iter().map(|(_, term)| dense(term)).collect::<Result<Vec<_>>>()?;
    let mut given = [Term { numbers: Address::NULL, weight: 0.0 }; MAX_TERMS];
    for ((slot, (weight, _)), numbers) in given.iter_mut().zip(terms).zip(&numbers) {
        *slot = Term { numbers: Address::of(numbers)?, weight: *weight as f32 };
    }
    gpu.launch(
        ADD_WEIGHTED,
        dtype,
        grid((pieces.div_ceil(BLOCK), 1, 1), (BLOCK, 1), 0),
        &[&Address::of(&x)?, &Terms(given), &(terms.len() as i32), &Address::of(&out)?, &(pieces as i64)],
    )?;
    Ok(Some(out))
}
