//! Progress of loading a model.

/// Receives the progress of loading a model, e.g. to draw progress bars.
///
/// The methods may be called from any thread. Their defaults do nothing.
pub trait LoadObserver: Send + Sync {
    /// `_arrived` of the `_total` bytes missing from a Hub model have been downloaded.
    fn downloading(&self, _model: &str, _arrived: u64, _total: u64) {}

    /// The download has ended, successfully or not.
    fn downloaded(&self, _model: &str) {}

    /// `_done` of the `_total` bytes of a component are loaded.
    fn loading(&self, _component: &'static str, _done: usize, _total: usize) {}
}

/// An observer that ignores everything.
impl LoadObserver for () {}
