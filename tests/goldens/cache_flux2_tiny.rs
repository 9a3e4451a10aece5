//! Whole cached runs of a FLUX.2 transformer of two dual-stream and four single-stream blocks, each kind deciding
//! for itself, alone and with a picture to edit; with a distilled guidance scale, as FLUX.2-dev.

use models::flux2::Transformer;

use crate::cache_tiny::{Family, runs_are_the_librarys};

#[test]
fn flux2_transformer_runs_are_the_librarys() {
    runs_are_the_librarys(Family { name: "flux2_tiny", guidance: Some(4.0) }, Transformer::load);
}
