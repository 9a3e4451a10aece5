//! Checks of the driver before a device is used, and the setup of the device.

#![expect(unsafe_code, reason = "calls into the driver")]

use std::ffi::c_int;

use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::{CudaDevice, Device};

use crate::{Gpu, Memory, OLDEST_CAPABILITY, PoolMemory, Unavailable};

pub(crate) fn open(ordinal: usize) -> Result<Device, Unavailable> {
    check_libraries()?;
    check_gpu(ordinal)?;
    renew(ordinal).map_err(|err| Unavailable::Driver(named(err)))?;
    let failed = |what: &str, err: &dyn ToString| Unavailable::Failed(format!("{what} failed: {}", line(err)));
    let device = Device::new_cuda_with_stream(ordinal).map_err(|err| failed("setting the GPU up", &err))?;
    let cuda = device.as_cuda_device().map_err(|err| failed("setting the GPU up", &err))?;
    // SAFETY: all work of this device is on its single stream, by the thread that opened it. Events would only order
    // streams among each other, and cost two events per allocation.
    unsafe { cuda.disable_event_tracking() };
    keep_memory(ordinal).map_err(|err| failed("asking the GPU to keep memory", &named(err)))?;
    Ok(device)
}

pub(crate) fn memory(device: &CudaDevice) -> Option<Memory> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let (free, total) = context.mem_get_info().ok()?;
    Some(Memory { free: free as u64 + unused(context.ordinal()).unwrap_or(0), total: total as u64 })
}

pub(crate) fn describe(device: &CudaDevice) -> Option<Gpu> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let (name, capability) = (context.name().ok()?, context.compute_capability().ok()?);
    Some(Gpu { name, capability, memory: memory(device)?.total })
}

pub(crate) fn is_lost(device: &CudaDevice) -> bool {
    // Asks the context, not the stream. cudarc reports a recorded earlier failure only once, so it is cleared first.
    let stream = device.cuda_stream();
    let _ = stream.context().check_err();
    stream.context().synchronize().is_err()
}

/// Resets the context of a GPU if it answers every call with an error, as it does once a kernel has broken it. NVIDIA's
/// documentation has the process end. A reset of the primary context is tried first. It affects only this process's use
/// of this GPU: workers on other GPUs do not notice. Nothing of the broken context may be used afterwards.
fn renew(ordinal: usize) -> Result<(), DriverError> {
    let gpu = result::device::get(ordinal as c_int)?;
    let (mut flags, mut is_active) = (0, 0);
    // SAFETY: the driver returned the GPU, and both pointers are to numbers of this function.
    unsafe { sys::cuDevicePrimaryCtxGetState(gpu, &mut flags, &mut is_active) }.result()?;
    if is_active == 0 || answers(gpu).is_ok() {
        return Ok(());
    }
    // SAFETY: the driver returned the GPU. The only worker that used its context has dropped everything that it made
    // there.
    unsafe {
        sys::cuDevicePrimaryCtxReset_v2(gpu).result()?;
        // This thread's context was the old one.
        result::ctx::set_current(std::ptr::null_mut())
    }
}

/// Waits for all queued work of a GPU's context.
fn answers(gpu: sys::CUdevice) -> Result<(), DriverError> {
    // SAFETY: the driver returned the GPU, and the context is retained while it is used.
    unsafe {
        let context = result::primary_ctx::retain(gpu)?;
        let answer = result::ctx::set_current(context).and_then(|()| result::ctx::synchronize());
        result::primary_ctx::release(gpu).and(answer)
    }
}

/// Checks that the driver and the libraries in use load. The toolkit's runtime and compiler are not checked: candle
/// links them for operations that no model here needs.
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

/// Checks that the driver runs and has GPU number `ordinal`, and that the kernels are compiled for it.
fn check_gpu(ordinal: usize) -> Result<(), Unavailable> {
    let refused = |err: DriverError| Unavailable::Driver(named(err));
    // Without a GPU, initialisation fails.
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Unavailable::NoSuchGpu(0)),
        initialised => initialised.map_err(refused)?,
    }
    let count = result::device::get_count().map_err(refused)? as usize;
    if ordinal >= count {
        return Err(Unavailable::NoSuchGpu(count));
    }
    let gpu = result::device::get(ordinal as c_int).map_err(refused)?;
    // SAFETY: the driver returned the GPU.
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

/// Bytes that the device's pool has and nobody uses.
fn unused(ordinal: usize) -> Result<u64, DriverError> {
    use sys::CUmemPool_attribute::{
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT as RESERVED, CU_MEMPOOL_ATTR_USED_MEM_CURRENT as USED,
    };
    Ok(of_pool(ordinal, RESERVED)?.saturating_sub(of_pool(ordinal, USED)?))
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

/// The name and the text of an error, such as `CUDA_ERROR_OUT_OF_MEMORY (out of memory)`.
pub(crate) fn named(err: DriverError) -> String {
    match err.error_string() {
        Ok(words) => format!("{:?} ({})", err.0, words.to_string_lossy()),
        Err(_) => format!("{:?}", err.0),
    }
}

/// The first line of an error. candle's errors may include a backtrace.
fn line(err: &dyn ToString) -> String {
    err.to_string().lines().next().unwrap_or_default().to_owned()
}
