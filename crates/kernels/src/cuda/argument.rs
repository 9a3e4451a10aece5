//! Arguments of a kernel launch.

use std::marker::PhantomData;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchArgs, PushKernelArg};
use candle_core::{Result, Storage, Tensor, bail};
use half::bf16;

/// A number, an address, or a structure of them with the C layout on both sides.
pub(super) trait Argument {
    /// Adds the value to the arguments of a launch.
    fn push<'a>(&'a self, builder: &mut LaunchArgs<'a>);
}

/// Implements [`Argument`] for types that may be copied to the device byte by byte.
macro_rules! argument {
    ($($type:ty),*) => {$(
        impl $crate::cuda::argument::Argument for $type {
            fn push<'a>(&'a self, builder: &mut candle_core::cuda_backend::cudarc::driver::LaunchArgs<'a>) {
                candle_core::cuda_backend::cudarc::driver::PushKernelArg::arg(builder, self);
            }
        }
    )*};
}
pub(super) use argument;

argument!(i32, i64, f32);

/// The address of a tensor's first number on the device, or null.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Address<'t>(u64, PhantomData<&'t Tensor>);

impl Argument for Address<'_> {
    fn push<'a>(&'a self, builder: &mut LaunchArgs<'a>) {
        builder.arg(&self.0);
    }
}

impl<'t> Address<'t> {
    pub(super) const NULL: Address<'static> = Address(0, PhantomData);

    /// The address of the first number of `tensor`. The caller is responsible for its layout.
    pub(super) fn of(tensor: &'t Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { bail!("the tensor must lie on a CUDA device. This is a bug.") };
        let stream = storage.device.cuda_stream();
        // `device_ptr` also returns a guard that orders the streams of a device. There is only one stream.
        let begin = match &storage.slice {
            CudaStorageSlice::BF16(slice) => DevicePtr::<bf16>::device_ptr(slice, &stream).0,
            CudaStorageSlice::F32(slice) => DevicePtr::<f32>::device_ptr(slice, &stream).0,
            CudaStorageSlice::U8(slice) => DevicePtr::<u8>::device_ptr(slice, &stream).0,
            CudaStorageSlice::U32(slice) => DevicePtr::<u32>::device_ptr(slice, &stream).0,
            _ => bail!("kernels do not take {:?}. This is a bug.", tensor.dtype()),
        };
        Ok(Address(begin + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64, PhantomData))
    }

    /// The address of `tensor`, or null for `None`.
    pub(super) fn or_null(tensor: Option<&'t Tensor>) -> Result<Self> {
        tensor.map_or(Ok(Address::NULL), Address::of)
    }

    pub(super) fn as_ptr<T>(self) -> *mut T {
        self.0 as *mut T
    }
}
