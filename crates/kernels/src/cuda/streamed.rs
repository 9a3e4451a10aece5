//! Layers in host memory, each copied to the device when its turn comes: two places there, a stream of copies beside the
//! one that computes, and events between them.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, CudaStream, DevicePtr, result, sys};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, DType, Result, Shape, Storage, Tensor, bail};

use crate::Parameters;
use crate::ring::Ring;

/// Layers of a list on the device at a time: one that computes, and one that comes.
const NUM_PLACES: usize = 2;
/// What each tensor begins at a multiple of in host memory.
const ALIGNMENT: usize = 256;

/// A list of layers. Those in host memory with tensors of the same shapes share their places.
pub(crate) struct Streamed<L> {
    kinds: Vec<Kind<L>>,
    order: Vec<Home<L>>,
    compute: Arc<CudaStream>,
    copies: Arc<CudaStream>,
}

/// Where a layer is.
enum Home<L> {
    /// On the device all along.
    Device(L),
    /// In host memory: its kind, and its number among those of the kind.
    Host { kind: usize, layer: usize },
}

/// Layers in host memory whose tensors have the same shapes.
struct Kind<L> {
    tensors: Vec<(Shape, DType)>,
    /// Of every layer.
    hosts: Vec<HostMemory>,
    places: Vec<DevicePlace<L>>,
    ring: Mutex<Option<Ring>>,
}

/// A layer's tensors on the device, in which any layer of the kind may be.
struct DevicePlace<L> {
    layer: L,
    /// What it is to hold has come.
    arrived: CudaEvent,
    /// What was computed with it is done.
    left: CudaEvent,
}

