//! What of a model's weights stays in host memory, and what that comes to on a device.

use models::{ModelBytes, Offload, Placement, reserved};

use crate::device_name::DeviceName;
use crate::error::{Error, Unsupported};

/// What of a model stays in host memory, and is carried to the GPU when its turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadPolicy {
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

impl OffloadPolicy {
    /// Refuses what is for a GPU alone where there is none.
    ///
    /// # Errors
    /// On the CPU the weights are in host memory already.
    pub fn check(self, on_cpu: bool) -> Result<(), Unsupported> {
        match self {
            OffloadPolicy::Encoder if on_cpu => Err(Unsupported::OffloadOnCpu(Offload::Encoder.name())),
            OffloadPolicy::Block if on_cpu => Err(Unsupported::OffloadOnCpu(Offload::Block.name())),
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
            (OffloadPolicy::Encoder, _) => Offload::Encoder,
            (OffloadPolicy::Block, _) => Offload::Block,
            (OffloadPolicy::Auto, Some(_)) => fitting().map_or(Offload::Block, |placement| placement.offload),
            (OffloadPolicy::None, _) | (OffloadPolicy::Auto, None) => Offload::None,
        };
        let room = free.unwrap_or(0).saturating_sub(reserved(bytes, memory_budget));
        let placement = Placement::within(offload, bytes, room);
        let needed = placement.device_bytes();
        let Some(free) = free.filter(|free| needed > *free) else { return Ok(placement) };
        let fitting = fitting().map(|fitting| (fitting.offload, fitting.device_bytes()));
        Err(Error::TooSmall { device, needed, free, fitting })
    }
}

#[cfg(test)]
mod tests {
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

    fn chosen(name: OffloadPolicy, free: Option<u64>) -> Result<Offload, String> {
        let placement = name.placement(&model(), DeviceName::Cuda(0), free.map(|free| free * GIB), None);
        placement.map(|placement| placement.offload).map_err(|err| err.to_string())
    }

    #[test]
    fn auto_takes_the_fastest_that_fits() {
        for (free, offload) in [(80, Offload::None), (57, Offload::None), (48, Offload::Encoder), (24, Offload::Block)]
        {
            assert_eq!(chosen(OffloadPolicy::Auto, Some(free)), Ok(offload), "{free}");
        }
        assert_eq!(chosen(OffloadPolicy::Auto, None), Ok(Offload::None), "on the CPU");
        // Weights without a whole picture: smaller ones may fit.
        assert_eq!(chosen(OffloadPolicy::Auto, Some(6)), Ok(Offload::Block));
        assert_eq!(chosen(OffloadPolicy::None, Some(56)), Ok(Offload::None));
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        let refused = |name: OffloadPolicy, free| {
            let placement = name.placement(&model(), DeviceName::Cuda(0), Some(free * GIB), None);
            match placement.unwrap_err() {
                Error::TooSmall { needed, free, fitting, .. } => (needed / GIB, free / GIB, fitting),
                err => panic!("{err}"),
            }
        };
        assert_eq!(refused(OffloadPolicy::None, 48), (55, 48, Some((Offload::Encoder, 42 * GIB))));
        let (_, _, fitting) = refused(OffloadPolicy::Encoder, 24);
        assert_eq!(fitting.map(|(offload, _)| offload), Some(Offload::Block));
        assert_eq!(refused(OffloadPolicy::Auto, 4).2, None);
    }

    #[test]
    fn blocks_are_on_the_gpu_as_far_as_requests_leave_room() {
        let residents = |name: OffloadPolicy, free, memory_budget| {
            let placement = name.placement(&model(), DeviceName::Cuda(0), Some(free * GIB), memory_budget);
            placement.unwrap().residents.count
        };
        // Of 5 GiB for all else; two pictures, and half a GiB for what is kept.
        assert_eq!(residents(OffloadPolicy::Block, 24, None), 28);
        assert_eq!(residents(OffloadPolicy::Auto, 24, None), 28);
        assert_eq!(residents(OffloadPolicy::Block, 24, Some(16 * GIB)), 5);
        assert_eq!(residents(OffloadPolicy::Block, 24, Some(1 << 40)), 0);
        assert_eq!(residents(OffloadPolicy::Block, 80, None), 76);
    }

    #[test]
    fn the_cpu_offloads_nothing() {
        for name in [OffloadPolicy::None, OffloadPolicy::Encoder, OffloadPolicy::Block, OffloadPolicy::Auto] {
            let refused = name.check(true).is_err();
            assert_eq!(refused, matches!(name, OffloadPolicy::Encoder | OffloadPolicy::Block), "{name:?}");
            assert!(name.check(false).is_ok());
        }
    }
}
