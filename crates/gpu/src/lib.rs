//! An NVIDIA GPU, opened for one worker.
//!
//! A program with CUDA (the feature `cuda`) starts on any machine: `libraries.rs` finds CUDA's libraries when they are first
//! called. [`open`] says what a machine lacks, or sets a device up as one worker thread uses it: a stream of its own, no
//! events beside the work, memory that stays with the process once it was had.
//!
//! Without the feature there is only [`Unavailable::NotBuilt`].

#[cfg(lazy_libraries)]
mod busy;
#[cfg(feature = "cuda")]
mod device;
#[cfg(lazy_libraries)]
mod libraries;

use std::time::Duration;

use candle_core::Device;

/// The oldest compute capability that the kernels are compiled for: Ampere's.
pub const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// Why a GPU cannot be used; each a sentence of one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The program has no CUDA in it.
    #[error("this needs a build with CUDA: cargo build --release --features cuda")]
    NotBuilt,
    /// The machine has no driver.
    #[error("there is no NVIDIA driver ({0})")]
    NoDriver(String),
    /// A library of the CUDA toolkit is not there, or does not load.
    #[error("a library of CUDA does not load ({0}): install it, or name its folder in LD_LIBRARY_PATH")]
    NoLibrary(String),
    /// The driver has nothing to offer; its own words.
    #[error("the NVIDIA driver answers {0}")]
    Driver(String),
    /// Fewer GPUs than that.
    #[error("there is no such GPU: {}", counted(.0))]
    NoSuchGpu(usize),
    /// The kernels are not compiled for it.
    #[error(
        "{name} has compute capability {}.{}, and {}.{} (Ampere) is the oldest that is supported",
        capability.0, capability.1, OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1
    )]
    TooOld {
        /// What the GPU calls itself.
        name: String,
        /// Major and minor.
        capability: (i32, i32),
    },
    /// The model is larger than what was free of the GPU's memory.
    #[error(
        "its memory was full at `{file}`, with {:.1} GB free before: take a smaller `--dtype`, or a larger GPU",
        *free as f64 / 1e9
    )]
    TooLittleMemory {
        /// What was being loaded.
        file: String,
        /// Bytes.
        free: u64,
    },
    /// What is to lie there is more than what is free of the GPU's memory.
    #[error("{needed} of its memory are needed, and {free} are free: {advice}")]
    TooSmall {
        /// With its unit.
        needed: String,
        /// With its unit.
        free: String,
        /// What to do.
        advice: String,
    },
    /// The GPU is there and something failed, memory for instance; which step, and the driver's words.
    #[error("{0}")]
    Failed(String),
}

/// `there is 1, cuda:0`.
fn counted(count: &usize) -> String {
    match count {
        0 => "there is none".into(),
        1 => "there is 1, cuda:0".into(),
        _ => format!("there are {count}, cuda:0 to cuda:{}", count - 1),
    }
}

/// Opens GPU number `ordinal` for the calling thread, with a stream of its own.
///
/// # Errors
/// The program, the machine or the GPU cannot do it.
pub fn open(ordinal: usize) -> Result<Device, Unavailable> {
    #[cfg(feature = "cuda")]
    return device::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = ordinal;
        Err(Unavailable::NotBuilt)
    }
}

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

/// What a device is; `None` for a CPU, and where the driver does not say.
pub fn describe(device: &Device) -> Option<Gpu> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::describe(device);
    }
    let _ = device;
    None
}

/// Whether a GPU answers every call with an error from now on. Then none of its handles may be let go before it is opened
/// anew: the libraries fail at that, which takes the thread along. They are kept for good, a few kilobytes.
pub fn is_lost(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device
        && device::is_lost(cuda)
    {
        std::mem::forget(device.clone());
        return true;
    }
    let _ = device;
    false
}

/// The bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What nobody has taken, and what this process has taken and does not use.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// The memory of a GPU; `None` for a CPU, and where the driver does not say.
pub fn memory(device: &Device) -> Option<Memory> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::memory(device);
    }
    let _ = device;
    None
}

/// The compute capability of a GPU, major and minor; `None` for a CPU, and where the driver does not say.
pub fn capability(device: &Device) -> Option<(i32, i32)> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device.cuda_stream().context().compute_capability().ok();
    }
    let _ = device;
    None
}

/// What a process has had of a GPU's memory for its tensors, in bytes. Libraries' own workspaces are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolMemory {
    /// What tensors hold now.
    pub held: u64,
    /// The most that they held at once since [`forget_most`].
    pub most: u64,
}

/// The memory of this process's tensors on a GPU; `None` for a CPU, and where the driver does not say.
pub fn pool_memory(device: &Device) -> Option<PoolMemory> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::pool_memory(device);
    }
    let _ = device;
    None
}

/// Begins to look for the most anew, if the driver has a say in it.
pub fn forget_most(device: &Device) {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        device::forget_most(device);
    }
    let _ = device;
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

/// Runs `work`, all of which is on `device`'s stream, and says how long the GPU was at it: the rest of what `work` takes
/// otherwise is time without work. The GPU begins later by `ahead`, which is to be as long as `work` takes without being
/// watched, and so never waits for a call; where `work` waits for the GPU itself, to read something, that lead is lost.
///
/// `None` on a CPU, and of a build whose calls of the driver cannot be watched (all but x86-64 Linux).
///
/// # Errors
/// The driver's words, beside what `work` made.
pub fn busy<R>(device: &Device, ahead: Duration, work: impl FnOnce() -> R) -> (R, Result<Option<Busy>, Unavailable>) {
    #[cfg(lazy_libraries)]
    if let Device::Cuda(device) = device {
        let (made, seen) = busy::busy(device, ahead, work);
        return (made, seen.map_err(|err| Unavailable::Failed(device::named(err))));
    }
    let _ = (device, ahead);
    (work(), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_one_line() {
        let cases = [
            (Unavailable::NoSuchGpu(0), "there is no such GPU: there is none"),
            (Unavailable::NoSuchGpu(1), "there is no such GPU: there is 1, cuda:0"),
            (Unavailable::NoSuchGpu(4), "there is no such GPU: there are 4, cuda:0 to cuda:3"),
            (
                Unavailable::TooOld { name: "Tesla T4".into(), capability: (7, 5) },
                "Tesla T4 has compute capability 7.5, and 8.0 (Ampere) is the oldest that is supported",
            ),
        ];
        for (reason, told) in cases {
            assert_eq!(reason.to_string(), told);
        }
    }

    #[test]
    fn a_processor_is_not_watched() {
        let (made, busy) = busy(&Device::Cpu, Duration::ZERO, || 3);
        assert_eq!((made, busy), (3, Ok(None)));
        assert_eq!((memory(&Device::Cpu), pool_memory(&Device::Cpu)), (None, None));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_opens_nothing() {
        assert_eq!(open(0).unwrap_err(), Unavailable::NotBuilt);
    }
}