impl<L: Parameters> Streamed<L> {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let compute = device.cuda_stream();
        let copies = compute.context().new_stream().w()?;
        Ok(Streamed { kinds: Vec::new(), order: Vec::new(), compute, copies })
    }

    /// Takes a layer that stays on the device.
    pub(crate) fn keep(&mut self, layer: L) {
        self.order.push(Home::Device(layer));
    }

    /// Takes a copy of the layer into host memory. The first ones of a kind become its places.
    pub(crate) fn push(&mut self, layer: L) -> Result<()> {
        let tensors = tensors(&layer);
        let shapes: Vec<_> = tensors.iter().map(|tensor| (tensor.shape().clone(), tensor.dtype())).collect();
        let host = HostMemory::of(&tensors, &self.compute)?;
        let kind_idx = self.kinds.iter().position(|kind| kind.tensors == shapes).unwrap_or_else(|| {
            let ring = Mutex::default();
            self.kinds.push(Kind { tensors: shapes, hosts: Vec::new(), places: Vec::new(), ring });
            self.kinds.len() - 1
        });
        let kind = &mut self.kinds[kind_idx];
        self.order.push(Home::Host { kind: kind_idx, layer: kind.hosts.len() });
        kind.hosts.push(host);
        if kind.places.len() < NUM_PLACES {
            let context = self.compute.context();
            let event = || context.new_event(None).w();
            let place = DevicePlace { layer, arrived: event()?, left: event()? };
            // An event that was never recorded is one that has happened.
            kind.places.push(place);
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn pageable_bytes(&self) -> usize {
        let hosts = self.kinds.iter().flat_map(|kind| &kind.hosts);
        hosts.map(|host| if host.is_pinned() { 0 } else { host.len() }).sum()
    }

    /// Queues what `work` computes with the layer, behind the copy that brings it and ahead of the one that takes its place.
    pub(crate) fn run<R>(&self, index: usize, work: impl FnOnce(&L) -> Result<R>) -> Result<R> {
        let (kind, layer) = match &self.order[index] {
            Home::Device(layer) => return work(layer),
            Home::Host { kind, layer } => (&self.kinds[*kind], *layer),
        };
        // Held until all is queued: a place has one user.
        let mut ring = kind.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = ring.get_or_insert_with(|| Ring::new(kind.hosts.len(), kind.places.len()));
        let turn = ring.turn(layer);
        let place = &kind.places[turn.place];
        let queue = || {
            if turn.is_fetched {
                self.fetch(&kind.hosts[layer], place)?;
            }
            self.compute.wait(&place.arrived).w()?;
            // Ahead of the work, so that it begins as soon as the place is left.
            turn.ahead.map_or(Ok(()), |(next, to)| self.fetch(&kind.hosts[next], &kind.places[to]))
        };
        if let Err(err) = queue() {
            ring.forget();
            return Err(err);
        }
        let result = work(&place.layer);
        place.left.record(&self.compute).w()?;
        result
    }

    /// Queues the copies that bring a layer into a place, once that is left.
    fn fetch(&self, host: &HostMemory, place: &DevicePlace<L>) -> Result<()> {
        self.copies.wait(&place.left).w()?;
        let mut offset = 0;
        for tensor in tensors(&place.layer) {
            let (address, len) = extent(tensor, &self.copies)?;
            // SAFETY: the tensor is as large as the one that was copied to this part of the host's memory, which is kept
            // until the stream was waited for. Only this list writes to a place, which nothing reads meanwhile: what was
            // computed with it is done, and what will be waits for `arrived`.
            unsafe { result::memcpy_htod_async(address, host.part(offset, len), self.copies.cu_stream()) }.w()?;
            offset += len.next_multiple_of(ALIGNMENT);
        }
        place.arrived.record(&self.copies).w()
    }
}

impl<L> Drop for Streamed<L> {
    fn drop(&mut self) {
        // Copies may be under way from memory that goes, and into it. A device that fails has none.
        let _ = self.copies.synchronize();
    }
}

/// The tensors of a layer, in their order.
fn tensors<L: Parameters>(layer: &L) -> Vec<&Tensor> {
    let mut tensors = Vec::new();
    layer.visit(&mut |tensor| tensors.push(tensor));
    tensors
}

/// Where a tensor lies on the device, and how many bytes it has.
fn extent(tensor: &Tensor, stream: &CudaStream) -> Result<(sys::CUdeviceptr, usize)> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a streamed layer lies on a GPU. This is a bug.") };
    if !layout.is_contiguous() {
        bail!("a streamed layer's tensors have no gaps. Given: {layout:?}. This is a bug.")
    }
    macro_rules! begin {
        ($($variant:ident),*) => {
            match &storage.slice {
                $(CudaStorageSlice::$variant(slice) => slice.device_ptr(stream).0,)*
                _ => bail!("layers of {:?} are not streamed. This is a bug.", tensor.dtype()),
            }
        };
    }
    let begin = begin!(BF16, F16, F32, F8E4M3, U8, U32);
    let size = tensor.dtype().size_in_bytes();
    Ok((begin + (layout.start_offset() * size) as u64, layout.shape().elem_count() * size))
}

/// Bytes of the host, page-locked where the driver gives them: those are copied without a detour, and beside the work.
enum HostMemory {
    Pinned { bytes: *mut u8, len: usize, context: Arc<CudaContext> },
    Pageable(Vec<u8>),
}

