//! Matrix products by cuBLASLt, with bias and GELU in the same pass. The algorithm chosen for a shape is cached,
//! because the heuristic takes longer than queueing a product.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulMatrixScale_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as PrefAttribute, cublasLtMatrixLayout_t, cublasLtReductionScheme_t,
    cudaDataType,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use candle_core::cuda_backend::{WrapErr, gemm_reduced_precision_f32};
use candle_core::{DType, Error, Result, bail};

use super::argument::Address;

/// Workspace of a stream's products, of the size that NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// The largest number of cached plans. If the batch changes at every step, the whole cache is cleared now and then.
const MAX_PLANS: usize = 4096;

/// cuBLASLt on one stream.
pub(super) struct Lt {
    handle: cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    stream: Arc<CudaStream>,
    plans: RefCell<Plans>,
}

/// Plans by product, and by whether it has a bias and scales. `None` if the library cannot compute the product.
type Plans = HashMap<(Product, [bool; 2]), Option<Plan>>;

/// The key of a choice: `[m, k]` rows times the transpose of the `[n, k]` weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) numbers: Numbers,
    pub(super) gelu: bool,
}

/// The types of a product's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    /// The type of rows and weight: bf16, f32, or e4m3, which is stored in tensors of bytes.
    pub(super) operands: DType,
    /// The type of the result and of the bias, bf16 or f32.
    pub(super) out: DType,
}

/// Addresses of a product's operands.
pub(super) struct Operands<'t> {
    pub(super) x: Address<'t>,
    pub(super) weight: Address<'t>,
    pub(super) bias: Option<Address<'t>>,
    /// For e4m3 numbers: f32 scales of each output and of each row.
    pub(super) scales: Option<[Address<'t>; 2]>,
    pub(super) out: Address<'t>,
}

