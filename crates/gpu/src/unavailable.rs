//! Why a GPU cannot be used.

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
}
