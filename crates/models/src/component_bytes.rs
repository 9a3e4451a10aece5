//! How large a component is.

/// Bytes of a component, as it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentBytes {
    /// Of all its weights.
    pub all: u64,
    /// Of each list of layers among them, kind by kind.
    pub lists: Vec<ListBytes>,
    /// Of tables among them whose rows are looked up.
    pub tables: u64,
}

/// Bytes of the layers of one kind in a list: those whose tensors have the same shapes and types, which share places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListBytes {
    /// Of all of them.
    pub all: u64,
    /// Of one.
    pub largest: u64,
}
