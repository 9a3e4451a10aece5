//! The cache of one (request, CFG branch, segment): its clock, its counters and its forecasts.

use std::sync::Arc;

use crate::forecast::Forecast;
use crate::rules::{Counters, Rules};
use crate::{CacheConfig, Decision, Reason, RefreshPolicy, StepMask, Stream, TaylorSeer};

/// Decides for each step whether the middle blocks run, and gives the weights of the stored residuals if they do not.
///
/// A step takes two calls, so that a forced step reads nothing from the device. [`forced`](Self::forced) tells whether
/// a rule other than the diff decides the step, and [`decide`](Self::decide) decides it and advances the clock.
///
/// The caller holds the residuals, newest first. After a computed step it inserts the new one at the front and drops
/// all but the first [`keep`](Self::keep). After a reused step it sums what it holds with [`weights`](Self::weights).
/// The diff is always taken against the first-blocks residual of the last *computed* step, which a reused step leaves
/// unchanged.
#[derive(Clone, Debug)]
pub struct StepCache {
    rules: Rules,
    counters: Counters,
    refresh: Refresh,
    /// The forecasts before the first step, restored by a refresh.
    initial: Forecasts,
    forecasts: Forecasts,
    /// The noise levels of the request's steps, if forecasts use them.
    levels: Option<Arc<[f64]>>,
}

#[derive(Clone, Debug)]
struct Forecasts {
    hidden: Forecast,
    encoder: Forecast,
}

/// When the whole state is dropped.
#[derive(Clone, Debug)]
struct Refresh {
    /// Number of steps before a refresh.
    hint: Option<usize>,
    policy: RefreshPolicy,
}

impl StepCache {
    /// The state before the first of `num_inference_steps` steps, in the `segment`th segment.
    pub fn new(config: &CacheConfig, mask: Option<StepMask>, num_inference_steps: usize, segment: usize) -> Self {
        let forecasts = Forecasts::new(config);
        StepCache {
            rules: Rules::new(config, mask, num_inference_steps, segment),
            counters: Counters::default(),
            refresh: Refresh { hint: config.force_refresh_step_hint, policy: config.force_refresh_step_policy },
            initial: forecasts.clone(),
            forecasts,
            levels: None,
        }
    }

    /// Makes the forecasts use these noise levels in place of the step index.
    pub(crate) fn by_levels(self, levels: Arc<[f64]>) -> Self {
        StepCache { levels: Some(levels), ..self }
    }

    /// The decision of the next step of a row of `tokens` tokens if it does not depend on its diff.
    pub fn forced(&self, tokens: usize) -> Option<Decision> {
        let reason = match self.refreshes() {
            true => self.rules.forced(&self.counters.refreshed(), tokens),
            false => self.rules.forced(&self.counters, tokens),
        };
        reason.map(Reason::decision)
    }

    /// Decides the next step of a row of `tokens` tokens and advances to the step after it. `residual_diff` is ignored
    /// if [`forced`](Self::forced) decides the step.
    ///
    /// # Panics
    /// If the step needs a diff and has none.
    pub fn decide(&mut self, tokens: usize, residual_diff: Option<f32>) -> Decision {
        let decision = self.judge(tokens, residual_diff);
        self.advance(decision, residual_diff, tokens);
        decision
    }

    /// The decision of the next step, without advancing.
    pub(crate) fn judge(&self, tokens: usize, residual_diff: Option<f32>) -> Decision {
        self.forced(tokens).unwrap_or_else(|| {
            let diff = residual_diff.expect("a step that nothing forces comes with its diff. This is a bug.");
            self.rules.by_diff(diff).decision()
        })
    }

    /// Takes the next step with this decision, its own or one that overrules it. The diff counts only if the step was
    /// not forced.
    pub(crate) fn advance(&mut self, decision: Decision, residual_diff: Option<f32>, tokens: usize) {
        let measured = residual_diff.filter(|_| self.forced(tokens).is_none());
        if self.refreshes() {
            if self.refresh.policy == RefreshPolicy::Once {
                self.refresh.hint = None;
            }
            self.counters = self.counters.refreshed();
            self.forecasts = self.initial.clone();
        }
        self.forecasts.tick(self.position());
        if !decision.reused() {
            let stored_tokens = self.counters.stored_tokens;
            self.forecasts.store(stored_tokens.is_some_and(|stored| stored != tokens));
        }
        self.counters.advance(decision, measured, tokens);
    }

