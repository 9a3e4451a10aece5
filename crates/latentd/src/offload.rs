//! `--offload`: what it may say, and what it comes to on a device.

use std::fmt;

use bytesize::ByteSize;
use gpu::Unavailable;
use models::{ModelBytes, Offload, Placement};

use crate::device_name::DeviceName;
use crate::error::Error;

/// What of a model stays in host memory, and is carried to the GPU when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OffloadName {
    /// Nothing: the fastest.
    #[default]
    None,
    /// The text encoder, whose layers are carried to the GPU for each new prompt.
    Encoder,
    /// The text encoder, and the transformer's blocks, which are carried there at every step.
    Block,
    /// The first of these with which the model and a picture of its default size fit.
    Auto,
}

impl fmt::Display for OffloadName {
    /// As it is typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OffloadName::None => Offload::None.name(),
            OffloadName::Encoder => Offload::Encoder.name(),
            OffloadName::Block => Offload::Block.name(),
            OffloadName::Auto => "auto",
        })
    }
}

impl OffloadName {
    /// Refuses what is for a GPU alone where there is none.
    ///
    /// # Errors
    /// On the CPU the weights are in host memory already.
    pub fn check(self, on_cpu: bool) -> Result<(), Error> {
        match self {
            OffloadName::Encoder | OffloadName::Block if on_cpu => Err(Error::Flag(format!(
                "`--offload {self}` is for a GPU, and this model is on the CPU, in host memory already: take it away, or \
                 set `--device cuda`"
            ))),
            _ => Ok(()),
        }
    }

    /// Where the parts of a model of these sizes are, on `device` with so many bytes free, if it tells.
    ///
    /// # Errors
    /// The weights do not fit.
    pub(crate) fn placement(
        self,
        bytes: &ModelBytes,
        device: DeviceName,
        free: Option<u64>,
    ) -> Result<Placement, Error> {
        let fitting = || free.and_then(|free| Placement::that_fits(bytes, free));
        let placement = match (self, free) {
            (OffloadName::Encoder, _) => Placement::new(Offload::Encoder, bytes),
            (OffloadName::Block, _) => Placement::new(Offload::Block, bytes),
            (OffloadName::Auto, Some(_)) => fitting().unwrap_or_else(|| Placement::new(Offload::Block, bytes)),
            (OffloadName::None, _) | (OffloadName::Auto, None) => Placement::new(Offload::None, bytes),
        };
        let needed = placement.device_bytes();
        let Some(free) = free.filter(|free| needed > *free) else { return Ok(placement) };
        let advice = match fitting() {
            Some(fitting) => {
                let (name, needed) = (fitting.offload.name(), ByteSize::b(fitting.device_bytes()));
                format!("`--offload {name}` takes {needed}")
            }
            None => "take a smaller `--dtype`, or a larger GPU".into(),
        };
        let (needed, free) = (ByteSize::b(needed).to_string(), ByteSize::b(free).to_string());
        Err(Error::Device { device, reason: Unavailable::TooSmall { needed, free, advice } })
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use models::{ComponentBytes, ListBytes};

    use super::*;

    const GIB: u64 = 1 << 30;

    /// 55 GiB, of which the text encoder can spare 14 and the transformer 38.
    fn model() -> ModelBytes {
        let component = |all, list: u64, layers| ComponentBytes {
            all: all * GIB,
            lists: vec![ListBytes { all: list * GIB, largest: list * GIB / layers }],
            tables: 0,
        };
        ModelBytes {
            text_encoder: component(15, 14, 28),
            transformer: component(39, 38, 76),
            vae: ComponentBytes { all: GIB, ..ComponentBytes::default() },
            activations: 2 * GIB,
        }
    }

    fn chosen(name: OffloadName, free: Option<u64>) -> Result<Offload, String> {
        let placement = name.placement(&model(), DeviceName::Cuda(0), free.map(|free| free * GIB));
        placement.map(|placement| placement.offload).map_err(|err| err.to_string())
    }

    #[test]
    fn auto_takes_the_fastest_that_fits() {
        for (free, offload) in [(80, Offload::None), (57, Offload::None), (48, Offload::Encoder), (24, Offload::Block)]
        {
            assert_eq!(chosen(OffloadName::Auto, Some(free)), Ok(offload), "{free}");
        }
        assert_eq!(chosen(OffloadName::Auto, None), Ok(Offload::None), "on the CPU");
        // Weights without a whole picture: smaller ones may fit.
        assert_eq!(chosen(OffloadName::Auto, Some(6)), Ok(Offload::Block));
        assert_eq!(chosen(OffloadName::None, Some(56)), Ok(Offload::None));
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        assert_eq!(
            chosen(OffloadName::None, Some(48)),
            Err("`--device cuda:0`: 55.0 GiB of its memory are needed, and 48.0 GiB are free: `--offload encoder` \
                 takes 42.0 GiB"
                .into())
        );
        let refused = chosen(OffloadName::Encoder, Some(24)).unwrap_err();
        assert!(refused.ends_with("24.0 GiB are free: `--offload block` takes 5.0 GiB"), "{refused}");
        let refused = chosen(OffloadName::Auto, Some(4)).unwrap_err();
        assert!(refused.ends_with("take a smaller `--dtype`, or a larger GPU"), "{refused}");
    }

    #[test]
    fn the_cpu_offloads_nothing() {
        for name in OffloadName::value_variants() {
            let refused = name.check(true).is_err();
            assert_eq!(refused, matches!(name, OffloadName::Encoder | OffloadName::Block), "{name}");
            assert!(name.check(false).is_ok());
        }
    }
}
