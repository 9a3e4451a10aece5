//! Why a GPU cannot be used.

/// The oldest compute capability that the kernels are compiled for: Ampere's.
pub const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// The reason why a GPU cannot be used. Each message is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The program was built without CUDA.
    #[error("this needs a build with CUDA: cargo build --release --features cuda")]
    NotBuilt,
    /// The machine has no driver.
    #[error("there is no NVIDIA driver ({0})")]
    NoDriver(String),
    /// A library of the CUDA toolkit is missing or does not load.
    #[error("a library of CUDA does not load ({0}): install it, or name its folder in LD_LIBRARY_PATH")]
    NoLibrary(String),
    /// The driver reports an error, given in its own words.
    #[error("the NVIDIA driver reports {0}")]
    Driver(String),
    /// The machine has only this many GPUs.
    #[error("there is no such GPU: {}", counted(.0))]
    NoSuchGpu(usize),
    /// The kernels are not compiled for this GPU.
    #[error(
        "{name} has compute capability {}.{}, and {}.{} (Ampere) is the oldest that is supported",
        capability.0, capability.1, OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1
    )]
    TooOld {
        /// The GPU's name.
        name: String,
        /// The major and minor compute capability.
        capability: (i32, i32),
    },
    /// The model is larger than the GPU's free memory.
    #[error(
        "its memory was full at `{file}`, with {:.1} GB free before: take a smaller `--dtype`, or a larger GPU",
        *free as f64 / 1e9
    )]
    TooLittleMemory {
        /// The file that was being loaded.
        file: String,
        /// The free bytes before the load.
        free: u64,
    },
    /// The GPU exists but an operation on it failed, such as an allocation: which one, and the driver's words.
    #[error("{0}")]
    Failed(String),
}

/// The number of GPUs in words, such as `there is 1, cuda:0`.
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
