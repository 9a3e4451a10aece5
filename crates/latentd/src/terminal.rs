//! What a person at a terminal sees: notices, bars, times. What was asked for goes to stdout, pictures' paths among it,
//! all else to stderr.
//!
//! A command works for its files, not for its lines. So SIGPIPE stays ignored, as Rust has it: whoever stops reading
//! (`latentd generate -n 4 ... | head -1`) ends the output, not the pictures. Lines that are lost another way, on a full
//! disk, are an error once all is done.

use std::cell::{Cell, OnceCell};
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use latentd::{Error, StepProgress};

/// Prints a line to stderr. Where that is closed or full, there is nobody to be told.
pub(crate) fn notice(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Why stdout takes nothing any more.
static ENDED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line to stdout, as long as that takes them.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints whole lines to stdout, as long as that takes them.
pub(crate) fn print(lines: &str) {
    if ENDED.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(err) = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = ENDED.set(err);
    }
}

/// Whether all that was printed has reached whoever wanted it.
///
/// # Errors
/// Stdout took no more, and not because its reader had enough.
pub(crate) fn check_printed() -> Result<(), Error> {
    match ENDED.get() {
        Some(err) if err.kind() != ErrorKind::BrokenPipe => Err(Error::Output(err.to_string())),
        _ => Ok(()),
    }
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
