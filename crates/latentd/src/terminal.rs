//! Terminal output: notices, bars, times. Results, such as the paths of pictures, go to stdout; everything else goes to
//! stderr.
//!
//! The files of a command matter more than its lines. So SIGPIPE stays ignored, as in every Rust program: a reader that
//! stops (`latentd generate -n 4 ... | head -1`) ends the output, not the pictures. Lines lost in another way, e.g. on
//! a full disk, make the command fail at its end.

use std::cell::{Cell, OnceCell};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use omni::StepProgress;

use crate::error::Error;

/// Prints a line to stderr. Errors are ignored, because there is nowhere to report them.
pub fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The first error of writing to stdout. No output follows it.
static ENDED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line to stdout, unless an earlier write failed.
pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints whole lines to stdout, unless an earlier write failed.
pub fn print(lines: &str) {
    if ENDED.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(err) = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = ENDED.set(err);
    }
}

/// Checks that all output was written.
///
/// # Errors
/// A write to stdout failed, other than by a reader that closed the pipe.
pub fn check_printed() -> Result<(), Error> {
    match ENDED.get() {
        Some(err) if err.kind() != ErrorKind::BrokenPipe => Err(Error::Output(err.to_string())),
        _ => Ok(()),
    }
}

/// Formats a duration as `1.23 s`, or in milliseconds below a second.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// Interval of progress lines if there is no terminal for a bar.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Progress of the denoising steps, with the numbers of computed and reused block runs. If stderr is not a terminal, it
/// prints occasional lines instead of a bar.
pub struct StepsBar {
    bar: OnceCell<ProgressBar>,
    computed: Cell<usize>,
    reused: Cell<usize>,
    begun: Instant,
    /// Time of the last printed line, since `begun`.
    told: Cell<Duration>,
}

impl Default for StepsBar {
    /// A bar that has not appeared yet.
    fn default() -> Self {
        StepsBar {
            bar: OnceCell::new(),
            computed: Cell::default(),
            reused: Cell::default(),
            begun: Instant::now(),
            told: Cell::default(),
        }
    }
}

impl StepsBar {
    /// Moves the bar; it appears with the first step.
    pub fn update(&self, step: StepProgress) {
        if !io::stderr().is_terminal() {
            let now = self.begun.elapsed();
            if let Some(line) = told(step, self.told.get(), now) {
                self.told.set(now);
                notice(&line);
            }
            return;
        }
        self.computed.set(self.computed.get() + step.computed);
        self.reused.set(self.reused.get() + step.reused);
        let bar = self.bar.get_or_init(|| bar(step.total));
        bar.set_position(step.done as u64);
        bar.set_message(format!("{} computed, {} reused", self.computed.get(), self.reused.get()));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Progress of a count. If stderr is not a terminal, it prints occasional lines instead of a bar.
pub struct CountBar {
    bar: ProgressBar,
    what: &'static str,
    of: &'static str,
    begun: Instant,
    /// Time of the last printed line, since `begun`.
    told: Cell<Duration>,
}

impl CountBar {
    /// A bar for the activity `what`, which counts `of`.
    pub fn new(what: &'static str, of: &'static str) -> Self {
        let style = ProgressStyle::with_template(&format!("{what} {{bar:30}} {{pos}}/{{len}} {of} {{eta}}"));
        let bar = ProgressBar::new(0).with_style(style.expect("a valid template. This is a bug."));
        CountBar { bar, what, of, begun: Instant::now(), told: Cell::default() }
    }

    /// Moves the bar.
    pub fn update(&self, done: usize, all: usize) {
        if io::stderr().is_terminal() {
            self.bar.set_length(all as u64);
            self.bar.set_position(done as u64);
            return;
        }
        let now = self.begun.elapsed();
        if is_due(self.told.get(), now) && done < all {
            self.told.set(now);
            notice(&counted((self.what, self.of), (done, all), now));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The progress line at time `now`, with the estimated time left.
fn counted((what, of): (&str, &str), (done, all): (usize, usize), now: Duration) -> String {
    let seconds = now.as_secs_f64();
    let left = seconds * (all - done) as f64 / done.max(1) as f64;
    format!("{what}: {done} of {all} {of}, {seconds:.0} s, about {left:.0} s left")
}

fn is_due(last: Duration, now: Duration) -> bool {
    now.saturating_sub(last) >= TOLD_EVERY
}

/// The line for a step that ended at time `now`, if one is due and the step is not the last.
fn told(step: StepProgress, last: Duration, now: Duration) -> Option<String> {
    let is_told = is_due(last, now) && step.done < step.total;
    is_told.then(|| format!("denoising: step {} of {}, {:.0} s", step.done, step.total, now.as_secs_f64()))
}

fn bar(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("denoising [{bar:32}] {pos}/{len} steps, {msg}, {elapsed} (eta {eta})");
    ProgressBar::new(total as u64).with_style(style.expect("a valid template. This is a bug.").progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_says_what_is_left() {
        let line = counted(("calibrating", "steps"), (100, 400), Duration::from_secs(20));
        assert_eq!(line, "calibrating: 100 of 400 steps, 20 s, about 60 s left");
    }

    #[test]
    fn without_a_terminal_a_step_is_told_now_and_then() {
        let mut last = Duration::ZERO;
        let mut told_at = |total, seconds_a_step: f64| {
            last = Duration::ZERO;
            let lines = (1..=total).filter_map(|done| {
                let now = Duration::from_secs_f64(done as f64 * seconds_a_step);
                let line = told(StepProgress { done, total, computed: 0, reused: 0 }, last, now)?;
                last = now;
                Some(line)
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(told_at(20, 0.1), [""; 0], "it is soon done");
        assert_eq!(
            told_at(10, 4.0),
            ["denoising: step 3 of 10, 12 s", "denoising: step 6 of 10, 24 s", "denoising: step 9 of 10, 36 s"]
        );
        assert_eq!(told_at(3, 60.0), ["denoising: step 1 of 3, 60 s", "denoising: step 2 of 3, 120 s"]);
    }
}
