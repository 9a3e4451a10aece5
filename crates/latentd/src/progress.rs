//! Progress bars: indicatif's, because it knows terminals, pipes and their widths.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use omni::LoadObserver;

/// The bar of a model that loads: of its download, then of each of its components.
#[derive(Default)]
pub struct LoadingBars {
    current: Mutex<Option<(String, ProgressBar)>>,
}

impl LoadingBars {
    /// Moves the bar of `what`; the first call of another one ends the bar before it.
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
