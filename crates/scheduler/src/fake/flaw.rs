//! What a step cache does to a request, in a fake.

use std::fmt;
use std::sync::Arc;

use diffusion::ImageRequest;

/// Of a request that a step cache serves, how far its picture is off: so much is added to the last number of its colour, 127
/// at most. Its steps compute half of their blocks.
#[derive(Clone, Default)]
pub struct Flaw(Option<Arc<FlawOf>>);

type FlawOf = dyn Fn(&ImageRequest) -> Option<u8> + Send + Sync;

impl Flaw {
    /// As this function says.
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
