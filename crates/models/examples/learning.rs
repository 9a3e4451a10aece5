//! Measures the cost of learning plans: the built-in model on the CPU, at its default size and steps. Each picture is
//! made with and without learning, in turn.
//!
//!     cargo run --release -p models --example learning [ROUNDS]
//!
//! A round reloads the model and makes the sixteen pictures that plans are learnt from, each also without a cache.
//! Prints for each round a picture's milliseconds for steps and decoding, without and with learning. Then it prints the
//! median over the rounds of the share that learning adds: to the pictures before the last, and to the last one, after
//! which the plans are fitted.

use std::time::Instant;

use cache::{Aim, CacheConfig, Plans};
use diffusion::{Interrupt, Limits, Pipeline, RequestDraft};
use models::{AnyPipeline, Checkpoint, LoadOptions};

// Unlike glibc's allocator, it keeps large blocks; see kernels' example.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The server's default number of pictures to learn from.
const PICTURES: usize = 16;

/// Milliseconds of one picture.
#[derive(Clone, Copy, Default)]
struct Times {
    steps: f64,
    decode: f64,
}

impl Times {
    fn all(self) -> f64 {
        self.steps + self.decode
    }
}

fn main() -> Result<()> {
    kernels::threads_from_env();
    let rounds = std::env::args().nth(1).map_or(Ok(5), |rounds| rounds.parse())?;
    let mut added = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let pictures = pictures(round)?;
        let (last, others) = pictures.split_last().ok_or("a round has pictures")?;
        let median = |of: fn(&(Times, Times)) -> f64| middle(others.iter().map(of).collect());
        println!(
            "round {round}: steps {:.1} and {:.1}, decoding {:.2} and {:.2}; the last decoding {:.2} and {:.2}",
            median(|(plain, _)| plain.steps),
            median(|(_, learning)| learning.steps),
            median(|(plain, _)| plain.decode),
            median(|(_, learning)| learning.decode),
            last.0.decode,
            last.1.decode,
        );
        let sum = |of: fn(&(Times, Times)) -> Times| others.iter().map(|pair| of(pair).all()).sum::<f64>();
        added.0.push(sum(|(_, learning)| *learning) / sum(|(plain, _)| *plain) - 1.0);
        added.1.push(last.1.all() / last.0.all() - 1.0);
    }
    println!("learning adds {:.2} % to a picture", 100.0 * middle(added.0));
    println!("and {:.1} % to the last, with the plans made of all", 100.0 * middle(added.1));
    Ok(())
}

/// The sixteen pictures of a round, without and with learning.
fn pictures(round: usize) -> Result<Vec<(Times, Times)>> {
    let plans = Plans::default();
    plans.learn_from(PICTURES);
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    let options = LoadOptions { plans: plans.clone(), ..LoadOptions::default() };
    let mut model = models::load(&checkpoint, &options, &|_, _, _| ())?;
    let planned = CacheConfig { planned: Some(Aim::Budget(0.5)), ..CacheConfig::default() };
    let prompts = demo::calibration_prompts();
    // The first picture is slow, so it is not measured.
    picture(&mut model, &prompts[0], 0, None)?;
    let pair = |i: usize| -> Result<(Times, Times)> {
        let (prompt, seed) = (&prompts[i % prompts.len()], i as u32);
        // The order alternates, so that neither variant always comes second.
        if (i + round).is_multiple_of(2) {
            let plain = picture(&mut model, prompt, seed, None)?;
            return Ok((plain, picture(&mut model, prompt, seed, Some(&planned))?));
        }
        let learning = picture(&mut model, prompt, seed, Some(&planned))?;
        Ok((picture(&mut model, prompt, seed, None)?, learning))
    };
    let pictures = (0..PICTURES).map(pair).collect::<Result<Vec<_>>>()?;
    match plans.current(true) {
        Some(_) => Ok(pictures),
        None => Err("no plans were learnt".into()),
    }
}

fn picture(model: &mut AnyPipeline, prompt: &str, seed: u32, cache: Option<&CacheConfig>) -> Result<Times> {
    let draft = RequestDraft { prompt: prompt.into(), ..RequestDraft::default() };
    let mut request = draft.build(model.card(), &Limits::default(), || seed)?.remove(0);
    request.cache = cache.cloned();
    let interrupt = Interrupt::default();
    let mut state = model.prepare(&request, &interrupt)?;
    let begun = Instant::now();
    for _ in 0..request.params.num_evaluations() {
        model.step(&mut [&mut state], &interrupt)?;
    }
    let stepped = begun.elapsed();
    model.release(&mut state);
    model.decode(state, &interrupt)?;
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    Ok(Times { steps: milliseconds(stepped), decode: milliseconds(begun.elapsed() - stepped) })
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
