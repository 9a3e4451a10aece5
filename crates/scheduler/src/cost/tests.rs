//! Predicted times of turns and jobs.

use diffusion::{PreviewTimes, Previews, Work};

use super::Estimate::{AtLeast, Expected};
use super::*;
use crate::config::JobOptions;
use crate::testing::cost;

/// A step of up to 64 tokens takes 1 s, an encoding 3 s, and a decoding 0.25 s per token.
fn model() -> CostModel {
    let mut model = CostModel::default();
    let steps = vec![(16.0, 1.0), (64.0, 1.0), (128.0, 2.0)];
    model.calibrate(&Calibration { steps, encode: vec![(1.0, 3.0)], decode: vec![(1.0, 0.25)], fit: vec![(1.0, 0.5)] });
    model
}

fn job(cost: RequestCost) -> Job {
    Job::new(0, cost, JobOptions::default(), Duration::ZERO)
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

#[test]
fn a_small_picture_takes_longer_alone_than_its_part_of_a_full_device() {
    let small = job(cost(16, 8));
    // 3 s of encoding, 4 s of decoding, and 8 steps of 1 s or of 0.25 s.
    assert_eq!(seconds(model().alone(&small, Expected)), 15.0);
    assert_eq!(seconds(model().work(&small, Expected)), 9.0);
    let encoded = Job { needs: Needs::Step, steps_left: 2, ..small };
    assert_eq!(seconds(model().alone(&encoded, Expected)), 6.0);
    let (whole, left) = model().whole_and_left(&encoded);
    assert_eq!((seconds(whole), seconds(left)), (15.0, 6.0));
}

#[test]
fn a_model_is_corrected_by_what_is_observed() {
    let mut model = model();
    (0..9).for_each(|_| model.observe_step(100.0, Duration::from_secs_f64(2.0 * 1.5625)));
    assert!((model.step(64.0) - 2.0).abs() < 0.02, "works of about this size take twice as long");
    model.observe_encode(1.0, Duration::from_secs(5));
    model.observe_decode(&cost(16, 1), Duration::from_secs(12));
    let all = model.alone(&job(cost(16, 1)), Expected).as_secs_f64();
    assert!((all - (5.0 + 1.0 + 12.0)).abs() < 0.4, "{all}");
}

#[test]
fn what_is_enlarged_takes_longer_and_teaches_what_enlarging_takes() {
    let mut model = model();
    let enlarged = |fit| RequestCost { work: Work { fit, ..cost(16, 8).work }, ..cost(16, 8) };
    let alone = |model: &CostModel, fit| seconds(model.alone(&job(enlarged(fit)), Expected));
    assert_eq!([0.0, 2.0].map(|fit| alone(&model, fit)), [15.0, 16.0]);
    // Decoding and enlarging, 4 s and 2 s, take 1.5 times as long.
    (0..50).for_each(|_| model.observe_decode(&enlarged(4.0), Duration::from_secs(9)));
    assert_eq!([0.0, 4.0].map(|fit| alone(&model, fit)), [17.0, 20.0]);
    let previews = Some(Previews { method: PreviewMethod::Vae, times: PreviewTimes::Interval(2) });
    let previewed = RequestCost { previews, ..enlarged(4.0) };
    assert_eq!(seconds(model.alone(&job(previewed), Expected)), 20.0 + 3.0 * 9.0);
}

#[test]
fn of_what_was_never_seen_only_the_least_is_sure() {
    let mut model = model();
    let alone = |model: &CostModel, cost, estimate| seconds(model.alone(&job(cost), estimate));
    assert_eq!(alone(&model, cost(16, 8), AtLeast), 3.0 + 8.0 + 1.0, "the decoding is 16 times what was measured");
    // 16 times the largest measured step.
    let huge = RequestCost { work: Work { decode: 1.0, ..cost(2048, 1).work }, ..cost(2048, 1) };
    assert_eq!([Expected, AtLeast].map(|estimate| alone(&model, huge, estimate)), [35.25, 11.25]);
    model.observe_step(2048.0, Duration::from_secs(20));
    assert_eq!([Expected, AtLeast].map(|estimate| alone(&model, huge, estimate)), [23.25; 2]);
    // A step cache may reuse everything that it can.
    let cached = RequestCost { least_share: 0.5, kind: 7, work: Work { reused_step: 64.0, ..huge.work }, ..huge };
    assert_eq!(alone(&model, cached, AtLeast), 3.0 + 1.0 + 0.25);
    model.observe_share(&cached, 1.0);
    assert_eq!(alone(&model, cached, AtLeast), 23.25);
    assert_eq!(CostModel::default().alone(&job(huge), AtLeast), Duration::ZERO, "nothing is known at all");
}

#[test]
fn pictures_to_edit_make_an_encoding_longer() {
    let mut model = CostModel::default();
    model.calibrate(&Calibration { encode: vec![(100.0, 1.0)], ..Calibration::default() });
    let edit = |encode| job(RequestCost { work: Work { encode, ..Work::default() }, ..cost(16, 1) });
    assert!((model.before_step(&edit(1000.0)) - 10.0).abs() < 1e-9, "ten times what was measured");
    model.observe_encode(1000.0, Duration::from_secs(30));
    assert!(model.before_step(&edit(1000.0)) > 29.0 && model.before_step(&edit(100.0)) < 1.1);
}

#[test]
fn reuse_makes_a_request_lighter_and_never_lighter_than_it_can_be() {
    let mut model = model();
    let work = Work { step: 128.0, reused_step: 64.0, ..cost(64, 9).work };
    let cached = RequestCost { least_share: 0.5, kind: 7, work, ..cost(64, 9) };
    let load = |model: &CostModel, cost| model.load(&job(cost));
    assert_eq!(load(&model, cached), 128.0);
    model.observe_share(&cached, 0.75);
    assert_eq!(load(&model, cached), 96.0);
    (0..400).for_each(|_| model.observe_share(&cached, 0.1));
    assert_eq!(load(&model, cached), 64.0);
    assert_eq!(load(&model, RequestCost { kind: 8, ..cached }), 128.0);
}

#[test]
fn previews_are_part_of_what_a_job_takes() {
    let mut model = model();
    let with = |method| {
        let previews = Some(Previews { method, times: PreviewTimes::Interval(2) });
        job(RequestCost { previews, ..cost(16, 8) })
    };
    // Three previews, each as long as a decoding.
    let vae = with(PreviewMethod::Vae);
    assert_eq!(seconds(model.alone(&vae, Expected)), 15.0 + 3.0 * 4.0);
    let late = Job { needs: Needs::Preview, steps_left: 4, ..vae };
    assert_eq!(seconds(model.alone(&late, Expected)), 4.0 + 2.0 * 4.0 + 4.0, "that which is due and the last");
    assert_eq!(model.before_step(&late), 4.0);
    let sketched = with(PreviewMethod::Latent2Rgb);
    model.observe_preview(&sketched.cost, Duration::from_secs(1));
    assert_eq!(seconds(model.alone(&sketched, Expected)), 15.0 + 3.0);
    assert_eq!(seconds(model.alone(&vae, Expected)), 27.0, "the other kind is as it was");
    (0..50).for_each(|_| model.observe_preview(&vae.cost, Duration::from_secs(8)));
    assert!(model.alone(&vae, Expected).as_secs_f64() > 42.0);
}

#[test]
fn no_request_is_too_much_to_be_foreseen() {
    let work = Work { step: 1e300, reused_step: 1e300, ..Work::default() };
    let endless = job(RequestCost { work, ..cost(16, 1000) });
    assert_eq!(model().alone(&endless, Expected).as_secs_f64(), 1e9);
}

#[test]
fn nothing_measured_leaves_the_nominal_curve() {
    let mut model = CostModel::default();
    model.calibrate(&Calibration::default());
    assert_eq!(model.step(7e13), 0.2);
    assert!(model.budget() > 5e13);
    assert!(
        model.before_step(&job(RequestCost { work: Work { encode: 7e13, ..Work::default() }, ..cost(16, 1) })) > 0.1
    );
}
