//! The tensors of a layer.

use candle_core::Tensor;

/// A layer or a part of one, with weights.
pub trait Parameters {
    /// Calls `visit` with each tensor, always in the same order. Layers of one list whose tensors have the same shapes
    /// may share places on a device: see [`crate::Layers`].
    fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p Tensor));
}

impl Parameters for Tensor {
    fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p Tensor)) {
        visit(self);
    }
}

impl<P: Parameters> Parameters for Option<P> {
    fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p Tensor)) {
        self.iter().for_each(|part| part.visit(visit));
    }
}

impl<P: Parameters, Q: Parameters> Parameters for (P, Q) {
    fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p Tensor)) {
        self.0.visit(visit);
        self.1.visit(visit);
    }
}

/// Implements `Parameters`: after `parameters!(Block { attn, mlp })` the weights of a `Block` are those of its fields
/// `attn` and `mlp`.
#[macro_export]
macro_rules! parameters {
    ($layer:ty { $($part:ident),* $(,)? }) => {
        impl $crate::Parameters for $layer {
            fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p candle_core::Tensor)) {
                $($crate::Parameters::visit(&self.$part, visit);)*
            }
        }
    };
}
