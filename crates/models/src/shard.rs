//! One safetensors file, memory-mapped or embedded: its parsed header and checked tensor offsets.
#![allow(unsafe_code, reason = "memory maps")]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use candle_core::DType;
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, SafeTensors};

use crate::error::LoadError;

/// One safetensors file.
pub(crate) struct Shard {
    pub(crate) file: String,
    pub(crate) bytes: Bytes,
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

pub(crate) enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

#[derive(Clone)]
pub(crate) struct TensorInfo {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Range of the tensor in the file's bytes.
    pub(crate) range: Range<usize>,
}

impl Shard {
    /// Memory-maps the file `path`; error messages call it `file`.
    pub(crate) fn map(file: &str, path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { file: file.into(), source };
        let handle = File::open(path).map_err(io)?;
        // SAFETY: the map is only ever read. Another process that shortens the checkpoint during loading would cause a
        // fault here, as in every safetensors reader.
        let map = unsafe { Mmap::map(&handle) }.map_err(io)?;
        Shard::parse(file, Bytes::Mapped(map))
    }

    /// Reads a file that is embedded in the program.
    pub(crate) fn embedded(file: &str, bytes: &'static [u8]) -> Result<Self, LoadError> {
        Shard::parse(file, Bytes::Embedded(bytes))
    }

    fn parse(file: &str, bytes: Bytes) -> Result<Self, LoadError> {
        let damaged = |reason: String| LoadError::Damaged { file: file.into(), reason };
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(bytes.as_slice()).map_err(|err| damaged(err.to_string()))?;
        let data_start = header_bytes + size_of::<u64>();
        let mut tensors = Vec::new();
        for (name, info) in metadata.tensors() {
            let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            if range.end > bytes.as_slice().len() {
                let have = bytes.as_slice().len();
                return Err(damaged(format!("its header asks for {} bytes or more, it has {have}", range.end)));
            }
            tensors.push((name, TensorInfo { dtype: info.dtype, shape: info.shape.clone(), range }));
        }
        Ok(Shard { file: file.into(), bytes, tensors })
    }

    /// Refuses weights of fewer than two bytes per number (fp8 and quantized checkpoints) before anything is loaded.
    ///
    /// # Errors
    /// There is such a weight.
    pub(crate) fn check_formats(&self) -> Result<(), LoadError> {
        let is_weight = |name: &str, info: &TensorInfo| name.ends_with("weight") && info.shape.len() > 1;
        let quantized = |(name, info): &&(String, TensorInfo)| is_weight(name, info) && info.dtype.bitsize() < 16;
        match self.tensors.iter().find(quantized) {
            None => Ok(()),
            Some((name, info)) => {
                let method = format!("tensor `{name}` is {:?}", info.dtype);
                Err(LoadError::Quantized { file: self.file.clone(), method })
            }
        }
    }
}

impl Bytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }

    /// Drops the pages of `range` from memory, so that data copied out of the map does not stay resident beside the
    /// copy.
    pub(crate) fn release(&self, range: &Range<usize>) {
        let Bytes::Mapped(map) = self else { return };
        // The call needs an aligned start, so only whole pages are dropped. The pages at either end may hold parts of
        // tensors not yet read.
        const PAGE: usize = 4096;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if start < end {
            // SAFETY: the map is private to this process, read-only and backed by a file:
            // dropped pages are read from the file again when touched.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

/// Converts a supported weight format to candle's type.
pub(crate) fn float_type(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}
