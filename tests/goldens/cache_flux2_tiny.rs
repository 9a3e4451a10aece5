//! Whole cached runs of a FLUX.2 transformer of two dual-stream and four single-stream blocks. Each segment decides for
//! itself. Runs with and without a picture to edit, and with a distilled guidance scale like FLUX.2-dev.

use models::flux2::Transformer;

use crate::cache_tiny::{Family, runs_are_the_librarys};

#[test]
fn flux2_transformer_runs_are_the_librarys() {
    runs_are_the_librarys(Family { name: "flux2_tiny", guidance: Some(4.0) }, Transformer::load);
}
