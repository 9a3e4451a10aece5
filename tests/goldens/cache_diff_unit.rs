//! The diff that decides a step, on pairs of residuals.

use cache::{CacheConfig, Decision, RequestCache, RowObservation, Segment};
use candle_core::{DType, Device, Tensor};
use kernels::residual_diffs;
use serde::Deserialize;

use crate::compare::goldens;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    dtype: String,
    prev_shape: [usize; 3],
    cur_shape: [usize; 3],
    prev: Vec<f32>,
    cur: Vec<f32>,
    diff: Diff,
    #[serde(rename = "below_0.24")]
    below: bool,
}

/// A number, "inf", or null for NaN.
#[derive(Deserialize)]
#[serde(untagged)]
enum Diff {
    Number(f32),
    Word(String),
    Nan(()),
}

impl Diff {
    fn value(&self) -> f32 {
        match self {
            Diff::Number(value) => *value,
            Diff::Word(word) => word.parse().unwrap(),
            Diff::Nan(()) => f32::NAN,
        }
    }
}

#[test]
fn diffs_and_what_follows_are_the_librarys() {
    let file = std::fs::read(goldens().join("cache/diff_unit.json")).unwrap();
    let cases: Cases = serde_json::from_slice(&file).unwrap();
    assert!(!cases.cases.is_empty());
    for case in &cases.cases {
        let what = format!("{} {}", case.dtype, case.name);
        let (previous, current) = (case.tensor(&case.prev, case.prev_shape), case.tensor(&case.cur, case.cur_shape));
        let mut cache = warm_cache(case.prev_shape[1]);
        let tokens = case.cur_shape[1];
        let residual_diff = cache.needs_diff(0, &[tokens])[0].then(|| {
            let ours = residual_diffs(&[(&current, &previous)]).unwrap()[0];
            case.compare(&what, ours);
            ours
        });
        // cache-dit records -2 for residuals of different shapes and computes; here they are not measured.
        assert_eq!(residual_diff.is_none(), case.diff.value() == -2.0, "{what}");
        let record = cache.decide(0, &[RowObservation { tokens, residual_diff }])[0];
        assert_eq!(matches!(record.decision, Decision::Reuse(_)), case.below, "{what}: {:?}", record.decision);
    }
}

/// Returns a cache with the guide's defaults, after its warm-up of one step.
fn warm_cache(tokens: usize) -> RequestCache {
    let config = CacheConfig { max_warmup_steps: 1, ..CacheConfig::default() };
    let segment = Segment { name: "transformer_blocks", num_blocks: 4 };
    let (mut cache, _) = RequestCache::new(&config, 20, &[segment], 1);
    cache.decide(0, &[RowObservation { tokens, residual_diff: None }]);
    cache
}

impl Case {
    /// `[tokens, dim]` in the case's number format.
    fn tensor(&self, values: &[f32], [_, tokens, dim]: [usize; 3]) -> Tensor {
        let dtype = if self.dtype == "bf16" { DType::BF16 } else { DType::F32 };
        Tensor::from_slice(values, (tokens, dim), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    /// Compares with a tolerance for bf16, in which the library rounds the difference, both means and their quotient to
    /// 8 bits. Here all of them are f32.
    fn compare(&self, what: &str, ours: f32) {
        let theirs = self.diff.value();
        if !theirs.is_finite() {
            assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()), "{what}: {ours}, not {theirs}");
            return;
        }
        let tolerance = if self.dtype == "bf16" { 4.0 / 256.0 } else { 1e-6 };
        let error = (ours - theirs).abs() / theirs.max(f32::MIN_POSITIVE);
        println!("{what}: {ours}, off by {error:.1e}, at most {tolerance:.0e}");
        assert!(error <= tolerance, "{what}: {ours}, not {theirs}");
    }
}
