//! In place of `avx2` on other processors: the same names, none of which can be called, since
//! there is no [`Avx2`] to call them with.

/// The proof that this processor has AVX2: there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Avx2 {}

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        None
    }
}

pub(crate) mod attention {
    use super::Avx2;
    use crate::RowLayout;
    use crate::attention::Stream;
    use crate::causal::Causal;

    pub(crate) fn joint(avx2: Avx2, _: [Stream<'_>; 2], _: &[(&[f32], &[f32])], _: usize, _: f64) -> [Vec<f32>; 2] {
        match avx2 {}
    }

    pub(crate) fn plain(avx2: Avx2, _: &[f32], _: &[f32], _: &[f32], _: usize, _: usize) -> Vec<f32> {
        match avx2 {}
    }

    pub(crate) fn causal(avx2: Avx2, _: Causal<'_>) -> Vec<f32> {
        match avx2 {}
    }

    pub(crate) fn rotary_rows(
        avx2: Avx2,
        _: &[f32],
        _: (&[f32], &[f32]),
        _: &RowLayout,
        _: usize,
        _: usize,
    ) -> Vec<f32> {
        match avx2 {}
    }
}

pub(crate) mod conv {
    use super::Avx2;
    use crate::conv::Input;

    #[derive(Clone, Debug)]
    pub(crate) enum Packed {}

    impl Packed {
        pub(crate) fn new(avx2: Avx2, _: &[f32], _: &[f32], _: usize) -> Packed {
            match avx2 {}
        }

        pub(crate) fn unpack(&self) -> (Vec<f32>, Vec<f32>) {
            match *self {}
        }

        pub(crate) fn in_channels(&self) -> usize {
            match *self {}
        }

        pub(crate) fn out_channels(&self) -> usize {
            match *self {}
        }

        pub(crate) fn forward(&self, _: &[f32], _: (usize, usize), _: Input<'_>, _: Option<&[f32]>) -> Vec<f32> {
            match *self {}
        }

        pub(crate) fn forward_stride2(&self, _: &[f32], _: (usize, usize)) -> Vec<f32> {
            match *self {}
        }
    }
}

pub(crate) mod group_norm {
    use super::Avx2;
    use crate::group_norm::Affine;

    pub(crate) fn affine(avx2: Avx2, _: &[f32], _: (&[f32], &[f32]), _: usize, _: f64) -> Affine {
        match avx2 {}
    }

    pub(crate) fn apply(avx2: Avx2, _: &[f32], _: &Affine, _: bool) -> Vec<f32> {
        match avx2 {}
    }
}

pub(crate) mod linear {
    use candle_core::{Result, Tensor};

    use super::Avx2;
    use crate::linear::Epilogue;

    #[derive(Clone, Debug)]
    pub(crate) enum Packed {}

    impl Packed {
        pub(crate) fn new(avx2: Avx2, _: &[Tensor], _: &[f32]) -> Result<Option<Packed>> {
            match avx2 {}
        }

        pub(crate) fn in_features(&self) -> usize {
            match *self {}
        }

        pub(crate) fn out_features(&self) -> usize {
            match *self {}
        }

        pub(crate) fn unpack(&self) -> Result<(Tensor, Tensor)> {
            match *self {}
        }

        pub(crate) fn forward(&self, _: &[f32], _: Epilogue<'_>) -> Vec<f32> {
            match *self {}
        }
    }
}

pub(crate) mod norm {
    use super::Avx2;
    use crate::RowLayout;
    use crate::dispatch::RowVectors;

    pub(crate) fn modulated_layer_norm(
        avx2: Avx2,
        _: &[f32],
        _: usize,
        _: (&RowVectors<'_>, &RowVectors<'_>),
        _: &RowLayout,
        _: f64,
    ) -> Vec<f32> {
        match avx2 {}
    }

    pub(crate) fn rms_norm(avx2: Avx2, _: &[f32], _: &[f32], _: f64) -> Vec<f32> {
        match avx2 {}
    }

    pub(crate) fn channel_norm(avx2: Avx2, _: &[f32], _: &[f32]) -> Vec<f32> {
        match avx2 {}
    }

    pub(crate) fn swiglu(avx2: Avx2, _: &[f32], _: usize) -> Vec<f32> {
        match avx2 {}
    }
}

pub(crate) mod step {
    use super::Avx2;

    pub(crate) fn abs_sums(avx2: Avx2, _: &[f32], _: &[f32]) -> (f64, f64) {
        match avx2 {}
    }

    pub(crate) fn add_weighted(avx2: Avx2, _: &[f32], _: &[(f32, &[f32])]) -> Vec<f32> {
        match avx2 {}
    }
}
