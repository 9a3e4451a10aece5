//! Safetensors weights for the networks: looked up by name, shape-checked and converted to the chosen dtype. At most
//! one tensor is in memory twice at a time.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Shape, Tensor};
use sha2::{Digest, Sha256};

use crate::component_bytes::{ComponentBytes, LayerSize};
use crate::error::LoadError;
use crate::precision::{Precision, Quantization};
use crate::random_numbers::RandomNumbers;
use crate::residents::Residents;
use crate::shard::{Shard, TensorInfo, float_type};

/// The tensors of one component.
pub struct Weights {
    source: WeightSource,
    /// The component's only file, or the index of its files.
    pub(crate) named: String,
    pub(crate) precision: Precision,
    pub(crate) quantization: Option<Quantization>,
    /// Layers that stay on the device, if lists of layers are streamed from host memory.
    pub(crate) streamed: Option<Residents>,
    total_bytes: usize,
    pub(crate) loaded_bytes: Cell<usize>,
}

/// Source of the tensors.
enum WeightSource {
    Files {
        shards: Vec<Shard>,
        by_name: HashMap<String, (usize, TensorInfo)>,
    },
    /// Random numbers for every requested tensor, to time a network without its weights.
    Random(RandomNumbers),
}

/// The second list of blocks in transformers that have two. Block indices count through both lists.
const SINGLE_BLOCKS: &str = "single_transformer_blocks";

/// Bytes of a layer, as it is and with its matrices rounded to one byte per number.
#[derive(Default)]
struct LayerBytes {
    whole: u64,
    rounded: u64,
}

/// Counts the layers of a list.
fn count(layers: &BTreeMap<(&str, usize), LayerBytes>, list: &str) -> usize {
    layers.keys().filter(|(of, _)| *of == list).count()
}

/// Returns the list and the index of the layer that holds a tensor: `transformer_blocks` and 7 for
/// `transformer_blocks.7.attn.norm_q.weight`.
fn layer_of(name: &str) -> Option<(&str, usize)> {
    let lists = ["layers.", "blocks."].iter().filter_map(|list| Some(name.find(list)? + list.len()));
    let (list, rest) = name.split_at(lists.min()?);
    let layer = rest.split('.').next()?.parse().ok()?;
    Some((list.trim_end_matches('.'), layer))
}

fn total_bytes(by_name: &HashMap<String, (usize, TensorInfo)>) -> usize {
    by_name.values().map(|(_, info)| info.range.len()).sum()
}

impl Weights {
    pub(crate) fn new(shards: Vec<Shard>, named: String, precision: Precision) -> Self {
        let tensors = shards.iter().enumerate();
        let by_name: HashMap<_, _> = tensors
            .flat_map(|(i, shard)| shard.tensors.iter().map(move |(name, info)| (name.clone(), (i, info.clone()))))
            .collect();
        let total_bytes = total_bytes(&by_name);
        let source = WeightSource::Files { shards, by_name };
        Weights {
            source,
            total_bytes,
            named,
            precision,
            quantization: None,
            streamed: None,
            loaded_bytes: Cell::new(0),
        }
    }

    /// Creates random weights: normal numbers for every required tensor, and no optional tensors. They serve to time a
    /// network whose weights are not available.
    pub fn random(precision: Precision) -> Self {
        let (source, named) = (WeightSource::Random(RandomNumbers::default()), "random weights".to_owned());
        Weights {
            source,
            total_bytes: 0,
            named,
            precision,
            quantization: None,
            streamed: None,
            loaded_bytes: Cell::new(0),
        }
    }

    /// Quantizes the layers that are loaded from [`crate::Scope::quantized_block`] scopes.
    #[must_use]
    pub fn quantized(self, quantization: Option<Quantization>) -> Self {
        Weights { quantization, ..self }
    }

    /// Keeps lists of layers except `residents`, and lookup tables, in host memory if `residents` is set: see
    /// [`kernels::Layers::streamed`].
    #[must_use]
    pub fn streamed(self, residents: Option<Residents>) -> Self {
        Weights { streamed: residents, ..self }
    }

    /// Keeps only the tensors that are `needed`, by name. The others do not count in the total bytes.
    pub(crate) fn only(mut self, needed: impl Fn(&str) -> bool) -> Self {
        if let WeightSource::Files { by_name, .. } = &mut self.source {
            by_name.retain(|name, _| needed(name));
            self.total_bytes = total_bytes(by_name);
        }
        self
    }

    /// Whether there is a tensor named `name`.
    pub fn has(&self, name: &str) -> bool {
        matches!(&self.source, WeightSource::Files { by_name, .. } if by_name.contains_key(name))
    }

    /// Whether there is a tensor whose name starts with `prefix`.
    pub(crate) fn has_any(&self, prefix: &str) -> bool {
        matches!(&self.source, WeightSource::Files { by_name, .. } if by_name.keys().any(|name| name.starts_with(prefix)))
    }

