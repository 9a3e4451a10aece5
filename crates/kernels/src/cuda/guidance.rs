//! Guidance of all requests of a step in one launch: `cuda/norm.cu`.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor};

use super::argument::{Address, argument};
use super::gpu::{Kernel, gpu};
use super::layout::dense;
use super::norm::{fits, row_grid};
use crate::Guided;

const GUIDED: Kernel = Kernel { module: "norm", name: "guided" };

/// As in `norm.cu`.
const MAX_REQUESTS: usize = 64;

/// `Passes` of `norm.cu`, with the same layout.
#[derive(Clone, Copy)]
#[repr(C)]
struct Passes<'t> {
    cond: Address<'t>,
    uncond: Address<'t>,
    out: Address<'t>,
    tokens: i32,
    scale: f32,
    keeps_length: i32,
}

impl Passes<'_> {
    const NONE: Passes<'static> = Passes {
        cond: Address::NULL,
        uncond: Address::NULL,
        out: Address::NULL,
        tokens: 0,
        scale: 0.0,
        keeps_length: 0,
    };
}

#[repr(C)]
struct Requests<'t>([Passes<'t>; MAX_REQUESTS]);

// SAFETY: addresses and numbers in the layout of the kernel.
unsafe impl DeviceRepr for Requests<'_> {}

argument!(Requests<'_>);

pub(super) fn guided(requests: &[Guided<'_>]) -> Result<Option<Vec<Tensor>>> {
    let first = requests[0].cond;
    let (dtype, (_, dim)) = (first.dtype(), first.dims2()?);
    for Guided { cond, uncond, .. } in requests {
        let is_like_first = cond.dims()[1] == dim && cond.dtype() == dtype && uncond.dtype() == dtype;
        if !is_like_first || !fits(cond)? {
            return Ok(None);
        }
    }
    let gpu = gpu(first)?;
    let mut velocities = Vec::new();
    for requests in requests.chunks(MAX_REQUESTS) {
        let passes = |request: &Guided<'_>| Ok([dense(request.cond)?, dense(request.uncond)?]);
        let passes = requests.iter().map(passes).collect::<Result<Vec<_>>>()?;
        let outs = passes.iter().map(|[cond, _]| gpu.output(cond.shape(), dtype)).collect::<Result<Vec<_>>>()?;
        let mut given = [Passes::NONE; MAX_REQUESTS];
        for (((slot, request), [cond, uncond]), out) in given.iter_mut().zip(requests).zip(&passes).zip(&outs) {
            *slot = Passes {
                cond: Address::of(cond)?,
                uncond: Address::of(uncond)?,
                out: Address::of(out)?,
                tokens: cond.dims()[0] as i32,
                scale: request.scale as f32,
                keeps_length: i32::from(request.keeps_length),
            };
        }
        let longest = passes.iter().map(|[cond, _]| cond.dims()[0]).max().unwrap_or(0);
        if longest > 0 {
            let mut config = row_grid(longest, dim);
            config.grid_dim.1 = requests.len() as u32;
            gpu.launch(GUIDED, dtype, config, &[&Requests(given), &(dim as i32)])?;
        }
        velocities.extend(outs);
    }
    Ok(Some(velocities))
}
