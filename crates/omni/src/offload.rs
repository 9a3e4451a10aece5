//! Which of a model's weights stay in host memory, and how much device memory the others take.

use models::{ModelBytes, Offload, Placement, reserved};

use crate::device_name::DeviceName;
use crate::error::{Error, Unsupported};

/// Which parts of a model stay in host memory and are copied to the GPU when they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffloadPolicy {
    /// None. This is the fastest.
    #[default]
    None,
    /// The text encoder. Its layers are copied to the GPU for each new prompt.
    Encoder,
    /// The text encoder, and the transformer blocks that do not fit beside the memory of requests. Those blocks are
    /// copied to the GPU at every step.
    Block,
    /// The first of the above with which the model and a picture of its default size fit.
    Auto,
}

impl OffloadPolicy {
    /// Rejects the policies that need a GPU if the model is on the CPU.
    ///
    /// # Errors
    /// The model is on the CPU, where the weights are in host memory already.
    pub fn check(self, on_cpu: bool) -> Result<(), Unsupported> {
        match self {
            OffloadPolicy::Encoder if on_cpu => Err(Unsupported::OffloadOnCpu(Offload::Encoder.name())),
            OffloadPolicy::Block if on_cpu => Err(Unsupported::OffloadOnCpu(Offload::Block.name())),
            _ => Ok(()),
        }
    }

    /// Placement of a model of these sizes on `device`. `free` is the device's free memory in bytes, if known.
    /// `memory_budget` is the operator's share of it for requests, if set.
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

    /// A model of 55 GiB. Offload can move 14 GiB of the text encoder and 38 GiB of the transformer.
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
        // The weights fit, a picture of the default size does not. Smaller pictures may.
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
        // 5 GiB for everything but the blocks: two pictures, and half a GiB for what is kept between requests.
        assert_eq!(residents(OffloadPolicy::Block, 24, None), 29);
        assert_eq!(residents(OffloadPolicy::Auto, 24, None), 29);
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
