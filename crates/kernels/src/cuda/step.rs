//! Tensor operations of the cached step: `cuda/step.cu`. All rows of a step share a launch.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::argument::{Address, argument};
use super::gpu::{Kernel, gpu, grid, is_served};
use super::layout::{WIDTH, dense};
use crate::WeightedTensors;

const ABS_SUMS: Kernel = Kernel { module: "step", name: "abs_sums" };
const WEIGHTED_SUMS: Kernel = Kernel { module: "step", name: "weighted_sums" };
const GATHER: Kernel = Kernel { module: "step", name: "gather" };

/// As in `step.cu`.
const MAX_ROWS: usize = 64;
const MAX_SUMS: usize = 48;
const MAX_TERMS: usize = 128;
const MAX_PARTS: usize = 128;

/// The numbers that are worth a block of their own, and the largest number of blocks per row: several for each of a
/// large card's 130 multiprocessors.
const NUMBERS_A_PIECE: usize = 8192;
const MAX_PIECES: usize = 512;
const BLOCK: usize = 256;

/// `Compared` of `step.cu`, with the same layout.
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

// SAFETY: addresses and integers in the layout of the kernel.
unsafe impl DeviceRepr for Rows<'_> {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Sum<'t> {
    out: Address<'t>,
    pieces: i64,
    first_term: i32,
    num_terms: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Term<'t> {
    numbers: Address<'t>,
    weight: f32,
}

#[repr(C)]
struct Sums<'t> {
    sum: [Sum<'t>; MAX_SUMS],
    term: [Term<'t>; MAX_TERMS],
}

// SAFETY: as above.
unsafe impl DeviceRepr for Sums<'_> {}

#[derive(Clone, Copy)]
#[repr(C)]
struct Part<'t> {
    from: Address<'t>,
    begin: i64,
    length: i64,
}

#[repr(C)]
struct Parts<'t>([Part<'t>; MAX_PARTS]);

// SAFETY: as above.
unsafe impl DeviceRepr for Parts<'_> {}

argument!(Rows<'_>, Sums<'_>, Parts<'_>);

/// The number of pieces of a row, which depends only on its length.
fn pieces(length: usize) -> usize {
    length.div_ceil(NUMBERS_A_PIECE).min(MAX_PIECES)
}

/// Whether the kernels support these tensors, each in whole vectors.
fn are_served<'t>(mut tensors: impl Iterator<Item = &'t Tensor>) -> bool {
    let Some(first) = tensors.next() else { return false };
    let dtype = first.dtype();
    let fits = |tensor: &Tensor| tensor.dtype() == dtype && tensor.elem_count().is_multiple_of(WIDTH);
    is_served(dtype) && fits(first) && tensors.all(fits)
}

pub(super) fn residual_diffs(rows: &[(&Tensor, &Tensor)]) -> Result<Option<Vec<f32>>> {
    if !are_served(rows.iter().flat_map(|(current, previous)| [*current, *previous])) {
        return Ok(None);
    }
    let of_row = |(current, previous): &(&Tensor, &Tensor)| Ok([dense(current)?, dense(previous)?]);
    let rows = rows.iter().map(of_row).collect::<Result<Vec<_>>>()?;
    let pieces = rows.iter().map(|[current, _]| pieces(current.elem_count())).collect::<Vec<_>>();
    let max_pieces = pieces.iter().copied().max().unwrap_or(0);
    if max_pieces == 0 {
        return Ok(Some(vec![f32::NAN; rows.len()]));
    }
    let sums = abs_sums(&rows, &pieces, max_pieces)?.flatten_all()?.to_vec1::<f32>()?;
    let of_row = |(row, pieces): (usize, &usize)| {
        let of_row = &sums[row * max_pieces * 2..][..pieces * 2];
        let total = |which: usize| of_row.iter().skip(which).step_by(2).map(|&sum| f64::from(sum)).sum::<f64>();
        (total(0) / total(1)) as f32
    };
    Ok(Some(pieces.iter().enumerate().map(of_row).collect()))
}

/// The sums of each piece, `[rows, max_pieces, 2]`. Entries past the pieces of a row are unspecified.
fn abs_sums(rows: &[[Tensor; 2]], pieces: &[usize], max_pieces: usize) -> Result<Tensor> {
    let gpu = gpu(&rows[0][0])?;
    let sums = gpu.output((rows.len(), max_pieces, 2), DType::F32)?;
    let launches = rows.chunks(MAX_ROWS).zip(pieces.chunks(MAX_ROWS)).zip((0..).step_by(MAX_ROWS));
    for ((rows, pieces), first) in launches {
        let part = sums.narrow(0, first, rows.len())?;
        let mut compared = [Compared::NONE; MAX_ROWS];
        for ((slot, [current, previous]), pieces) in compared.iter_mut().zip(rows).zip(pieces) {
            let length = current.elem_count() as i64;
            let (current, previous) = (Address::of(current)?, Address::of(previous)?);
            *slot = Compared { current, previous, length, pieces: *pieces as i32 };
        }
        gpu.launch(
            ABS_SUMS,
            rows[0][0].dtype(),
            grid((max_pieces, rows.len(), 1), (BLOCK, 1), 0),
            &[&Rows(compared), &Address::of(&part)?, &(max_pieces as i32)],
        )?;
    }
    Ok(sums)
}

