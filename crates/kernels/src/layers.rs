//! A list of layers that run one after another: on the device all along, or carried there when their turn comes, each of
//! them one or the other.

use candle_core::{Device, Result, bail};

use crate::Parameters;
#[cfg(feature = "cuda")]
use crate::cuda::Streamed;

/// Layers of one network, in order.
///
/// Those of a [`Layers::streamed`] list that are not resident lie in the host's memory, page-locked where that can be had.
/// The device has room for two of them: while one computes, the next is copied into the other's place by a stream of its own.
pub struct Layers<L>(Place<L>);

enum Place<L> {
    Resident(Vec<L>),
    #[cfg(feature = "cuda")]
    Streamed(Streamed<L>),
}

impl<L: Parameters> Layers<L> {
    /// Layers that stay where they were loaded.
    pub fn resident(layers: Vec<L>) -> Self {
        Layers(Place::Resident(layers))
    }

    /// Layers that were loaded onto `device`, a GPU: those whose number `is_resident` stay there, and each of the others is
    /// moved to the host's memory before the next one is loaded.
    ///
    /// # Errors
    /// Those of the layers; the device's, which `failed` takes.
    pub fn streamed<E>(
        layers: impl Iterator<Item = std::result::Result<L, E>>,
        is_resident: impl Fn(usize) -> bool,
        device: &Device,
        failed: impl Fn(candle_core::Error) -> E,
    ) -> std::result::Result<Self, E> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let mut streamed = Streamed::new(device).map_err(&failed)?;
            for (index, layer) in layers.enumerate() {
                match is_resident(index) {
                    true => streamed.keep(layer?),
                    false => streamed.push(layer?).map_err(&failed)?,
                }
            }
            return Ok(Layers(Place::Streamed(streamed)));
        }
        drop((layers, is_resident));
        let refuse = || -> Result<Self> {
            bail!("layers are streamed to a GPU. Given: {:?}. This is a bug.", device.location())
        };
        refuse().map_err(failed)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Resident(layers) => layers.len(),
            #[cfg(feature = "cuda")]
            Place::Streamed(layers) => layers.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Layer `index`, for as long as `work` queues what it computes.
    ///
    /// # Errors
    /// That of `work`, or the device's.
    ///
    /// # Panics
    /// There is no such layer.
    pub fn run<R>(&self, index: usize, work: impl FnOnce(&L) -> Result<R>) -> Result<R> {
        match &self.0 {
            Place::Resident(layers) => work(&layers[index]),
            #[cfg(feature = "cuda")]
            Place::Streamed(layers) => layers.run(index, work),
        }
    }

    /// All layers, if they are on their device all along; of a streamed list none.
    pub fn as_slice(&self) -> &[L] {
        match &self.0 {
            Place::Resident(layers) => layers,
            #[cfg(feature = "cuda")]
            Place::Streamed(_) => &[],
        }
    }

    /// Bytes of the layers in host memory that is not page-locked, which the driver copies through a buffer of its own.
    pub fn pageable_bytes(&self) -> usize {
        match &self.0 {
            Place::Resident(_) => 0,
            #[cfg(feature = "cuda")]
            Place::Streamed(layers) => layers.pageable_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::*;

    #[test]
    fn resident_layers_are_run_in_place() {
        let layer = |value| Tensor::full(value, 1, &Device::Cpu).unwrap();
        let layers = Layers::resident(vec![layer(1f32), layer(2.0)]);
        assert_eq!((layers.len(), layers.as_slice().len(), layers.pageable_bytes()), (2, 2, 0));
        assert_eq!(layers.run(1, |layer| layer.to_vec1::<f32>()).unwrap(), [2.0]);
    }

    #[test]
    fn nothing_is_streamed_to_the_cpu() {
        let layers = [Tensor::zeros(1, DType::F32, &Device::Cpu)].into_iter();
        assert!(Layers::streamed(layers, |_| false, &Device::Cpu, |err| err).is_err());
    }
}
