//! Maps of the same input, multiplied together.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use crate::Linear;

/// Affine maps of the same input and of the same sizes, such as the modulations of a transformer's blocks.
///
/// In host memory each map is a [`Linear`] of its own, multiplied in its turn. On any other device the weights are
/// stacked in one allocation, and neighbouring maps are one product.
#[derive(Debug)]
pub struct LinearStack {
    /// The number of maps that there will be.
    capacity: usize,
    maps: Maps,
}

/// The maps' outputs, one after another.
pub type ForwardInTurn<'a> = Box<dyn Iterator<Item = Result<Tensor>> + 'a>;

#[derive(Debug)]
enum Maps {
    Apart(Vec<Linear>),
    /// `[capacity * out, in]` and `[capacity * out]`, of which the first `len` maps are filled.
    Stacked {
        weight: Tensor,
        bias: Option<Tensor>,
        len: usize,
    },
}

impl LinearStack {
    /// Makes an empty stack with room for `capacity` maps.
    pub fn with_capacity(capacity: usize) -> Self {
        LinearStack { capacity, maps: Maps::Apart(Vec::new()) }
    }

    /// Adds a map of an `[out, in]` weight and an `[out]` bias. Either every map has a bias or none has.
    ///
    /// # Errors
    /// The stack is full, or a shape or a type does not fit.
    pub fn push(&mut self, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
        if self.len() == self.capacity {
            bail!("the stack has room for {} maps, and was given another. This is a bug.", self.capacity)
        }
        if weight.device().is_cpu() {
            return self.push_apart(Linear::new(weight, bias)?);
        }
        if self.is_empty() {
            self.maps = Maps::stacked(self.capacity, weight, bias)?;
        }
        let Maps::Stacked { weight: weights, bias: biases, len } = &mut self.maps else {
            bail!("maps must all lie on the device of the first")
        };
        let out_features = weights.dims()[0] / self.capacity;
        if biases.is_some() != bias.is_some() || weight.dims() != [out_features, weights.dims()[1]] {
            bail!("weights must all be {:?} with a bias, or all without. Given: {:?}", weights.dims(), weight.dims())
        }
        weights.slice_set(&weight.contiguous()?, 0, *len * out_features)?;
        if let (Some(biases), Some(bias)) = (biases, bias) {
            biases.slice_set(&bias.to_dtype(biases.dtype())?.contiguous()?, 0, *len * out_features)?;
        }
        *len += 1;
        Ok(())
    }

    fn push_apart(&mut self, map: Linear) -> Result<()> {
        let Maps::Apart(maps) = &mut self.maps else { bail!("maps must all lie on the device of the first") };
        let sizes = |map: &Linear| (map.in_features(), map.out_features());
        if let Some(first) = maps.first().filter(|first| sizes(first) != sizes(&map)) {
            bail!("maps must all be (in, out) {:?}. Given: {:?}", sizes(first), sizes(&map))
        }
        maps.push(map);
        Ok(())
    }

    /// The number of maps.
    pub fn len(&self) -> usize {
        match &self.maps {
            Maps::Apart(maps) => maps.len(),
            Maps::Stacked { len, .. } => *len,
        }
    }

    /// Whether the stack has no map.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies each of `maps` to `x`, in order: `[rows, in]` to `[rows, out]`. An output may be columns of a wider
    /// matrix.
    ///
    /// # Errors
    /// `maps` is out of range, or `x` has another width.
    pub fn forward<'a>(&'a self, x: &'a Tensor, maps: Range<usize>) -> Result<ForwardInTurn<'a>> {
        if maps.start > maps.end || maps.end > self.len() {
            bail!("maps must be among the {} that there are. Given: {maps:?}", self.len())
        }
        match &self.maps {
            Maps::Apart(all) => Ok(Box::new(all[maps].iter().map(|map| map.forward(x)))),
            Maps::Stacked { .. } if maps.is_empty() => Ok(Box::new(std::iter::empty())),
            Maps::Stacked { weight, bias, .. } => {
                let out_features = weight.dims()[0] / self.capacity;
                let part = |of: &Tensor| of.narrow(0, maps.start * out_features, maps.len() * out_features);
                let bias = bias.as_ref().map(part).transpose()?;
                let products = Linear::new(&part(weight)?, bias.as_ref())?.forward(x)?;
                let columns = (0..maps.len()).map(move |map| map * out_features);
                Ok(Box::new(columns.map(move |column| products.narrow(1, column, out_features))))
            }
        }
    }
}

impl Maps {
    /// Allocates room for `capacity` maps of the sizes of this one.
    fn stacked(capacity: usize, weight: &Tensor, bias: Option<&Tensor>) -> Result<Maps> {
        let (out_features, in_features) = weight.dims2()?;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, weight.dtype(), weight.device());
        let rows = capacity * out_features;
        let bias = bias.map(|_| zeros(&[rows])).transpose()?;
        Ok(Maps::Stacked { weight: zeros(&[rows, in_features])?, bias, len: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{numbers, randn};

    fn stack(maps: &[(Tensor, Option<Tensor>)]) -> LinearStack {
        let mut stack = LinearStack::with_capacity(maps.len());
        maps.iter().for_each(|(weight, bias)| stack.push(weight, bias.as_ref()).unwrap());
        stack
    }

    fn maps(num: u64) -> Vec<(Tensor, Option<Tensor>)> {
        (0..num).map(|i| (randn(2 * i, (20, 12)), Some(randn(2 * i + 1, 20)))).collect()
    }

    #[test]
    fn products_are_those_of_each_map_alone_to_the_bit() {
        let (maps, x) = (maps(4), randn(9, (3, 12)));
        let stack = stack(&maps);
        let given: Vec<_> = stack.forward(&x, 1..3).unwrap().map(Result::unwrap).collect();
        assert_eq!(given.len(), 2);
        for (given, (weight, bias)) in given.iter().zip(&maps[1..]) {
            let alone = Linear::new(weight, bias.as_ref()).unwrap().forward(&x).unwrap();
            assert_eq!(numbers(given), numbers(&alone));
        }
        assert_eq!(stack.forward(&x, 2..2).unwrap().count(), 0);
    }

    #[test]
    fn errors_name_what_was_given() {
        let (maps, x) = (maps(2), randn(9, (3, 12)));
        let mut full = stack(&maps);
        let message = full.forward(&x, 1..3).err().unwrap().to_string();
        assert!(message.starts_with("maps must be among the 2 that there are. Given: 1..3"), "{message}");
        assert!(full.push(&maps[0].0, None).unwrap_err().to_string().contains("room for 2 maps"));
        let mut stack = LinearStack::with_capacity(2);
        stack.push(&maps[0].0, None).unwrap();
        let message = stack.push(&randn(1, (20, 13)), None).unwrap_err().to_string();
        assert!(message.starts_with("maps must all be (in, out) (12, 20). Given: (13, 20)"), "{message}");
    }
}
