//! Sizes of a component.

use std::collections::BTreeMap;

/// Bytes of a component in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentBytes {
    /// Bytes of all weights.
    pub all: u64,
    /// Layers of the lists, in the order in which they run.
    pub layers: Vec<LayerSize>,
    /// Bytes of lookup tables.
    pub tables: u64,
}

/// A layer of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSize {
    /// Kind of the layer. Layers of a list whose tensors have the same shapes and types are of one kind, and share
    /// buffers on the device.
    pub kind: usize,
    /// Bytes of the layer's weights.
    pub bytes: u64,
}

impl ComponentBytes {
    /// Returns for each kind of layer their number and the bytes of one layer.
    pub fn kinds(&self) -> Vec<(usize, u64)> {
        let mut kinds: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        for layer in &self.layers {
            let (count, bytes) = kinds.entry(layer.kind).or_default();
            (*count, *bytes) = (*count + 1, layer.bytes);
        }
        kinds.into_values().collect()
    }
}
