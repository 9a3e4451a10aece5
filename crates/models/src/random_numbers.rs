//! Random weights for timing a network whose weights are not available.

use std::cell::OnceCell;

use candle_core::{Result, Shape, Tensor};

use crate::noise::randn;
use crate::precision::Precision;

/// Count of the normal numbers. No layer width divides it, so that the rows of a matrix start at different offsets.
const COUNT: usize = (1 << 20) + 7 * 64;

/// Normal numbers on a device, created on first use. Tensors of any size are copied from them on the device: 40 GB of
/// weights take little time and no host memory.
#[derive(Default)]
pub(crate) struct RandomNumbers(OnceCell<Tensor>);

impl RandomNumbers {
    /// Returns a tensor of the weights' type on the device. A matrix has variance `1 / in`, so that a signal keeps its
    /// size through the layers. A vector is positive, as variances must be.
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

/// Repeats a vector to `len` numbers.
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
            // Nor is one row repeated over and over.
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
