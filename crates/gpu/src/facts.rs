//! What a GPU says of itself, and what was measured of it.

use std::time::Duration;

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// What it calls itself.
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

/// How long a GPU was at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Calls that gave it work: kernels, products, copies and fills within its memory.
    pub calls: usize,
    /// From the event before each of them to the one behind it, all together.
    pub time: Duration,
    /// From one event to the next with nothing between: by so much, and no more, a call's time may be too long.
    pub empty_pair: Duration,
}
