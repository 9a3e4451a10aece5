//! The values of `--device`.

use std::fmt;
use std::str::FromStr;

/// The device that a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU if this build has CUDA and there is one, else the CPU.
    #[default]
    Auto,
    /// All cores.
    Cpu,
    /// One GPU, by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DeviceName::Auto),
            "cpu" => Ok(DeviceName::Cpu),
            "cuda" => Ok(DeviceName::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(DeviceName::Cuda(ordinal)),
                _ => Err("must be `auto`, `cpu`, `cuda` or `cuda:N`".into()),
            },
        }
    }
}

impl fmt::Display for DeviceName {
    /// The name as it is typed on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Auto => f.write_str("auto"),
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names() {
        assert_eq!("cuda:3".parse(), Ok(DeviceName::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for name in ["auto", "cpu", "cuda:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }
}