    /// Returns the float type in which most bytes of the files are stored.
    pub(crate) fn stored_dtype(&self) -> DType {
        let WeightSource::Files { by_name, .. } = &self.source else { return self.precision.weights };
        let bytes_of = |dtype| {
            let tensors = by_name.values().filter(|(_, info)| float_type(info.dtype) == Some(dtype));
            tensors.map(|(_, info)| info.range.len()).sum::<usize>()
        };
        [DType::F32, DType::F16, DType::BF16].into_iter().max_by_key(|&dtype| bytes_of(dtype)).unwrap_or(DType::F32)
    }

    /// Returns the first half of the SHA-256 of the names, shapes and first bytes of all tensors, in hexadecimal.
    /// Models of one class that were trained differently differ in nearly every tensor, so hashing whole tensors is not
    /// needed.
    pub(crate) fn digest(&self) -> String {
        /// Bytes hashed of each tensor.
        const BYTES: usize = 64;
        let WeightSource::Files { shards, by_name } = &self.source else { return String::new() };
        let mut tensors: Vec<_> = by_name.iter().collect();
        tensors.sort_by_key(|(name, _)| *name);
        let mut hasher = Sha256::new();
        for (name, (shard, info)) in tensors {
            hasher.update(format!("{name} {:?} {:?} ", info.dtype, info.shape));
            let range = info.range.start..info.range.end.min(info.range.start + BYTES);
            hasher.update(&shards[*shard].bytes.as_slice()[range]);
        }
        hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the bytes of these tensors in memory.
    pub(crate) fn bytes(&self) -> ComponentBytes {
        let WeightSource::Files { by_name, .. } = &self.source else { return ComponentBytes::default() };
        let mut bytes = ComponentBytes::default();
        let mut layers: BTreeMap<(&str, usize), LayerBytes> = BTreeMap::new();
        for (name, (_, info)) in by_name {
            let numbers = info.shape.iter().product::<usize>() as u64;
            let whole = numbers * self.precision.weights.size_in_bytes() as u64;
            // The modulations of all blocks are computed at once in their own type, and stay on the device.
            match layer_of(name).filter(|_| !name.contains("_mod.")) {
                Some(layer) => {
                    let layer = layers.entry(layer).or_default();
                    layer.whole += whole;
                    layer.rounded += if info.shape.len() > 1 { numbers } else { whole };
                }
                None => bytes.all += whole,
            }
            if layer_of(name).is_none() && name.ends_with("embed_tokens.weight") {
                bytes.tables += whole;
            }
        }
        let num_blocks = layers.len();
        let is_rounded = |list: &str, layer: usize| {
            let first = if list == SINGLE_BLOCKS { num_blocks - count(&layers, list) } else { 0 };
            self.quantization.is_some_and(|format| format.rounds_block(first + layer, num_blocks))
        };
        // Layers of the same size are of the same kind.
        let mut kinds: Vec<(&str, u64)> = Vec::new();
        let mut in_order: Vec<_> = layers.iter().collect();
        in_order.sort_by_key(|((list, layer), _)| (*list == SINGLE_BLOCKS, *list, *layer));
        for (&(list, layer), size) in in_order {
            let size = if is_rounded(list, layer) { size.rounded } else { size.whole };
            let known = kinds.iter().position(|kind| *kind == (list, size));
            let kind = known.unwrap_or_else(|| {
                kinds.push((list, size));
                kinds.len() - 1
            });
            bytes.layers.push(LayerSize { kind, bytes: size });
            bytes.all += size;
        }
        bytes
    }

    /// Returns the bytes on disk of all tensors to load.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    pub(crate) fn load(&self, name: &str, expected: &Shape, device: &Device) -> Result<Tensor, LoadError> {
        let (shards, by_name) = match &self.source {
            WeightSource::Files { shards, by_name } => (shards, by_name),
            WeightSource::Random(numbers) => {
                // Generated on the component's own device, then moved to the requested one.
                let made = numbers.tensor(&self.precision, expected).and_then(|tensor| tensor.to_device(device));
                return made.map_err(|source| LoadError::Device { file: self.named.clone(), source });
            }
        };
        let Some((shard, info)) = by_name.get(name) else {
            return Err(LoadError::MissingTensor { file: self.named.clone(), tensor: name.into() });
        };
        let shard = &shards[*shard];
        if info.shape != expected.dims() {
            return Err(LoadError::Misshapen {
                file: shard.file.clone(),
                tensor: name.into(),
                given: info.shape.clone().into(),
                expected: expected.clone(),
            });
        }
        let Some(dtype) = float_type(info.dtype) else {
            let (file, dtype) = (shard.file.clone(), format!("{:?}", info.dtype));
            return Err(LoadError::NumberFormat { file, tensor: name.into(), dtype });
        };
        let bytes = &shard.bytes.as_slice()[info.range.clone()];
        let tensor = Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(self.precision.weights))
            .and_then(|tensor| tensor.to_device(device))
            .map_err(|source| LoadError::Device { file: shard.file.clone(), source })?;
        shard.bytes.release(&info.range);
        self.loaded_bytes.set(self.loaded_bytes.get() + info.range.len());
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests;