// SAFETY: the bytes are owned, and may be read and let go by any thread.
unsafe impl Send for HostMemory {}
// SAFETY: behind a shared reference they are only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// A copy of these tensors, taken once all that is queued is done.
    fn of(tensors: &[&Tensor], compute: &CudaStream) -> Result<Self> {
        let extents = tensors.iter().map(|tensor| extent(tensor, compute)).collect::<Result<Vec<_>>>()?;
        let mut memory =
            HostMemory::new(extents.iter().map(|(_, len)| len.next_multiple_of(ALIGNMENT)).sum(), compute.context())?;
        let mut offset = 0;
        for (address, len) in extents {
            let part = &mut memory.bytes_mut()[offset..offset + len];
            // SAFETY: the tensor has so many bytes, and the stream that wrote it is waited for below before anybody looks.
            unsafe { result::memcpy_dtoh_async(part, address, compute.cu_stream()) }.w()?;
            offset += len.next_multiple_of(ALIGNMENT);
        }
        compute.synchronize().w()?;
        Ok(memory)
    }

    fn new(len: usize, context: &Arc<CudaContext>) -> Result<Self> {
        context.bind_to_thread().w()?;
        // SAFETY: what the driver has left in them is overwritten before anything reads it.
        let pinned = unsafe { result::malloc_host(len.max(1), 0) };
        Ok(match pinned {
            Ok(bytes) => HostMemory::Pinned { bytes: bytes.cast(), len, context: context.clone() },
            Err(_) => HostMemory::Pageable(vec![0; len]),
        })
    }

    fn is_pinned(&self) -> bool {
        matches!(self, HostMemory::Pinned { .. })
    }

    fn len(&self) -> usize {
        match self {
            HostMemory::Pinned { len, .. } => *len,
            HostMemory::Pageable(bytes) => bytes.len(),
        }
    }

    fn part(&self, offset: usize, len: usize) -> &[u8] {
        let bytes = match self {
            // SAFETY: the driver gave so many, all were written, and they are let go with the value.
            HostMemory::Pinned { bytes, len, .. } => unsafe { std::slice::from_raw_parts(*bytes, *len) },
            HostMemory::Pageable(bytes) => bytes,
        };
        &bytes[offset..offset + len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            // SAFETY: as in `part`, and nobody else has a reference.
            HostMemory::Pinned { bytes, len, .. } => unsafe { std::slice::from_raw_parts_mut(*bytes, *len) },
            HostMemory::Pageable(bytes) => bytes,
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let HostMemory::Pinned { bytes, context, .. } = self {
            let bytes: *mut c_void = bytes.cast();
            context.record_err(context.bind_to_thread());
            // SAFETY: the driver gave them, and `Streamed` has waited for the copies that read them.
            context.record_err(unsafe { result::free_host(bytes) });
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::tests::device;
    use super::*;
    use crate::testing::{numbers, randn};
    use crate::{Layers, Linear};

    /// Maps of eight features with a bias: those of even number to eight features, the others to sixteen.
    fn linear(i: usize) -> Result<Linear> {
        let out = if i.is_multiple_of(2) { 8 } else { 16 };
        let of = |tensor: Tensor| tensor.to_device(device()).unwrap();
        Linear::new(&of(randn(i as u64, (out, 8))), Some(&of(randn(100 + i as u64, out))))
    }

    #[test]
    fn streamed_layers_are_those_that_were_loaded_in_whatever_order_they_run() {
        const LAYERS: usize = 9;
        let resident = Layers::resident((0..LAYERS).map(linear).collect::<Result<_>>().unwrap());
        let x = randn(7, (3, 8)).to_device(device()).unwrap();
        let run = |layers: &Layers<Linear>, i| {
            let made = layers.run(i, |layer| layer.forward(&x)).unwrap();
            numbers(&made.to_device(&Device::Cpu).unwrap())
        };
        // None of them resident, every third one, all but one, and all.
        let residents: [fn(usize) -> bool; 4] = [|_| false, |i| i % 3 == 0, |i| i != 4, |_| true];
        for (case, is_resident) in residents.into_iter().enumerate() {
            let streamed = Layers::streamed((0..LAYERS).map(linear), is_resident, device(), |err| err).unwrap();
            assert_eq!((streamed.len(), streamed.as_slice().len(), streamed.pageable_bytes()), (LAYERS, 0, 0));
            let steps = (0..LAYERS).chain(0..LAYERS).chain([0, 1, 0, 1, 8, 0, 3, 3, 7, 2, 5]).chain(0..LAYERS);
            for i in steps {
                assert_eq!(run(&streamed, i), run(&resident, i), "case {case}, layer {i}");
            }
        }
    }

    #[test]
    fn work_that_fails_leaves_its_layer_in_place() {
        let streamed = Layers::streamed((0..5).map(linear), |_| false, device(), |err| err).unwrap();
        let x = randn(7, (3, 8)).to_device(device()).unwrap();
        let made = |i| streamed.run(i, |layer| layer.forward(&x)).map(|made| made.dims2().unwrap());
        assert!(streamed.run(2, |_| -> Result<()> { bail!("interrupted") }).is_err());
        assert_eq!((made(2).unwrap(), made(3).unwrap()), ((3, 8), (3, 16)));
    }
}
