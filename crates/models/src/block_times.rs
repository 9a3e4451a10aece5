//! Time of a transformer's pass, as a whole and block by block.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::Result;

use crate::dit::{Dit, DitRow};

/// Returns median times in milliseconds for passes of one row. `step_ms` is the whole pass; each list of blocks adds
/// the time of one of its blocks under its own name, e.g. `transformer_blocks_ms`. After one warm-up pass, passes
/// repeat for `at_least`, and three times or more.
///
/// # Errors
/// The device fails.
pub fn block_times<D: Dit>(dit: &D, row: &DitRow<'_>, at_least: Duration) -> Result<BTreeMap<String, f64>> {
    let mut times = BTreeMap::new();
    pass(dit, row, &mut times)?;
    times.clear();
    let (start, mut passes) = (Instant::now(), 0);
    while passes < 3 || (start.elapsed() < at_least && passes < 1000) {
        pass(dit, row, &mut times)?;
        passes += 1;
    }
    Ok(times.into_iter().map(|(name, times)| (name, median(times))).collect())
}

fn pass<D: Dit>(dit: &D, row: &DitRow<'_>, times: &mut BTreeMap<String, Vec<f64>>) -> Result<()> {
    // GPU launches are asynchronous: without a wait only the enqueueing would be timed.
    let wait = || row.latents.device().synchronize();
    wait()?;
    let whole = Instant::now();
    let (mut streams, context) = dit.begin(&[*row])?;
    for (segment, blocks) in dit.segments().iter().enumerate() {
        streams = dit.enter(segment, streams, &context)?;
        for index in 0..blocks.num_blocks {
            wait()?;
            let block = Instant::now();
            streams = dit.block(segment, index, &streams, &context)?;
            wait()?;
            times.entry(format!("{}_ms", blocks.name)).or_default().push(milliseconds(block));
        }
    }
    std::hint::black_box(dit.end(&streams, &context)?);
    wait()?;
    times.entry("step_ms".into()).or_default().push(milliseconds(whole));
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
