//! How large a component is.

/// Bytes of a component, as it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentBytes {
    /// Of all its weights.
    pub all: u64,
    /// Of each list of layers among them.
    pub lists: Vec<ListBytes>,
    /// Of tables among them whose rows are looked up.
    pub tables: u64,
}

/// Bytes of a list of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListBytes {
    /// Of all layers.
    pub all: u64,
    /// Of the largest.
    pub largest: u64,
}
