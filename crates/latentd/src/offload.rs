//! `--offload`: what it may say, and what it comes to on a device.

use std::fmt;

use bytesize::ByteSize;
use gpu::Unavailable;
use models::{ModelBytes, Offload, Placement, reserved};

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
    /// The text encoder, and those of the transformer's blocks that do not fit beside what requests take, which are carried there
    /// at every step.
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

    /// Where the parts of a model of these sizes are, on `device` with so many bytes free, if it tells, of which requests may
    /// take `memory_budget`, if the operator says.
    ///
    /// # Errors
    /// The weights do not fit.
    pub(crate) fn placement(
        self,
        bytes: &ModelBytes,
        device: DeviceName,
        free: Option<u64>,
        memory_budget: Option<u64>,
    ) -> Result<Placement, Error> {
        let fitting = || free.and_then(|free| Placement::that_fits(bytes, free));
        let offload = match (self, free) {
            (OffloadName::Encoder, _) => Offload::Encoder,
            (OffloadName::Block, _) => Offload::Block,
            (OffloadName::Auto, Some(_)) => fitting().map_or(Offload::Block, |placement| placement.offload),
            (OffloadName::None, _) | (OffloadName::Auto, None) => Offload::None,
        };
        let room = free.unwrap_or(0).saturating_sub(reserved(bytes, memory_budget));
        let placement = Placement::within(offload, bytes, room);
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
    use models::{ComponentBytes, LayerSize};

    use super::*;

    const GIB: u64 = 1 << 30;

    /// 55 GiB, of which the text encoder can spare 14 and the transformer 38.
    fn model() -> ModelBytes {
        let component = |all, list: u64, layers| ComponentBytes {
            all: all * GIB,
            layers: vec![LayerSize { kind: 0, bytes: list * GIB / layers }; layers as usize],
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
        let placement = name.placement(&model(), DeviceName::Cuda(0), free.map(|free| free * GIB), None);
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
    fn blocks_are_on_the_gpu_as_far_as_requests_leave_room() {
        let residents = |name: OffloadName, free, memory_budget| {
            let placement = name.placement(&model(), DeviceName::Cuda(0), Some(free * GIB), memory_budget);
            placement.unwrap().residents.count
        };
        // Of 5 GiB for all else; two pictures, and half a GiB for what is kept.
        assert_eq!(residents(OffloadName::Block, 24, None), 28);
        assert_eq!(residents(OffloadName::Auto, 24, None), 28);
        assert_eq!(residents(OffloadName::Block, 24, Some(16 * GIB)), 5);
        assert_eq!(residents(OffloadName::Block, 24, Some(1 << 40)), 0);
        assert_eq!(residents(OffloadName::Block, 80, None), 76);
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
