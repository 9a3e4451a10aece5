//! Whole cached runs of a four-block Qwen-Image transformer, with and without a picture to edit.

use models::qwen_image::Transformer;

use crate::cache_tiny::{Family, runs_are_the_librarys};

#[test]
fn transformer_runs_are_the_librarys() {
    runs_are_the_librarys(Family { name: "qwen_tiny", guidance: None }, Transformer::load);
}