impl Lt {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        // SAFETY: the workspace needs no initial contents.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.w()?;
        Ok(Lt {
            handle: result::create_handle().map_err(failed)?,
            workspace,
            stream: stream.clone(),
            plans: RefCell::default(),
        })
    }

    /// Queues the product. Returns false if the library cannot compute it.
    pub(super) fn multiply(&self, product: Product, operands: &Operands<'_>) -> Result<bool> {
        let mut plans = self.plans.borrow_mut();
        let key = (product, [operands.bias.is_some(), operands.scales.is_some()]);
        if !plans.contains_key(&key) {
            if plans.len() >= MAX_PLANS {
                plans.clear();
            }
            plans.insert(key, Plan::new(self.handle, product, operands)?);
        }
        let Some(Some(plan)) = plans.get(&key) else { return Ok(false) };
        plan.desc.set_addresses(operands)?;
        let (workspace, _written) = self.workspace.device_ptr(&self.stream);
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the layouts are those of the operands, which `Linear` has checked against `product`. The workspace
        // has the size given to the plan. Everything is queued on the stream that frees the memory.
        unsafe {
            result::matmul(
                self.handle,
                plan.desc.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                operands.weight.as_ptr(),
                plan.weight.0,
                operands.x.as_ptr(),
                plan.x.0,
                operands.out.as_ptr(),
                plan.out.0,
                operands.out.as_ptr(),
                plan.out.0,
                &raw const plan.algo,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(failed)?;
        Ok(true)
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: the handle was made by `new`, and dropping plans does not need it. After a failure the handle lives
        // until the process ends.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A product as the library describes it, and the algorithm. The library's matrices are column-major: it computes the
/// `[n, m]` transpose from the transposed weight and the rows.
struct Plan {
    desc: Desc,
    weight: Layout,
    x: Layout,
    out: Layout,
    algo: cublasLtMatmulAlgo_t,
}

impl Plan {
    /// `None` if the library cannot compute the product.
    fn new(handle: cublasLtHandle_t, product: Product, operands: &Operands<'_>) -> Result<Option<Self>> {
        let Product { m, n, k, numbers, gelu } = product;
        let desc = Desc::new(numbers.operands)?;
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &1i32)?;
        let epilogue = match (operands.bias.is_some(), gelu) {
            (false, false) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            (true, true) => cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        // A library or a GPU without scales per row and per output cannot compute the product.
        if operands.scales.is_some() && desc.set_scale_modes().is_err() {
            return Ok(None);
        }
        desc.set_addresses(operands)?;
        let (of_operands, of_out) = (data_type(numbers.operands)?, data_type(numbers.out)?);
        let weight = Layout::new(of_operands, k, n)?;
        let (x, out) = (Layout::new(of_operands, k, m)?, Layout::new(of_out, n, m)?);
        let preference = Preference::new()?;
        preference.set(PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        // Partial sums of a split-k product are added in f32.
        let scheme = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(PrefAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &scheme)?;
        // Operands may be views, which start at multiples of 16 bytes.
        preference.set(PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &16u32)?;
        preference.set(PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &16u32)?;
        // SAFETY: all descriptors are alive.
        let heuristic =
            unsafe { result::get_matmul_algo_heuristic(handle, desc.0, weight.0, x.0, out.0, out.0, preference.0) };
        let Ok(heuristic) = heuristic else { return Ok(None) };
        Ok(Some(Plan { desc, weight, x, out, algo: heuristic.algo }))
    }
}

fn data_type(dtype: DType) -> Result<cudaDataType> {
    match dtype {
        DType::BF16 => Ok(cudaDataType::CUDA_R_16BF),
        DType::F32 => Ok(cudaDataType::CUDA_R_32F),
        DType::F8E4M3 => Ok(cudaDataType::CUDA_R_8F_E4M3),
        _ => bail!("no products of {dtype:?}. This is a bug."),
    }
}

fn failed(err: CublasError) -> Error {
    Error::msg(format!("cuBLASLt: {err}")).bt()
}

/// An owned handle of the library.
macro_rules! owned {
    ($name:ident, $handle:ty, $destroy:path) => {
        struct $name($handle);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle was made by `new` and is destroyed only here. After a failure it lives until the
                // process ends.
                let _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

owned!(Desc, cublasLtMatmulDesc_t, result::destroy_matmul_desc);
owned!(Layout, cublasLtMatrixLayout_t, result::destroy_matrix_layout);
owned!(Preference, cublasLtMatmulPreference_t, result::destroy_matmul_pref);

impl Desc {
    /// Sums are f32. Products of f32 numbers use TF32 if candle is configured for it.
    fn new(dtype: DType) -> Result<Self> {
        let compute = match dtype == DType::F32 && gemm_reduced_precision_f32() {
            true => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        Ok(Desc(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F).map_err(failed)?))
    }

    /// Sets one scale per output of the weight, and one per row.
    fn set_scale_modes(&self) -> Result<()> {
        let vector = cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        self.set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &vector)?;
        self.set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &vector)
    }

    fn set_addresses(&self, operands: &Operands<'_>) -> Result<()> {
        let set = |attribute, address: Address<'_>| self.set(attribute, &address.as_ptr::<c_void>());
        if let Some(bias) = operands.bias {
            set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        if let Some([of_outputs, of_rows]) = operands.scales {
            set(DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_outputs)?;
            set(DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_rows)?;
        }
        Ok(())
    }

    fn set<T>(&self, attribute: DescAttribute, value: &T) -> Result<()> {
        // SAFETY: each attribute gets a value of the type that the library's header declares.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>()) }
            .map_err(failed)
    }
}

impl Layout {
    /// The layout of a matrix whose columns have no gaps.
    fn new(number: cudaDataType, rows: usize, columns: usize) -> Result<Self> {
        Ok(Layout(result::create_matrix_layout(number, rows as u64, columns as u64, rows as i64).map_err(failed)?))
    }
}

impl Preference {
    fn new() -> Result<Self> {
        Ok(Preference(result::create_matmul_pref().map_err(failed)?))
    }

    fn set<T>(&self, attribute: PrefAttribute, value: &T) -> Result<()> {
        // SAFETY: as in `Desc::set`.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>()) }
            .map_err(failed)
    }
}
