//! Sizes of a component.

use std::collections::BTreeMap;

/// Bytes of a component in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentBytes {
    /// Bytes of all weights.
    pub all: u64,
    /// The layers among them, in the order in which they run.
    pub layers: Vec<LayerSize>,
    /// Bytes of lookup tables.
    pub tables: u64,
}

/// A layer of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSize {
    /// Layers of a list whose tensors have the same shapes and types are of one kind: they share places.
    pub kind: usize,
    /// Bytes of its weights.
    pub bytes: u64,
}

impl ComponentBytes {
    /// The layers of each kind: how many there are, and the bytes of one.
    pub fn kinds(&self) -> Vec<(usize, u64)> {
        let mut kinds: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        for layer in &self.layers {
            let (count, bytes) = kinds.entry(layer.kind).or_default();
            (*count, *bytes) = (*count + 1, layer.bytes);
        }
        kinds.into_values().collect()
    }
}
