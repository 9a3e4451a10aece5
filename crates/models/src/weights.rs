//! Safetensors files as the networks want them: by name, shape-checked, in the chosen dtype, and
//! without ever holding more than one tensor twice.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Shape, Tensor};
use kernels::{Conv3x3, Layers, Linear, Parameters};
use sha2::{Digest, Sha256};

use crate::component_bytes::{ComponentBytes, LayerSize};
use crate::error::LoadError;
use crate::precision::{Precision, Quantization};
use crate::random_numbers::RandomNumbers;
use crate::residents::Residents;
use crate::shard::{Shard, TensorInfo, float_type};

/// The tensors of one component.
pub struct Weights {
    source: Source,
    /// The component's only file, or the index of its files.
    named: String,
    precision: Precision,
    quantization: Option<Quantization>,
    /// Where lists of layers are kept in host memory: those of their layers that are not.
    streamed: Option<Residents>,
    total_bytes: usize,
    loaded_bytes: Cell<usize>,
}

/// Where tensors come from.
enum Source {
    Files {
        shards: Vec<Shard>,
        by_name: HashMap<String, (usize, TensorInfo)>,
    },
    /// Whatever is asked for, made up: to time a network without its weights.
    Random(RandomNumbers),
}

/// The list of blocks that runs behind the other, where a transformer has two: blocks are counted through both.
const SINGLE_BLOCKS: &str = "single_transformer_blocks";

/// Bytes of a layer, as it is and with its matrices rounded to a byte a number.
#[derive(Default)]
struct LayerBytes {
    whole: u64,
    rounded: u64,
}

/// Layers of a list.
fn count(layers: &BTreeMap<(&str, usize), LayerBytes>, list: &str) -> usize {
    layers.keys().filter(|(of, _)| *of == list).count()
}

