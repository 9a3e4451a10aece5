//! Progress bars of loading. indicatif draws them, because it handles terminals, pipes and widths.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use omni::LoadObserver;

/// The progress bar of a loading model: first for its download, then for each component.
#[derive(Default)]
pub struct LoadingBars {
    current: Mutex<Option<(String, ProgressBar)>>,
}

impl LoadingBars {
    /// Moves the bar of `what`. The first call with another `what` ends the previous bar.
    fn update(&self, what: String, done: u64, total: u64) {
        let mut current = self.current();
        if current.as_ref().is_none_or(|(name, _)| *name != what) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((what.clone(), bytes_bar(what)));
        }
        if let Some((_, bar)) = &*current {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn end(&self) {
        if let Some((_, bar)) = self.current().take() {
            bar.finish_and_clear();
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<(String, ProgressBar)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadObserver for LoadingBars {
    fn downloading(&self, model: &str, arrived: u64, total: u64) {
        self.update(format!("downloading {model}"), arrived, total);
    }

    fn downloaded(&self, _: &str) {
        self.end();
    }

    fn loading(&self, component: &'static str, done: usize, total: usize) {
        self.update(format!("loading {component}"), done as u64, total as u64);
    }
}

impl Drop for LoadingBars {
    fn drop(&mut self) {
        self.end();
    }
}

fn bytes_bar(message: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {bytes}/{total_bytes}, {bytes_per_sec} (eta {eta})");
    let style = style.expect("a valid template. This is a bug.").progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_message(message)
}
