//! Numbers in place of weights that are not at hand, for timing a network.

use std::cell::OnceCell;

use candle_core::{Result, Shape, Tensor};

use crate::noise::randn;
use crate::precision::Precision;

/// How many normal numbers there are. No width of a layer divides it, so that a matrix's rows begin at many places of them.
const COUNT: usize = (1 << 20) + 7 * 64;

/// Some normal numbers on a device, once they were asked for, of which tensors of any size are made there: 40 GB of them
/// take little time, and none of the host's memory.
#[derive(Default)]
pub(crate) struct RandomNumbers(OnceCell<Tensor>);

impl RandomNumbers {
    /// A tensor of the weights' type on the device. A matrix is of variance `1 / in`, so that a signal keeps its size on its
    /// way through the layers; the numbers of a vector are positive, as variances must be.
    pub(crate) fn tensor(&self, precision: &Precision, shape: &Shape) -> Result<Tensor> {
        let numbers = self.on(precision)?.narrow(0, 0, COUNT.min(shape.elem_count()))?;
        let inputs = shape.dims().iter().skip(1).product::<usize>().max(1) as f64;
        let numbers = if shape.rank() == 1 { numbers.abs()? } else { (numbers * inputs.powf(-0.5))? };
        let numbers = numbers.to_dtype(precision.weights)?;
        repeated(&numbers, shape.elem_count())?.reshape(shape)
    }

    fn on(&self, precision: &Precision) -> Result<Tensor> {
        if let Some(numbers) = self.0.get() {
            return Ok(numbers.clone());
        }
        let numbers = Tensor::from_vec(randn(0, COUNT), COUNT, &precision.device)?;
        Ok(self.0.get_or_init(|| numbers).clone())
    }
}

/// A vector over and over, `len` numbers in all.
fn repeated(numbers: &Tensor, len: usize) -> Result<Tensor> {
    let (whole, rest) = (len / numbers.elem_count(), len % numbers.elem_count());
    let mut pieces = vec![numbers.clone(); whole];
    if rest > 0 {
        pieces.push(numbers.narrow(0, 0, rest)?);
    }
    Tensor::cat(&pieces, 0)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn tensors_of_any_size_are_normal_numbers() {
        let precision = Precision::new(DType::F32, Device::Cpu);
        let random = RandomNumbers::default();
        for shape in [Shape::from((3, 5)), (COUNT, 2).into(), (700, 16, 3, 3, 3).into()] {
            let numbers = random.tensor(&precision, &shape).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers.len(), shape.elem_count());
            let inputs = shape.dims()[1..].iter().product::<usize>() as f32;
            let variance = numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32;
            assert!((variance * inputs - 1.0).abs() < if numbers.len() < 100 { 0.8 } else { 0.05 }, "{shape:?}");
            // Neither is it one row over and over.
            assert_ne!(numbers[..3], numbers[numbers.len() - 3..]);
        }
        let vector = random.tensor(&precision, &40.into()).unwrap().to_vec1::<f32>().unwrap();
        assert!(vector.iter().all(|x| *x > 0.0), "{vector:?}");
    }

    #[test]
    fn a_piece_is_taken_to_its_end_and_again() {
        let numbers = Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap();
        for (len, expected) in [
            (3, &[1f32, 2.0, 3.0][..]),
            (6, &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
            (7, &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]),
        ] {
            assert_eq!(repeated(&numbers, len).unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
}
