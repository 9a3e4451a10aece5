//! The effect of a step cache in a fake pipeline.

use std::fmt;
use std::sync::Arc;

use diffusion::ImageRequest;

/// The error in pictures of requests that a step cache serves: a value of at most 127 added to the last channel of the
/// colour. Steps of such requests compute half of their blocks.
#[derive(Clone, Default)]
pub struct Flaw(Option<Arc<FlawOf>>);

type FlawOf = dyn Fn(&ImageRequest) -> Option<u8> + Send + Sync;

impl Flaw {
    /// Takes the error from `flaw`; `None` for requests without a step cache.
    pub fn new(flaw: impl Fn(&ImageRequest) -> Option<u8> + Send + Sync + 'static) -> Self {
        Flaw(Some(Arc::new(flaw)))
    }

    pub(super) fn of(&self, request: &ImageRequest) -> Option<u8> {
        self.0.as_ref().and_then(|flaw| flaw(request))
    }
}

impl fmt::Debug for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaw")
    }
}
