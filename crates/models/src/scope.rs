//! The tensors of one module: names below a prefix, read as the layers that a network asks for.

use candle_core::{Device, Shape, Tensor};
use kernels::{Conv3x3, Layers, Linear, Parameters};

use crate::error::LoadError;
use crate::precision::{Precision, Quantization};
use crate::weights::Weights;

impl Weights {
    /// Returns the scope of tensors whose names start with `prefix.`; an empty prefix selects all tensors.
    pub fn scope<'a>(&'a self, prefix: &str, progress: &'a dyn Fn(usize, usize)) -> Scope<'a> {
        Scope { weights: self, prefix: prefix.to_owned(), progress, quantization: None }
    }
}

/// A place in the module tree of a checkpoint. Networks are loaded by walking the tree.
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    progress: &'a dyn Fn(usize, usize),
    quantization: Option<Quantization>,
}

impl<'a> Scope<'a> {
    /// Returns the child `name`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Scope<'a> {
        Scope { prefix: self.path(&name.to_string()), ..*self }
    }

    /// Returns the children `0` to `count - 1` of the child `name`, a list of layers.
    ///
    /// # Errors
    /// The files hold more layers: a configuration that leaves layers out describes another model.
    pub(crate) fn list(&self, name: &str, count: usize) -> Result<impl Iterator<Item = Scope<'a>>, LoadError> {
        let list = self.pp(name);
        if self.weights.has_any(&format!("{}.", list.path(&count.to_string()))) {
            return Err(LoadError::MoreLayers { file: self.weights.named.clone(), list: list.prefix, count });
        }
        Ok((0..count).map(move |index| list.pp(index)))
    }

    /// Returns the same place as block `index` of a transformer of `num_blocks`. Linear layers loaded below it are
    /// quantized as [`Weights::quantized`] was told.
    pub fn quantized_block(&self, index: usize, num_blocks: usize) -> Scope<'a> {
        let quantization = self.weights.quantization.filter(|format| format.rounds_block(index, num_blocks));
        Scope { prefix: self.prefix.clone(), quantization, ..*self }
    }

    /// Loads the tensor `name`, in the weights' dtype.
    ///
    /// # Errors
    /// The tensor is missing, or has another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, LoadError> {
        self.get_on(shape, name, &self.weights.precision.device)
    }

    /// Loads a lookup table like [`Scope::get`]. It stays in host memory if the layers do, since only a few of its rows
    /// are read at a time.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
    pub(crate) fn lookup_table(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor, LoadError> {
        let device = if self.weights.streamed.is_some() { &Device::Cpu } else { &self.weights.precision.device };
        self.get_on(shape, name, device)
    }

    fn get_on(&self, shape: impl Into<Shape>, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        let tensor = self.weights.load(&self.path(name), &shape.into(), device)?;
        (self.progress)(self.weights.loaded_bytes.get(), self.weights.total_bytes());
        Ok(tensor)
    }

    /// Loads a list of layers one after another; `before` other layers of the network precede it. If the network is
    /// streamed, each streamed layer is moved to host memory before the next one is loaded.
    ///
    /// # Errors
    /// A layer fails to load, or the device fails.
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
            tracing::warn!(file, bytes, "the driver cannot lock more host memory: these layers are copied slowly");
        }
        Ok(layers)
    }

    /// Loads the weight `name` `[width]` of an RMSNorm in the activations' dtype, so that it is not rounded twice.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
    pub fn norm_weight(&self, width: usize, name: &str) -> Result<Tensor, LoadError> {
        let weight = self.get(width, name)?;
        self.device(weight.to_dtype(self.precision().activations))
    }

    /// Whether the tensor `name` exists.
    pub fn has(&self, name: &str) -> bool {
        self.weights.has(&self.path(name))
    }

    /// Loads `weight` `[out, in]` and `bias` `[out]` as one layer.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
    pub fn linear(&self, in_features: usize, out_features: usize) -> Result<Linear, LoadError> {
        let (weight, bias) = self.weight_and_bias(in_features, out_features)?;
        self.layer(&[(&weight, Some(&bias))])
    }

    /// Loads `weight` `[out, in]` without a bias.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
    pub fn linear_no_bias(&self, in_features: usize, out_features: usize) -> Result<Linear, LoadError> {
        let weight = self.get((out_features, in_features), "weight")?;
        self.layer(&[(&weight, None)])
    }

    /// Loads the layers `names` as one layer with concatenated outputs, which reads the input once.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
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

    /// Makes one layer of weights `[out, in]` and biases `[out]`, with concatenated outputs.
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

    /// Loads a 3x3 convolution. Of a causal 3x3x3 convolution it takes the last temporal slice, the only one that
    /// affects a single frame.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
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

    /// Loads a convolution with a 1x1 kernel of `kernel_dims` dimensions as a matrix.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
    pub fn conv1x1(&self, in_channels: usize, out_channels: usize, kernel_dims: usize) -> Result<Linear, LoadError> {
        let shape: Vec<usize> = [vec![out_channels, in_channels], vec![1; kernel_dims]].concat();
        let weight = self.get(shape, "weight")?;
        let bias = self.get(out_channels, "bias")?;
        self.device(weight.reshape((out_channels, in_channels)).and_then(|weight| Linear::new(&weight, Some(&bias))))
    }

    /// Returns the number formats with which layers are loaded.
    pub fn precision(&self) -> &Precision {
        &self.weights.precision
    }

    /// Adds the place of loading to an error of the tensor library.
    ///
    /// # Errors
    /// The error that was given.
    pub fn device<T>(&self, result: candle_core::Result<T>) -> Result<T, LoadError> {
        result.map_err(|source| LoadError::Device { file: format!("{} ({})", self.weights.named, self.prefix), source })
    }

    /// Loads `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// # Errors
    /// The same as [`Scope::get`].
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
