//! The memory that a request needs, known before it starts.

/// Upper bounds on the device memory of a request, in bytes. The memory of a stage comes on top of the request's state
/// and of the states of all other requests held at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestMemory {
    /// State held from step to step: latents, prompt embeddings, step cache residuals. Buffers that a step replaces
    /// count twice, because the old ones are kept until the step is known to have had enough memory.
    pub state: u64,
    /// Encoding the prompts and pictures.
    pub encode: u64,
    /// The request's part in a step: the streams, attention and the widest layers of a block.
    pub step: u64,
    /// Decoding the latents with the VAE, after the state has released what only steps need.
    pub decode: u64,
}

impl RequestMemory {
    /// Maximum over the stages, without any state.
    pub fn peak(&self) -> u64 {
        self.encode.max(self.step).max(self.decode)
    }

    /// Maximum of the request alone, with no other state held.
    pub fn alone(&self) -> u64 {
        self.state.saturating_add(self.peak())
    }
}
