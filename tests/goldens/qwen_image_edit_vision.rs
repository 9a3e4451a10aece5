//! The vision tower of Qwen2.5-VL against transformers, from the recorded patches.

use candle_core::{DType, Device, Tensor};
use models::Precision;
use models::qwen2_5_vl::PatchLayout;

use crate::compare::close;
use crate::qwen_image_edit_encoder::{by_picture, cases, encoder, encoder_in, grids};

#[test]
fn every_block() {
    for golden in cases() {
        let vision = encoder(&golden).vision;
        let layout = PatchLayout::new(vision.config(), &grids(&golden));
        let check = |name: &str, ours: &Tensor, tolerance: f64| {
            close(&format!("{} {name}", golden.case), ours, golden.tensor(name), tolerance);
        };
        let patches = vision.patch_embed(golden.tensor("proc#0.pixel_values")).unwrap();
        check("vision.patch_embed", &patches, 1e-4);
        // transformers records the tables in block order, each angle twice, and the blocks in window order.
        let (cos, sin) = vision.rotary(&layout).unwrap();
        check("vision.rotary.0", &Tensor::cat(&[&cos, &cos], 1).unwrap(), 1e-6);
        check("vision.rotary.1", &Tensor::cat(&[&sin, &sin], 1).unwrap(), 1e-6);
        let rope = (vision.window_order(&cos, &layout).unwrap(), vision.window_order(&sin, &layout).unwrap());
        let mut hidden_states = vision.window_order(&patches, &layout).unwrap();
        for i in 0..vision.config().depth {
            hidden_states = vision.block(i, &hidden_states, &rope, &layout).unwrap();
            check(&format!("vision.blocks.{i}"), &hidden_states, 1e-4);
        }
        check("vision.merger", &vision.merger().forward(&hidden_states).unwrap(), 1e-4);
    }
}

fn check_out(precision: &Precision, tolerance: f64) {
    for golden in cases() {
        let vision = encoder_in(&golden, precision.clone()).vision;
        let ours = vision.forward(golden.tensor("proc#0.pixel_values"), &grids(&golden)).unwrap();
        let what = format!("{} vision.out, {:?} and {:?}", golden.case, precision.weights, precision.activations);
        close(&what, &ours, golden.tensor("vision.out.1"), tolerance);
    }
}

#[test]
fn out() {
    check_out(&Precision::new(DType::F32, Device::Cpu), 1e-4);
}

#[test]
fn out_in_half_precision() {
    check_out(&Precision::new(DType::F16, Device::Cpu), 5e-3);
    check_out(&Precision::new(DType::BF16, Device::Cpu), 4e-2);
    // Like on a GPU, where the activations are rounded too.
    let precision = Precision { weights: DType::BF16, activations: DType::BF16, device: Device::Cpu };
    check_out(&precision, 8e-2);
}

#[test]
fn a_picture_does_not_depend_on_its_company() {
    let golden = cases().into_iter().find(|golden| grids(golden).len() == 2).unwrap();
    let (vision, grids) = (encoder(&golden).vision, grids(&golden));
    let patches = golden.tensor("proc#0.pixel_values");
    let together = by_picture(&vision.forward(patches, &grids).unwrap(), &grids);
    let mut start = 0;
    for (grid, together) in grids.iter().zip(together) {
        let own = patches.narrow(0, start, grid.0 * grid.1).unwrap();
        let alone = vision.forward(&own, &[*grid]).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap(), together.to_vec2::<f32>().unwrap(), "{grid:?}");
        start += grid.0 * grid.1;
    }
}

#[test]
fn patches_that_are_not_those_of_the_grids_are_refused() {
    let golden = &cases()[0];
    let vision = encoder(golden).vision;
    let patches = golden.tensor("proc#0.pixel_values");
    for (wrong, message) in [
        (vec![], "grids must be of whole blocks"),
        (vec![(3, 20)], "grids must be of whole blocks"),
        (vec![(2, 4)], "pixel_values must be [8, 1176]"),
    ] {
        let given = vision.forward(patches, &wrong).unwrap_err().to_string();
        assert!(given.starts_with(message), "{given}");
    }
}
