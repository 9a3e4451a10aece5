//! What is told of how loading goes.

/// Is told how a model is loaded: a program draws progress bars of it.
///
/// It may be asked from any thread. Every method does nothing unless it is written.
pub trait LoadObserver: Send + Sync {
    /// So many bytes of all that a Hub model lacks have arrived.
    fn downloading(&self, _model: &str, _arrived: u64, _total: u64) {}

    /// The download is over, however it went.
    fn downloaded(&self, _model: &str) {}

    /// So many bytes of a component of the model are in place.
    fn loading(&self, _component: &'static str, _done: usize, _total: usize) {}
}

/// Nobody who looks.
impl LoadObserver for () {}
