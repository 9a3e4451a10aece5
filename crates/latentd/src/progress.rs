//! Progress bars: indicatif's, because it knows terminals, pipes and their widths.

use std::cell::RefCell;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for each component of a model that loads.
#[derive(Default)]
pub struct LoadingBars {
    bar: RefCell<Option<(&'static str, ProgressBar)>>,
}

impl LoadingBars {
    /// Moves the component's bar; the first call of a component ends the bar before it.
    pub fn update(&self, component: &'static str, done: usize, total: usize) {
        let mut current = self.bar.borrow_mut();
        if current.as_ref().is_none_or(|(name, _)| *name != component) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            *current = Some((component, bytes_bar(format!("loading {component}"), total as u64)));
        }
        if let Some((_, bar)) = &*current {
            bar.set_position(done as u64);
        }
    }
}

impl Drop for LoadingBars {
    fn drop(&mut self) {
        if let Some((_, bar)) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// A download's bar.
pub(crate) struct DownloadBar {
    bar: ProgressBar,
}

impl DownloadBar {
    pub(crate) fn new(id: &str) -> Self {
        DownloadBar { bar: bytes_bar(format!("downloading {id}"), 0) }
    }

    /// Moves it to `arrived` of `total` bytes.
    pub(crate) fn update(&self, arrived: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(arrived);
    }
}

impl Drop for DownloadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn bytes_bar(message: String, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {bytes}/{total_bytes}, {bytes_per_sec} (eta {eta})");
    let bar = ProgressBar::new(total);
    bar.with_style(style.expect("a valid template. This is a bug.").progress_chars("=> ")).with_message(message)
}
