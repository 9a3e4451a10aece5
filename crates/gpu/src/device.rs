//! What is asked of a driver before a device is used, and how the device is set up.

#![expect(unsafe_code, reason = "calls into the driver")]

use std::ffi::c_int;

use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::{CudaDevice, Device};

use crate::{Memory, OLDEST_CAPABILITY, PoolMemory, Unavailable};

pub(crate) fn open(ordinal: usize) -> Result<Device, Unavailable> {
    check_libraries()?;
    check_gpu(ordinal)?;
    let failed = |what: &str, err: &dyn ToString| Unavailable::Failed(format!("{what} failed: {}", line(err)));
    let device = Device::new_cuda_with_stream(ordinal).map_err(|err| failed("setting the GPU up", &err))?;
    let cuda = device.as_cuda_device().map_err(|err| failed("setting the GPU up", &err))?;
    // SAFETY: all work of this device is on its one stream, by the one thread that opened it. Events would only order
    // streams among each other, and cost two of them an allocation.
    unsafe { cuda.disable_event_tracking() };
    keep_memory(ordinal).map_err(|err| failed("asking the GPU to keep memory", &named(err)))?;
    Ok(device)
}

pub(crate) fn memory(device: &CudaDevice) -> Option<Memory> {
    let (free, total) = device.cuda_stream().context().mem_get_info().ok()?;
    Some(Memory { free: free as u64, total: total as u64 })
}

/// The driver and the libraries that are called load. Those of the toolkit's runtime and compiler are not: candle links
/// them for what no model here needs.
fn check_libraries() -> Result<(), Unavailable> {
    #[cfg(lazy_libraries)]
    for library in crate::libraries::LIBRARIES.iter().filter(|library| !matches!(library.name, "cudart" | "nvrtc")) {
        library.load().map_err(|reason| match library.name {
            "cuda" => Unavailable::NoDriver(reason.into()),
            _ => Unavailable::NoLibrary(reason.into()),
        })?;
    }
    Ok(())
}

/// The driver runs, and has a GPU of that number that the kernels are compiled for.
fn check_gpu(ordinal: usize) -> Result<(), Unavailable> {
    let refused = |err: DriverError| Unavailable::Driver(named(err));
    // Without a GPU, initialising is what fails.
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Unavailable::NoSuchGpu(0)),
        initialised => initialised.map_err(refused)?,
    }
    let count = result::device::get_count().map_err(refused)? as usize;
    if ordinal >= count {
        return Err(Unavailable::NoSuchGpu(count));
    }
    let gpu = result::device::get(ordinal as c_int).map_err(refused)?;
    // SAFETY: the driver gave the GPU.
    let attribute = |attribute| unsafe { result::device::get_attribute(gpu, attribute) }.map_err(refused);
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let capability = (attribute(MAJOR)?, attribute(MINOR)?);
    if capability < OLDEST_CAPABILITY {
        let name = result::device::get_name(gpu).map_err(refused)?;
        return Err(Unavailable::TooOld { name, capability });
    }
    Ok(())
}

/// Has the device's pool keep what it was given: by default it goes back to the driver at each synchronisation.
fn keep_memory(ordinal: usize) -> Result<(), DriverError> {
    set_of_pool(ordinal, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)
}

pub(crate) fn pool_memory(device: &CudaDevice) -> Option<PoolMemory> {
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_USED_MEM_CURRENT as HELD, CU_MEMPOOL_ATTR_USED_MEM_HIGH as MOST};
    let ordinal = device.cuda_stream().context().ordinal();
    Some(PoolMemory { held: of_pool(ordinal, HELD).ok()?, most: of_pool(ordinal, MOST).ok()? })
}

pub(crate) fn forget_most(device: &CudaDevice) {
    let ordinal = device.cuda_stream().context().ordinal();
    // The only value it may be set to. A driver that refuses goes on with the most so far.
    let _ = set_of_pool(ordinal, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
}

/// The pool that allocations of the device are made from.
fn pool(ordinal: usize) -> Result<sys::CUmemoryPool, DriverError> {
    let gpu = result::device::get(ordinal as c_int)?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the driver gave the GPU, whose default pool lives as long as it.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, gpu).result() }?;
    Ok(pool)
}

/// Sets an attribute that is a 64-bit number.
fn set_of_pool(ordinal: usize, attribute: sys::CUmemPool_attribute, mut value: u64) -> Result<(), DriverError> {
    // SAFETY: the pool lives as long as the GPU; the attributes that callers name are 64-bit numbers.
    unsafe { sys::cuMemPoolSetAttribute(pool(ordinal)?, attribute, (&raw mut value).cast()).result() }
}

/// An attribute that is a 64-bit number.
fn of_pool(ordinal: usize, attribute: sys::CUmemPool_attribute) -> Result<u64, DriverError> {
    let mut value = 0u64;
    // SAFETY: as above.
    unsafe { sys::cuMemPoolGetAttribute(pool(ordinal)?, attribute, (&raw mut value).cast()).result() }?;
    Ok(value)
}

/// `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub(crate) fn named(err: DriverError) -> String {
    match err.error_string() {
        Ok(words) => format!("{:?} ({})", err.0, words.to_string_lossy()),
        Err(_) => format!("{:?}", err.0),
    }
}

/// The first line: candle's errors may bring a backtrace.
fn line(err: &dyn ToString) -> String {
    err.to_string().lines().next().unwrap_or_default().to_owned()
}
