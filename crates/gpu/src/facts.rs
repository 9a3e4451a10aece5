//! Properties and measurements of a GPU.

use std::time::Duration;

/// Properties of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: u64,
}

/// The bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What nobody has taken, and what this process has taken and does not use.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// What a process has had of a GPU's memory for its tensors, in bytes. Libraries' own workspaces are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolMemory {
    /// What tensors hold now.
    pub held: u64,
    /// The most that they held at once since [`forget_most`](crate::forget_most).
    pub most: u64,
}

/// Busy time of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Calls that gave the GPU work: kernels, products, and copies and fills within its memory.
    pub calls: usize,
    /// The total time from the event before each call to the event after it.
    pub time: Duration,
    /// The time between two events with nothing in between, the largest error of a call's time.
    pub empty_pair: Duration,
}
