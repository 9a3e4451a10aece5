//! Preset audits: the server makes a share of the pictures that used a step cache again without it, and compares the
//! two.
//!
//! If the mean quality misses the promise of the plans, the plans are tightened by the difference.
//!
//! Pictures are chosen when they are requested, so that nothing is kept for the others. The second picture is idle work
//! of the scheduler: no client waits for it.

mod aim;
mod measured;
mod tally;
mod tightening;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cache::{CacheConfig, Plans, Preset};
use diffusion::ImageRequest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scheduler::{Generated, JobOptions, Queue};
use tokio::task::spawn_blocking;
use tracing::Instrument;

use crate::metrics::Metrics;
use aim::Audited;
pub(crate) use measured::AuditMeasure;
use measured::Sample;
pub(crate) use tally::{AuditFindings, Tally};

/// The audits of a server.
#[derive(Debug)]
pub(crate) struct Audits {
    /// Share of the pictures that are audited, from 0 to 1.
    pub(crate) share: f64,
    /// Pictures requested so far.
    pictures: AtomicU64,
    tally: Mutex<Tally>,
    plans: Plans,
    queue: Arc<dyn Queue>,
    metrics: Metrics,
}

/// A picture that will be audited when it is finished.
#[derive(Debug)]
pub(crate) struct Audit {
    audited: Audited,
    /// The request for the same picture without a cache.
    uncached: Box<ImageRequest>,
}

impl Audits {
    /// Audits for this share of the pictures that `queue` makes, with or without `plans`.
    pub(crate) fn new(share: f64, plans: Plans, queue: Arc<dyn Queue>, metrics: Metrics) -> Self {
        Audits { share, pictures: AtomicU64::new(0), tally: Mutex::default(), plans, queue, metrics }
    }

    /// Chooses which of the requested pictures are audited; `cache` is the configuration they are made with.
    pub(crate) fn choose(&self, requests: &[ImageRequest], cache: Option<&CacheConfig>) -> Vec<Option<Audit>> {
        let choose = |request: &ImageRequest| {
            let number = self.pictures.fetch_add(1, Ordering::Relaxed);
            let cache = cache.filter(|_| is_chosen(self.share, number, request.params.seed))?;
            let audited = Audited::by(cache, &self.plans, &request.params)?;
            Some(Audit { audited, uncached: Box::new(uncached(request)) })
        };
        requests.iter().map(choose).collect()
    }

    /// The results so far.
    pub(crate) fn tally(&self) -> Tally {
        self.held().clone()
    }

    /// How far plans are tightened, in dB: the larger value of the two kinds of plans (one pass and two passes a step).
    pub(crate) fn tightened_by(&self) -> f64 {
        let shifts = [false, true].into_iter().filter_map(|guided| self.plans.current(guided));
        shifts.map(|planning| planning.shift).fold(0.0, f64::max)
    }

    /// Tightens plans that miss their promise.
    fn judge(&self, audited: &Audited, psnr: f64) {
        let (Some((guided, planning)), Some(promise)) = (&audited.judged, audited.promise) else { return };
        // Results of plans that have been replaced say nothing about the current ones.
        if self.plans.current(*guided).as_ref() != Some(planning) {
            return;
        }
        if let Some(tightened) = self.held().judge(*guided, planning, psnr - promise) {
            self.plans.tighten(*guided, tightened);
            tracing::warn!(
                tightened,
                from = planning.shift,
                "audited pictures are below their promise: plans are tightened (dB)"
            );
            self.metrics.plans_tightened(self.tightened_by());
        }
    }

    fn held(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audit {
    /// Called with the finished picture: if its cache saved anything, makes the picture again and compares the two.
    pub(crate) fn begin(self, generated: &mut Generated, audits: &Arc<Audits>) {
        let latents = generated.latents.take();
        if generated.steps.iter().any(|step| step.computed_share < 1.0) {
            let sample = Sample { image: generated.image.clone(), latents };
            let span = tracing::info_span!(parent: None, "audit", aim = self.audited.name);
            tokio::spawn(self.run(sample, audits.clone()).instrument(span));
        }
    }

    async fn run(self, cached: Sample, audits: Arc<Audits>) {
        let options = JobOptions { latents: true, ..JobOptions::default() };
        let ticket = audits.queue.submit_idle(*self.uncached, options);
        let measured = match ticket.finished().await {
            Ok(Generated { image, latents, .. }) => {
                let compare = move || AuditMeasure::of(&Sample { image, latents }, &cached);
                spawn_blocking(compare).await.ok().flatten()
            }
            Err(err) => {
                tracing::debug!(error = %err, "an audit was dropped");
                None
            }
        };
        let Some(measured) = measured else {
            audits.held().dropped += 1;
            audits.metrics.audit_dropped();
            return;
        };
        let found = audits.held().add(&self.audited, &measured);
        tracing::debug!(?measured, promise = self.audited.promise, "a picture was audited");
        audits.judge(&self.audited, measured.psnr);
        audits.metrics.audited(&self.audited.name, &measured, &found);
    }
}

/// The request for the same picture without a cache.
fn uncached(request: &ImageRequest) -> ImageRequest {
    let mut request = ImageRequest { previews: None, ..request.clone() };
    request.cache = Some(Preset::Lossless.config());
    request
}

/// Whether the picture with this number and seed belongs to the audited share: pseudo-random, and the same every time.
fn is_chosen(share: f64, number: u64, seed: u64) -> bool {
    let of_seed: u64 = StdRng::seed_from_u64(seed).random();
    StdRng::seed_from_u64(number ^ of_seed).random_bool(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_whatever_the_seeds_are() {
        type Seed = fn(u64) -> u64;
        let seeds: [Seed; 3] = [|_| 7, |number| number, |number| StdRng::seed_from_u64(number ^ 9).random()];
        for (seed, share) in seeds.iter().flat_map(|seed| [0.0, 0.01, 0.3, 1.0].map(|share| (seed, share))) {
            let chosen = (0..100_000).filter(|&number| is_chosen(share, number, seed(number))).count();
            // Five standard deviations of the draws.
            let deviation = (share * (1.0 - share) * 100_000.0).sqrt();
            assert!((chosen as f64 - share * 100_000.0).abs() <= 5.0 * deviation, "{share}: {chosen}");
        }
    }
}
