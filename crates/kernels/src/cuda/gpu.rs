//! The kernels of a device: loading, lookup by name (both once), and launch.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaStream, LaunchConfig};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{CudaDevice, DType, Device, Result, Shape, Tensor, bail};

use super::argument::Argument;
use super::lt::Lt;

/// The modules with their names: compiled files of `cuda/`.
macro_rules! modules {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")) as &[u8])),*]
    };
}

static MODULES: [(&str, &[u8]); 10] = modules![
    "attention_mma",
    "attention_tiled",
    "conv_mma",
    "conv_tiled",
    "elementwise",
    "fp8",
    "group_norm",
    "norm",
    "qkv",
    "step"
];

/// Shared memory per block that needs no function attribute.
const SHARED_BYTES: u32 = 48 << 10;

/// A kernel that exists for each float type: `name` plus a suffix, in the module `module`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kernel {
    pub(super) module: &'static str,
    pub(super) name: &'static str,
}

/// A device with its loaded kernels, as used by one thread.
pub(super) struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: RefCell<HashMap<(Kernel, DType), CudaFunction>>,
    lt: OnceCell<Lt>,
    /// Major and minor compute capability.
    pub(super) capability: (i32, i32),
}

thread_local! {
    /// Devices by GPU number. A reopened device replaces the previous one, whose memory is freed.
    static GPUS: RefCell<HashMap<usize, (DeviceId, Rc<Gpu>)>> = RefCell::default();
}

/// The kernels of the device of `tensor`, loaded at this thread's first call.
pub(super) fn gpu(tensor: &Tensor) -> Result<Rc<Gpu>> {
    let Device::Cuda(device) = tensor.device() else { bail!("the tensor must lie on a CUDA device. This is a bug.") };
    let ordinal = device.cuda_stream().context().ordinal();
    GPUS.with_borrow_mut(|gpus| match gpus.get(&ordinal) {
        Some((id, gpu)) if *id == device.id() => Ok(gpu.clone()),
        _ => {
            let gpu = Rc::new(Gpu::new(device)?);
            gpus.insert(ordinal, (device.id(), gpu.clone()));
            Ok(gpu)
        }
    })
}

/// Drops this thread's cached state of a device.
pub(crate) fn forget(device: &Device) {
    if let Device::Cuda(device) = device {
        let ordinal = device.cuda_stream().context().ordinal();
        // Dropped after the borrow of the list ends, because the drop calls the driver.
        let forgotten = GPUS.with_borrow_mut(|gpus| gpus.remove(&ordinal));
        drop(forgotten);
    }
}

/// Whether kernels exist for numbers of this type.
pub(super) fn is_served(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F32)
}

impl Gpu {
    fn new(device: &CudaDevice) -> Result<Gpu> {
        let stream = device.cuda_stream();
        let load = |(name, image): &(&'static str, &[u8])| {
            Ok((*name, stream.context().load_module(Ptx::from_binary(image.to_vec())).w()?))
        };
        let modules = MODULES.iter().map(load).collect::<Result<_>>()?;
        let capability = stream.context().compute_capability().w()?;
        let (device, functions, lt) = (device.clone(), RefCell::default(), OnceCell::new());
        Ok(Gpu { device, stream, modules, functions, lt, capability })
    }

    /// The matrix products, initialised at the first use.
    pub(super) fn lt(&self) -> Result<&Lt> {
        if let Some(lt) = self.lt.get() {
            return Ok(lt);
        }
        let lt = Lt::new(&self.stream)?;
        Ok(self.lt.get_or_init(|| lt))
    }

    /// Allocates a tensor for a kernel to fill.
    pub(super) fn output(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: every caller passes the tensor to a launch that writes all of it, or reads back only what was
        // written.
        unsafe { Tensor::empty(shape, dtype, &Device::Cuda(self.device.clone())) }
    }

    /// Launches the kernel for numbers of `dtype`.
    pub(super) fn launch(
        &self,
        kernel: Kernel,
        dtype: DType,
        config: LaunchConfig,
        args: &[&dyn Argument],
    ) -> Result<()> {
        let function = self.function(kernel, dtype, config.shared_mem_bytes)?;
        let mut builder = self.stream.launch_builder(&function);
        for arg in args {
            arg.push(&mut builder);
        }
        // SAFETY: the callers, one next to each kernel's declaration, pass the arguments that the kernel declares, of
        // tensors whose shapes they have checked. The tensors are borrowed until the launch is queued. The same stream
        // frees their memory, so not before the kernel has run.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    fn function(&self, kernel: Kernel, dtype: DType, shared_bytes: u32) -> Result<CudaFunction> {
        let mut functions = self.functions.borrow_mut();
        if let Some(function) = functions.get(&(kernel, dtype)) {
            return Ok(function.clone());
        }
        let name = format!("{}_{}", kernel.name, dtype.as_str());
        let Some(module) = self.modules.get(kernel.module) else {
            bail!("no module {}. This is a bug.", kernel.module)
        };
        let function = module.load_function(&name).w()?;
        if shared_bytes > SHARED_BYTES {
            function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes as i32).w()?;
        }
        functions.insert((kernel, dtype), function.clone());
        Ok(function)
    }
}

/// The launch configuration of a grid of blocks with `threads` each.
pub(super) fn grid(blocks: (usize, usize, usize), threads: (usize, usize), shared_bytes: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks.0 as u32, blocks.1 as u32, blocks.2 as u32),
        block_dim: (threads.0 as u32, threads.1 as u32, 1),
        shared_mem_bytes: shared_bytes as u32,
    }
}
