//! Measures how long a denoising step and a decoding continue after an interrupt. The interrupts are spread evenly over
//! a few seconds.
//!
//!     cargo run --release -p omni --example time_to_cancel -- [SIDE] [ROUNDS] [MODEL]

use std::time::{Duration, Instant};

use diffusion::{ImageRequest, ImageSize, Interrupt, Limits, Pipeline, PipelineError, RequestDraft};
use omni::{Error, Omni};

/// Delay of the first and of the last interrupt.
const SPREAD: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(2500)];

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (side, rounds): (usize, usize) = (number(2048), number(40));
    let builder = Omni::builder();
    let builder = match arguments.next() {
        Some(model) => builder.model(model),
        None => builder,
    };
    let mut pipeline = builder.build()?.into_pipeline();
    let size = Some(ImageSize { width: side, height: side });
    let draft = RequestDraft { prompt: "a fox".into(), size, ..RequestDraft::default() };
    let requests = draft.build(pipeline.card(), &Limits::NONE, || 7)?;
    let request: &ImageRequest = &requests[0];
    let state = pipeline.prepare(request, &Interrupt::default())?;
    let step = |interrupt: &Interrupt| pipeline.step(&mut [&mut state.clone()], interrupt).map(|_| ());
    report(&format!("a step at {side}x{side}"), cancelled(rounds, step)?);
    let decode = |interrupt: &Interrupt| pipeline.decode(state.clone(), interrupt).map(|_| ());
    report(&format!("a decoding at {side}x{side}"), cancelled(rounds, decode)?);
    Ok(())
}

/// Milliseconds from each interrupt to the end of the stage. Rounds whose stage ended before the interrupt are left
/// out.
fn cancelled(
    rounds: usize,
    mut stage: impl FnMut(&Interrupt) -> Result<(), PipelineError>,
) -> Result<Vec<f64>, PipelineError> {
    let [first, last] = SPREAD;
    let mut times = Vec::new();
    for round in 0..rounds {
        let interrupt = Interrupt::default();
        let after = first + (last - first) * round as u32 / rounds.max(2) as u32;
        let result = std::thread::scope(|scope| {
            let seen = interrupt.clone();
            let set = scope.spawn(move || {
                std::thread::sleep(after);
                let now = Instant::now();
                seen.set();
                now
            });
            let result = stage(&interrupt);
            let ended = Instant::now();
            let set = set.join().expect("the clock thread sleeps and sets a flag. This is a bug.");
            result.map_err(|err| (err, ended.saturating_duration_since(set)))
        });
        match result {
            Ok(()) => {}
            Err((PipelineError::Interrupted, took)) => times.push(took.as_secs_f64() * 1e3),
            Err((err, _)) => return Err(err),
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn report(name: &str, times: Vec<f64>) {
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(most)) => {
            println!("{name}: {} interrupts, p50 {median:.1} ms, max {most:.1} ms", times.len());
        }
        _ => println!("{name}: done before every interrupt"),
    }
}
