//! Results of the audits for `GET /metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{AimLabels, OutcomeLabels};
use super::register::{HistogramFamily, family, named, seconds, timed, with_unit};
use crate::audits::{AuditFindings, AuditMeasure};

/// Buckets are dense in the range of promised qualities.
const DECIBELS: [f64; 15] = [15.0, 20.0, 25.0, 30.0, 35.0, 37.5, 40.0, 42.5, 45.0, 47.5, 50.0, 52.5, 55.0, 60.0, 70.0];
const SSIM: [f64; 12] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999];
const ERRORS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.3, 0.5];

type Decibels = Gauge<f64, AtomicU64>;

/// Metric families of the audits.
pub(super) struct AuditFamilies {
    audits: Family<OutcomeLabels, Counter>,
    psnr: HistogramFamily<AimLabels>,
    ssim: HistogramFamily<AimLabels>,
    latent_error: HistogramFamily<AimLabels>,
    mean_psnr: Family<AimLabels, Decibels>,
    promised_psnr: Family<AimLabels, Decibels>,
    tightened: Decibels,
    /// Recorded by the scheduler's observer; audits are its only idle work.
    pub(super) preemption: Histogram,
}

impl AuditFamilies {
    pub(super) fn new(own: &mut Registry) -> Self {
        let decibels = || Unit::Other("db".into());
        AuditFamilies {
            audits: named(
                own,
                "cache_audits",
                "Audited pictures: made again without the step cache and compared (done), or displaced by requests (dropped)",
                Family::default(),
            ),
            psnr: with_unit(
                own,
                "cache_audit_psnr",
                decibels(),
                "PSNR of a picture against the same one made without the step cache, by the cache's aim",
                family(|| Histogram::new(DECIBELS)),
            ),
            ssim: named(
                own,
                "cache_audit_ssim",
                "SSIM of a picture's luma against the same one's made without the step cache",
                family(|| Histogram::new(SSIM)),
            ),
            latent_error: named(
                own,
                "cache_audit_latent_error",
                "Relative error of a picture's final latents against those made without the step cache",
                family(|| Histogram::new(ERRORS)),
            ),
            mean_psnr: with_unit(
                own,
                "cache_audit_mean_psnr",
                decibels(),
                "Mean PSNR of the audited pictures",
                Family::default(),
            ),
            promised_psnr: with_unit(
                own,
                "cache_audit_promised_psnr",
                decibels(),
                "Mean promised PSNR of the audited pictures that have a promise",
                Family::default(),
            ),
            tightened: with_unit(
                own,
                "cache_audit_tightened",
                decibels(),
                "How far plans were tightened because audited pictures were below their promise",
                Gauge::default(),
            ),
            preemption: timed(
                own,
                "cache_audit_preemption",
                "Time that a worker went on with an audit after a picture was requested",
                seconds(),
            ),
        }
    }
}

impl AuditFamilies {
    pub(super) fn audited(&self, aim: &str, measured: &AuditMeasure, found: &AuditFindings) {
        let (families, labels) = (self, AimLabels { aim: aim.to_owned() });
        families.audits.get_or_create(&OutcomeLabels { outcome: "done" }).inc();
        families.psnr.get_or_create(&labels).observe(measured.psnr);
        measured.ssim.into_iter().for_each(|ssim| families.ssim.get_or_create(&labels).observe(ssim));
        let error = measured.latent_error.into_iter();
        error.for_each(|error| families.latent_error.get_or_create(&labels).observe(error));
        for (family, mean) in [(&families.mean_psnr, found.psnr), (&families.promised_psnr, found.promise)] {
            mean.value().into_iter().for_each(|mean| _ = family.get_or_create(&labels).set(mean));
        }
    }

    pub(super) fn tightened(&self, by: f64) {
        self.tightened.set(by);
    }

    pub(super) fn dropped(&self) {
        self.audits.get_or_create(&OutcomeLabels { outcome: "dropped" }).inc();
    }
}
