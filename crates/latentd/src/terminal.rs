//! What a person at a terminal sees: notices, bars, times. Pictures' paths go to stdout, all else to stderr.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use latentd::StepProgress;

/// Prints to stderr.
pub(crate) fn notice(text: &str) {
    eprintln!("{text}");
}

/// `1.23 s`, or milliseconds below a second.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// The steps of a generation, with how many block runs were computed and reused.
#[derive(Default)]
pub(crate) struct StepsBar {
    bar: OnceCell<ProgressBar>,
    computed: Cell<usize>,
    reused: Cell<usize>,
}

impl StepsBar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Moves the bar; it appears with the first step.
    pub(crate) fn update(&self, step: StepProgress) {
        self.computed.set(self.computed.get() + step.computed);
        self.reused.set(self.reused.get() + step.reused);
        let bar = self.bar.get_or_init(|| bar(step.total));
        bar.set_position(step.done as u64);
        bar.set_message(format!("{} computed, {} reused", self.computed.get(), self.reused.get()));
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("denoising [{bar:32}] {pos}/{len} steps, {msg}, {elapsed} (eta {eta})");
    ProgressBar::new(total as u64).with_style(style.expect("a valid template. This is a bug.").progress_chars("=> "))
}
