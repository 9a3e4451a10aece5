//! How much memory a request needs, known before it starts.

/// Bytes of device memory that a request needs, at most. What its stages need comes on top of its state, and of those
/// of all others that are held meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestMemory {
    /// Of its state, from step to step: latents, prompt embeddings, what the step cache keeps. What a step makes anew
    /// is in it twice, as the old is kept until the new is known to have had memory enough.
    pub state: u64,
    /// Of its prompts and pictures on their way through the encoders.
    pub encode: u64,
    /// Of its part in a step: the streams, attention and the widest layers of a block.
    pub step: u64,
    /// Of its latents on their way through the VAE, once its state has let go of what only steps need.
    pub decode: u64,
}

impl RequestMemory {
    /// The most that any of its stages needs beside the states.
    pub fn peak(&self) -> u64 {
        self.encode.max(self.step).max(self.decode)
    }

    /// The most that it needs where nothing else is held.
    pub fn alone(&self) -> u64 {
        self.state.saturating_add(self.peak())
    }
}