    /// After a reused step: the weights of the stream's stored residuals, newest first. Their weighted sum is the
    /// forecast for that step.
    pub fn weights(&self, stream: Stream) -> Vec<f64> {
        self.forecasts.of(stream).weights()
    }

    /// After a computed step: the number of the stream's residuals to keep, including that step's own, the newest.
    pub fn keep(&self, stream: Stream) -> usize {
        self.forecasts.of(stream).keep()
    }

    /// The position of the next step for forecasts.
    fn position(&self) -> f64 {
        let step = self.counters.request_step;
        self.levels.as_ref().and_then(|levels| levels.get(step)).copied().unwrap_or(step as f64)
    }

    /// Whether the state is reset before the next step.
    fn refreshes(&self) -> bool {
        self.refresh.hint == Some(self.counters.step)
    }
}

impl Forecasts {
    fn new(config: &CacheConfig) -> Self {
        let forecast = |stream| match config.taylorseer_enabled(stream) {
            true => Forecast::TaylorSeer(TaylorSeer::new(config.taylorseer_order)),
            false => Forecast::Reuse,
        };
        Forecasts { hidden: forecast(Stream::Hidden), encoder: forecast(Stream::Encoder) }
    }

    fn of(&self, stream: Stream) -> &Forecast {
        match stream {
            Stream::Hidden => &self.hidden,
            Stream::Encoder => &self.encoder,
        }
    }

    fn tick(&mut self, position: f64) {
        self.hidden.tick(position);
        self.encoder.tick(position);
    }

