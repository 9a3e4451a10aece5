//! Conversion between tensors in host memory and plain numbers.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, StorageRef, Tensor};

use crate::check_interrupt;

/// The numbers of a contiguous f32 tensor in host memory.
pub(super) struct F32<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> F32<'a> {
    /// `None` for another device or type, or if the tensor is not contiguous.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let (start, end) = layout.contiguous_offsets()?;
        matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(F32 { storage, range: start..end })
    }
}

impl std::ops::Deref for F32<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.range.clone()],
            _ => unreachable!("F32::of checks the type"),
        }
    }
}

/// One f32 vector per row, `[num_rows, dim]`, possibly columns of a wider matrix.
pub(crate) struct RowVectors<'a> {
    storage: StorageRef<'a>,
    start: usize,
    stride: usize,
    num_rows: usize,
    dim: usize,
}

impl<'a> RowVectors<'a> {
    /// `None` for another device or type, or if the elements of a vector are not adjacent.
    pub(super) fn of(vectors: &'a Tensor) -> Option<Self> {
        let (storage, layout) = vectors.storage_and_layout();
        let (&[num_rows, dim], &[stride, 1]) = (layout.dims(), layout.stride()) else { return None };
        let start = layout.start_offset();
        matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(RowVectors {
            storage,
            start,
            stride,
            num_rows,
            dim,
        })
    }

    /// All numbers from the first vector on. Vector `row` begins at `row * stride()`.
    pub(super) fn as_slice(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) if self.num_rows > 0 => {
                &numbers[self.start..self.start + (self.num_rows - 1) * self.stride + self.dim]
            }
            _ => &[],
        }
    }

    /// The distance from one vector to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// The tensor converted to contiguous f32.
pub(super) fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)?.contiguous()
}

/// Makes a tensor in host memory of the `numbers` of a kernel.
///
/// # Errors
/// The kernel was interrupted, and the numbers are incomplete or missing.
pub(super) fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    check_interrupt()?;
    Tensor::from_vec(numbers, shape.into(), &Device::Cpu)
}
