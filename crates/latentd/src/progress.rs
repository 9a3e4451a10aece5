//! Progress bars: indicatif's, because it knows terminals, pipes and their widths.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Mutex;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
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

/// A download's bar, moved from the Hub client's threads.
pub(crate) struct DownloadBar {
    bar: ProgressBar,
    files: Mutex<HashMap<String, u64>>,
}

impl DownloadBar {
    pub(crate) fn new(id: &str) -> Self {
        DownloadBar { bar: bytes_bar(format!("downloading {id}"), 0), files: Mutex::default() }
    }
}

impl ProgressHandler for DownloadBar {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.bar.set_length(*total_bytes),
            DownloadEvent::AggregateProgress { bytes_completed, .. } => self.bar.set_position(*bytes_completed),
            DownloadEvent::Progress { files } => {
                let mut known = self.files.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                known.extend(files.iter().map(|file| (file.filename.clone(), file.bytes_completed)));
                self.bar.set_position(known.values().sum());
            }
            DownloadEvent::Complete => self.bar.finish_and_clear(),
        }
    }
}

fn bytes_bar(message: String, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {bytes}/{total_bytes}, {bytes_per_sec} (eta {eta})");
    let bar = ProgressBar::new(total);
    bar.with_style(style.expect("a valid template. This is a bug.").progress_chars("=> ")).with_message(message)
}