/// The list of layers that a tensor is in, and the layer's number: `transformer_blocks` and 7 of
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
        let source = Source::Files { shards, by_name };
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

    /// Normal numbers in place of every required tensor, and no optional ones: for timing a network whose weights are
    /// not at hand.
    pub fn random(precision: Precision) -> Self {
        let (source, named) = (Source::Random(RandomNumbers::default()), "random weights".to_owned());
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

    /// With the layers of [`Scope::quantized_block`] scopes in these products.
    #[must_use]
    pub fn quantized(self, quantization: Option<Quantization>) -> Self {
        Weights { quantization, ..self }
    }

    /// With lists of layers but for `residents`, and tables that are only looked up, in host memory where there are any: see
    /// [`Layers::streamed`].
    #[must_use]
    pub fn streamed(self, residents: Option<Residents>) -> Self {
        Weights { streamed: residents, ..self }
    }

    /// Without the tensors that are not `needed`, by name: they are not loaded, and do not count as what there is to
    /// load.
    pub(crate) fn only(mut self, needed: impl Fn(&str) -> bool) -> Self {
        if let Source::Files { by_name, .. } = &mut self.source {
            by_name.retain(|name, _| needed(name));
            self.total_bytes = total_bytes(by_name);
        }
        self
    }

    /// The tensors whose names start with `prefix.`; the empty prefix is all of them.
    pub fn scope<'a>(&'a self, prefix: &str, progress: &'a dyn Fn(usize, usize)) -> Scope<'a> {
        Scope { weights: self, prefix: prefix.to_owned(), progress, quantization: None }
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        matches!(&self.source, Source::Files { by_name, .. } if by_name.contains_key(name))
    }

    /// Whether there is a tensor whose name begins with `prefix`.
    fn has_any(&self, prefix: &str) -> bool {
        matches!(&self.source, Source::Files { by_name, .. } if by_name.keys().any(|name| name.starts_with(prefix)))
    }

    /// The float type that most bytes of the files are of.
    pub(crate) fn stored_dtype(&self) -> DType {
        let Source::Files { by_name, .. } = &self.source else { return self.precision.weights };
        let bytes_of = |dtype| {
            let tensors = by_name.values().filter(|(_, info)| float_type(info.dtype) == Some(dtype));
            tensors.map(|(_, info)| info.range.len()).sum::<usize>()
        };
        [DType::F32, DType::F16, DType::BF16].into_iter().max_by_key(|&dtype| bytes_of(dtype)).unwrap_or(DType::F32)
    }

    /// SHA-256 of the names, shapes and first bytes of all tensors, its first half in hexadecimal: models of the same class that
    /// were trained differently differ in nearly every tensor, and nobody wants to read them all to tell.
    pub(crate) fn digest(&self) -> String {
        /// Of each tensor.
        const BYTES: usize = 64;
        let Source::Files { shards, by_name } = &self.source else { return String::new() };
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

    /// The bytes of these tensors once they are loaded.
    pub(crate) fn bytes(&self) -> ComponentBytes {
        let Source::Files { by_name, .. } = &self.source else { return ComponentBytes::default() };
        let mut bytes = ComponentBytes::default();
        let mut layers: BTreeMap<(&str, usize), LayerBytes> = BTreeMap::new();
        for (name, (_, info)) in by_name {
            let numbers = info.shape.iter().product::<usize>() as u64;
            let whole = numbers * self.precision.weights.size_in_bytes() as u64;
            // The modulations of all blocks are computed at once, in their own type, and stay.
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
        // The bytes of a layer tell its kind.
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

    /// Bytes on disk of all tensors that there are to load.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    fn load(&self, name: &str, expected: &Shape, device: &Device) -> Result<Tensor, LoadError> {
        let (shards, by_name) = match &self.source {
            Source::Files { shards, by_name } => (shards, by_name),
            Source::Random(numbers) => {
                // Made on the component's own device, and moved where it is wanted elsewhere.
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

/// A place in the module tree of a checkpoint: loading a network is walking it.
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    progress: &'a dyn Fn(usize, usize),
    quantization: Option<Quantization>,
}

impl<'a> Scope<'a> {
    /// The child `name`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Scope<'a> {
        Scope { prefix: self.path(&name.to_string()), ..*self }
    }

    /// The children `0` to `count - 1` of the child `name`, a list of layers.
    ///
    /// # Errors
    /// The list is longer in the files: a configuration that leaves layers out makes another model.
    pub(crate) fn list(&self, name: &str, count: usize) -> Result<impl Iterator<Item = Scope<'a>>, LoadError> {
        let list = self.pp(name);
        if self.weights.has_any(&format!("{}.", list.path(&count.to_string()))) {
            return Err(LoadError::MoreLayers { file: self.weights.named.clone(), list: list.prefix, count });
        }
        Ok((0..count).map(move |index| list.pp(index)))
    }

    /// The same place, that of block `index` of `num_blocks` of a transformer, from where on linear layers are made in
    /// the products that were asked for ([`Weights::quantized`]).
    pub fn quantized_block(&self, index: usize, num_blocks: usize) -> Scope<'a> {
        let quantization = self.weights.quantization.filter(|format| format.rounds_block(index, num_blocks));
        Scope { prefix: self.prefix.clone(), quantization, ..*self }
    }

    /// The tensor `name`, in the weights' dtype.
    ///
    /// # Errors
    /// It is missing, or has another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, LoadError> {
        self.get_on(shape, name, &self.weights.precision.device)
    }

    /// As [`Scope::get`], of a table whose rows are looked up: in host memory where layers are, for a few rows of it are
    /// asked for at a time.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub(crate) fn lookup_table(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, LoadError> {
        let device = if self.weights.streamed.is_some() { &Device::Cpu } else { &self.weights.precision.device };
        self.get_on(shape, name, device)
    }

    fn get_on(&self, shape: impl Into<Shape>, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        let tensor = self.weights.load(&self.path(name), &shape.into(), device)?;
        (self.progress)(self.weights.loaded_bytes.get(), self.weights.total_bytes());
        Ok(tensor)
    }

    /// A list of layers, behind `before` others of the network, which are loaded one after another: where the operator wants
    /// layers of this network in host memory, each that is to be there is moved before the next.
    ///
    /// # Errors
    /// Those of the layers; the device fails.
    pub(crate) fn layers<L: Parameters>(
        &self,
        before: usize,
        layers: impl Iterator<Item = Result<L, LoadError>>,
    ) -> Result<Layers<L>, LoadError> {
        let Some(residents) = self.weights.streamed else {
            return Ok(Layers::resident(layers.collect::<Result<_, _>>()?));
        };
        let failed = |source| LoadError::Device { file: self.weights.named.clone(), source };
        let is_resident = |index| residents.have(before + index);
        let layers = Layers::streamed(layers, is_resident, &self.weights.precision.device, failed)?;
        if layers.pageable_bytes() > 0 {
            let (file, bytes) = (&self.weights.named, layers.pageable_bytes());
            tracing::warn!(file, bytes, "the driver locks no more of the host's memory: these layers come slowly");
        }
        Ok(layers)
    }

    /// The weight `name` `[width]` of an RMSNorm, in the activations' dtype: a few numbers that must not be
    /// rounded twice.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn norm_weight(&self, width: usize, name: &str) -> Result<Tensor, LoadError> {
        let weight = self.get(width, name)?;
        self.device(weight.to_dtype(self.precision().activations))
    }

    /// Whether the tensor `name` exists.
    pub fn has(&self, name: &str) -> bool {
        self.weights.has(&self.path(name))
    }

    /// `weight` `[out, in]` and `bias` `[out]` as one layer.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn linear(&self, in_features: usize, out_features: usize) -> Result<Linear, LoadError> {
        let (weight, bias) = self.weight_and_bias(in_features, out_features)?;
        self.layer(&[(&weight, Some(&bias))])
    }

    /// `weight` `[out, in]` without a bias.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn linear_no_bias(&self, in_features: usize, out_features: usize) -> Result<Linear, LoadError> {
        let weight = self.get((out_features, in_features), "weight")?;
        self.layer(&[(&weight, None)])
    }

    /// The layers `names`, their outputs side by side, as one: one pass over the input.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn fused_linear(
        &self,
        names: &[&str],
        in_features: usize,
        out_features: &[usize],
        bias: bool,
    ) -> Result<Linear, LoadError> {
        let mut parts = Vec::new();
        for (name, &out) in names.iter().zip(out_features) {
            let scope = self.pp(name);
            let bias = if bias { Some(scope.get(out, "bias")?) } else { None };
            parts.push((scope.get((out, in_features), "weight")?, bias));
        }
        let parts: Vec<_> = parts.iter().map(|(weight, bias)| (weight, bias.as_ref())).collect();
        self.layer(&parts)
    }

    /// Weights `[out, in]` and biases `[out]`, their outputs side by side, as one layer.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn layer(&self, parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Linear, LoadError> {
        self.device(match self.quantization {
            Some(Quantization::Int8) => Linear::int8(parts),
            Some(Quantization::Fp8) => Linear::fp8(parts),
            None => Linear::cat(parts),
        })
    }

    /// A 3x3 convolution; of a causal 3x3x3 one the last temporal slice, which is all of it that
    /// a single frame meets.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn conv3x3(&self, in_channels: usize, out_channels: usize, causal: bool) -> Result<Conv3x3, LoadError> {
        let bias = self.get(out_channels, "bias")?;
        let weight = match causal {
            true => {
                let weight = self.get((out_channels, in_channels, 3, 3, 3), "weight")?;
                self.device(weight.narrow(2, 2, 1).and_then(|slice| slice.squeeze(2)?.contiguous()))?
            }
            false => self.get((out_channels, in_channels, 3, 3), "weight")?,
        };
        self.device(Conv3x3::new(&weight, &bias))
    }

    /// A convolution with a 1x1 kernel of `kernel_dims` dimensions, as the matrix that it is.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn conv1x1(&self, in_channels: usize, out_channels: usize, kernel_dims: usize) -> Result<Linear, LoadError> {
        let shape: Vec<usize> = [vec![out_channels, in_channels], vec![1; kernel_dims]].concat();
        let weight = self.get(shape, "weight")?;
        let bias = self.get(out_channels, "bias")?;
        self.device(weight.reshape((out_channels, in_channels)).and_then(|weight| Linear::new(&weight, Some(&bias))))
    }

    /// The number formats that the layers are loaded with.
    pub fn precision(&self) -> &Precision {
        &self.weights.precision
    }

    /// Names the place of a failure of the tensor library.
    ///
    /// # Errors
    /// The failure.
    pub fn device<T>(&self, result: candle_core::Result<T>) -> Result<T, LoadError> {
        result.map_err(|source| LoadError::Device { file: format!("{} ({})", self.weights.named, self.prefix), source })
    }

    /// `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub(crate) fn weight_and_bias(
        &self,
        in_features: usize,
        out_features: usize,
    ) -> Result<(Tensor, Tensor), LoadError> {
        Ok((self.get((out_features, in_features), "weight")?, self.get(out_features, "bias")?))
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_by_their_names() {
        for (name, layer) in [
            ("transformer_blocks.7.attn.to_out.0.weight", Some(("transformer_blocks", 7))),
            ("single_transformer_blocks.12.attn.to_out.weight", Some(("single_transformer_blocks", 12))),
            ("model.language_model.layers.3.mlp.up_proj.weight", Some(("model.language_model.layers", 3))),
            ("model.visual.blocks.0.norm1.weight", Some(("model.visual.blocks", 0))),
            ("visual.merger.mlp.0.weight", None),
            ("model.embed_tokens.weight", None),
            ("time_text_embed.timestep_embedder.linear_1.bias", None),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
    }
}