    /// The text stream's length is constant over a request, so only the hidden stream's series ends when the shape
    /// changes.
    fn store(&mut self, shape_changed: bool) {
        if shape_changed {
            self.hidden.restart();
        }
        self.hidden.store();
        self.encoder.store();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: usize = 64;

    fn config(json: &str) -> CacheConfig {
        serde_json::from_str(json).unwrap()
    }

    fn cache(config: &CacheConfig, steps: usize) -> StepCache {
        let mask = config.steps_computation_mask.as_ref().map(|source| source.mask(steps).unwrap());
        StepCache::new(config, mask, steps, 0)
    }

    fn letter(decision: Decision) -> char {
        match decision.reason() {
            Reason::Warmup => 'W',
            Reason::Mask => 'M',
            Reason::LastStep => 'E',
            Reason::StaticMask => '_',
            Reason::MaxCachedSteps => 'X',
            Reason::MaxContinuousCachedSteps => 'L',
            Reason::AccumulatedDiff => 'A',
            Reason::ZeroThreshold => 'Z',
            Reason::NothingStored => 'N',
            Reason::ShapeChanged => 'S',
            Reason::AlwaysSimilar => ':',
            Reason::Similar => '.',
            Reason::Different => 'D',
            Reason::OtherBranch => 'O',
            Reason::OffCourse | Reason::Plan | Reason::PlanSkips => unreachable!("that is said of plans alone"),
        }
    }

    /// Simulates one diff per step and returns one letter per step, see [`letter`].
    fn play(json: &str, diffs: &[f32]) -> String {
        let mut cache = cache(&config(json), diffs.len());
        diffs.iter().map(|&diff| letter(cache.decide(TOKENS, Some(diff)))).collect()
    }

    #[test]
    fn the_timeline_at_the_crates_head_is_true() {
        let diffs = [0.0, 0.0, 0.0, 0.0, 0.06, 0.12, 0.18, 0.0, 0.06, 0.12, 0.31, 0.07, 0.14, 0.21];
        assert_eq!(play("{}", &diffs), "WWWW...L..D...");
    }

    #[test]
    fn the_warmup_computes_then_the_threshold_decides() {
        assert_eq!(play(r#"{"max_warmup_steps": 2}"#, &[0.0, 0.0, 0.1, 0.3, 0.1]), "WW.D.");
        assert_eq!(play("{}", &[0.0; 10]), "WWWW...L..");
        assert_eq!(play(r#"{"max_warmup_steps": 0}"#, &[0.0; 3]), "N..", "nothing is stored at the first step");
    }

    #[test]
    fn a_diff_must_be_below_the_threshold() {
        let quarter = r#"{"max_warmup_steps": 1, "residual_diff_threshold": 0.25}"#;
        assert_eq!(play(quarter, &[0.0, 0.25, 0.2499, 0.2501]), "WD.D");
        assert_eq!(play(quarter, &[0.0, f32::NAN, f32::INFINITY]), "WDD", "0 / 0 and x / 0 compute");
        assert_eq!(play(r#"{"max_warmup_steps": 1, "residual_diff_threshold": 0}"#, &[0.0; 3]), "WZZ");
        assert_eq!(play(r#"{"max_warmup_steps": 1, "residual_diff_threshold": 1}"#, &[9.0; 3]), "W::");
    }

    #[test]
    fn between_the_warmups_strides_steps_are_open() {
        let strides = r#"{"max_warmup_steps": 8, "warmup_interval": 4, "max_continuous_cached_steps": 8}"#;
        assert_eq!(play(strides, &[0.1; 10]), "W...W.....");
        assert_eq!(play(strides, &[0.3; 10]), "WDDDWDDDDD");
    }

    #[test]
    fn limits_count_reused_steps() {
        let with = |limits| format!(r#"{{"max_warmup_steps": 1, "max_continuous_cached_steps": -1{limits}}}"#);
        assert_eq!(play(&with(""), &[0.0; 8]), "W.......");
        assert_eq!(play(&with(r#", "max_cached_steps": 3"#), &[0.0, 0.0, 0.9, 0.0, 0.0, 0.0]), "W.D..X");
        assert_eq!(play(&with(r#", "max_cached_steps": 0"#), &[0.0; 3]), "WXX");
        let runs = |limit| format!(r#"{{"max_warmup_steps": 1, "max_continuous_cached_steps": {limit}}}"#);
        assert_eq!(play(&runs(1), &[0.0; 6]), "W.L.L.");
        assert_eq!(play(&runs(0), &[0.0; 3]), "WLL", "0 is no run at all, not no limit");
        // cache-dit before 1.5.3 counted the two reused steps across the computed one.
        assert_eq!(play(&runs(3), &[0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0]), "W..D...L");
    }

    #[test]
    fn accumulated_diffs_end_the_caching_for_good() {
        let accumulated = r#"{"max_warmup_steps": 1, "max_continuous_cached_steps": -1,
                              "max_accumulated_residual_diff_threshold": 0.5}"#;
        assert_eq!(play(accumulated, &[0.0, 0.125, 0.125, 0.125, 0.125, 0.0, 0.0]), "W....AA");
        assert_eq!(play(accumulated, &[0.0, 0.5, 0.0, 0.0]), "WDAA", "a computed step's diff counts");
        assert_eq!(play(accumulated, &[0.9, 0.125, 0.125]), "W..", "a forced step's does not");
    }

    #[test]
    fn a_mask_computes_and_shortens_the_warmup() {
        let mask = |more| format!(r#"{{"steps_computation_mask": [1, 1, 0, 0, 1]{more}}}"#);
        assert_eq!(play(&mask(""), &[0.1; 7]), "WW..M..", "steps beyond the mask are open");
        assert_eq!(play(&mask(""), &[0.3; 7]), "WWDDMDD", "a dynamic 0 grants nothing");
        let fixed = mask(r#", "scm_steps_policy": "static", "max_cached_steps": 1, "residual_diff_threshold": 0"#);
        assert_eq!(play(&fixed, &[9.0; 7]), "WW__M__", "a static 0 obeys nothing");
        assert_eq!(play(r#"{"steps_computation_mask": [0, 1, 0]}"#, &[0.1; 3]), "NM.");
    }

    #[test]
    fn the_last_step_can_be_computed_in_any_case() {
        let last = |more| format!(r#"{{"max_warmup_steps": 1, "compute_last_step": true{more}}}"#);
        assert_eq!(play(&last(""), &[0.0; 4]), "W..E");
        let fixed = last(r#", "steps_computation_mask": [1, 0], "scm_steps_policy": "static""#);
        assert_eq!(play(&fixed, &[0.0; 4]), "W__E");
        assert_eq!(play(&last(r#", "force_refresh_step_hint": 2"#), &[0.0; 5]), "W.W.E");
    }

    #[test]
    fn a_refresh_starts_from_nothing() {
        let refresh = |policy| {
            format!(
                r#"{{"max_warmup_steps": 2, "max_continuous_cached_steps": -1, "max_cached_steps": 2,
                     "force_refresh_step_hint": 5, "force_refresh_step_policy": "{policy}"}}"#
            )
        };
        assert_eq!(play(&refresh("once"), &[0.0; 12]), "WW..XWW..XXX");
        assert_eq!(play(&refresh("repeat"), &[0.0; 12]), "WW..XWW..XWW");
        let never_warm = r#"{"max_warmup_steps": 0, "force_refresh_step_hint": 3}"#;
        assert_eq!(play(never_warm, &[0.0; 6]), "N..N..", "what was stored before is gone");
    }

    #[test]
    fn another_shape_is_computed_and_starts_a_new_series() {
        for (json, expected) in [
            (r#"{"max_warmup_steps": 4}"#, "WWWW.S."),
            (r#"{"max_warmup_steps": 4, "residual_diff_threshold": 1}"#, "WWWW:S:"),
            (r#"{"steps_computation_mask": "1111", "scm_steps_policy": "static"}"#, "WWWW_S_"),
        ] {
            let mut config = config(json);
            config.enable_taylorseer = true;
            let mut cache = cache(&config, 4);
            let tokens = [9, 9, 9, 9, 9, 5, 5];
            let played: String = tokens.iter().map(|&tokens| letter(cache.decide(tokens, Some(0.0)))).collect();
            assert_eq!(played, expected);
            assert_eq!((cache.keep(Stream::Hidden), cache.keep(Stream::Encoder)), (1, 2));
            assert_eq!(cache.weights(Stream::Hidden), [1.0]);
        }
    }

    #[test]
    fn a_forced_step_needs_no_diff_and_counts_none() {
        let mut cache = cache(&config(r#"{"max_warmup_steps": 1}"#), 3);
        assert_eq!(cache.forced(TOKENS), Some(Decision::Compute(Reason::Warmup)));
        assert_eq!(cache.forced(TOKENS), Some(Decision::Compute(Reason::Warmup)), "asking does not move the clock");
        assert_eq!(cache.decide(TOKENS, None), Decision::Compute(Reason::Warmup));
        assert_eq!(cache.forced(TOKENS), None);
        assert_eq!(cache.decide(TOKENS, Some(0.1)), Decision::Reuse(Reason::Similar));
    }

    #[test]
    fn taylorseer_follows_the_clock_through_reused_steps() {
        let mut cache = cache(&config(r#"{"enable_taylorseer": true, "enable_encoder_taylorseer": false}"#), 9);
        let mut weights = Vec::new();
        for _ in 0..7 {
            if cache.decide(TOKENS, Some(0.0)).reused() {
                weights.push(cache.weights(Stream::Hidden));
                assert_eq!(cache.weights(Stream::Encoder), [1.0]);
            }
        }
        assert_eq!(weights, [[2.0, -1.0], [3.0, -2.0], [4.0, -3.0]]);
        assert!(!cache.decide(TOKENS, Some(0.0)).reused());
        assert_eq!((cache.keep(Stream::Hidden), cache.keep(Stream::Encoder)), (2, 1));
        cache.decide(TOKENS, Some(0.0));
        assert_eq!(cache.weights(Stream::Hidden), [1.25, -0.25], "the gap is four steps");
    }
}