pub(super) fn weighted_sums(sums: &[WeightedTensors<'_>]) -> Result<Option<Vec<Tensor>>> {
    let served = are_served(sums.iter().flatten().map(|(_, term)| *term));
    if !served || sums.iter().any(|terms| terms.len() > MAX_TERMS) {
        return Ok(None);
    }
    let weighted = |(weight, term): &(f64, &Tensor)| Ok((*weight as f32, dense(term)?));
    let sums = sums.iter().map(|terms| terms.iter().map(weighted).collect()).collect::<Result<Vec<Vec<_>>>>()?;
    let (mut outs, mut rest) = (Vec::new(), &sums[..]);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(num_sums(rest));
        outs.extend(launch_sums(now)?);
        rest = later;
    }
    Ok(Some(outs))
}

/// The number of these sums that fit into one launch.
fn num_sums(sums: &[Vec<(f32, Tensor)>]) -> usize {
    let ends = sums.iter().scan(0, |terms, sum| {
        *terms += sum.len();
        Some(*terms)
    });
    ends.take(MAX_SUMS).take_while(|terms| *terms <= MAX_TERMS).count()
}

fn launch_sums(sums: &[Vec<(f32, Tensor)>]) -> Result<Vec<Tensor>> {
    let (gpu, dtype) = (gpu(&sums[0][0].1)?, sums[0][0].1.dtype());
    let outs = sums.iter().map(|sum| gpu.output(sum[0].1.shape(), dtype)).collect::<Result<Vec<_>>>()?;
    let mut given = Sums {
        sum: [Sum { out: Address::NULL, pieces: 0, first_term: 0, num_terms: 0 }; MAX_SUMS],
        term: [Term { numbers: Address::NULL, weight: 0.0 }; MAX_TERMS],
    };
    let (mut num_terms, mut longest) = (0, 0);
    for ((slot, sum), out) in given.sum.iter_mut().zip(sums).zip(&outs) {
        let pieces = out.elem_count() / WIDTH;
        longest = longest.max(pieces);
        let (first_term, of_sum) = (num_terms as i32, sum.len() as i32);
        *slot = Sum { out: Address::of(out)?, pieces: pieces as i64, first_term, num_terms: of_sum };
        for (weight, numbers) in sum {
            given.term[num_terms] = Term { numbers: Address::of(numbers)?, weight: *weight };
            num_terms += 1;
        }
    }
    if longest > 0 {
        let config = grid((longest.div_ceil(BLOCK), sums.len(), 1), (BLOCK, 1), 0);
        gpu.launch(WEIGHTED_SUMS, dtype, config, &[&given])?;
    }
    Ok(outs)
}

pub(super) fn cat_rows(parts: &[&Tensor]) -> Result<Option<Tensor>> {
    if !are_served(parts.iter().copied()) {
        return Ok(None);
    }
    if let [part] = parts {
        return dense(part).map(Some);
    }
    let (gpu, dtype) = (gpu(parts[0])?, parts[0].dtype());
    let parts = parts.iter().map(|part| dense(part)).collect::<Result<Vec<_>>>()?;
    let tokens = parts.iter().map(|part| part.dims()[0]).sum::<usize>();
    let out = gpu.output((tokens, parts[0].dim(1)?), dtype)?;
    let vectors = |part: &Tensor| part.elem_count() * dtype.size_in_bytes() / size_of::<[u32; 4]>();
    let mut begin = 0;
    for parts in parts.chunks(MAX_PARTS) {
        let mut given = [Part { from: Address::NULL, begin: 0, length: 0 }; MAX_PARTS];
        for (slot, part) in given.iter_mut().zip(parts) {
            let length = vectors(part);
            *slot = Part { from: Address::of(part)?, begin: begin as i64, length: length as i64 };
            begin += length;
        }
        let longest = parts.iter().map(vectors).max().unwrap_or(0);
        if longest > 0 {
            let blocks = longest.div_ceil(BLOCK).min(MAX_PIECES);
            gpu.launch(
                GATHER,
                dtype,
                grid((blocks, parts.len(), 1), (BLOCK, 1), 0),
                &[&Parts(given), &Address::of(&out)?],
            )?;
        }
    }
    Ok(Some(out))
}
