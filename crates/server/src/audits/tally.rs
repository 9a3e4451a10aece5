//! Results of the audits so far: means by group.

use std::collections::BTreeMap;

use cache::Planning;

use super::aim::Audited;
use super::measured::AuditMeasure;
use super::tightening::Judged;

/// The results of the audits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// By the group's name.
    pub(crate) aims: BTreeMap<String, AuditFindings>,
    /// Audits that failed or were displaced by requested pictures.
    pub(crate) dropped: u64,
    /// Results for the plans of requests with one pass a step, and with two.
    judged: [Option<Judged>; 2],
}

/// The results of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct AuditFindings {
    pub(crate) psnr: Mean,
    pub(crate) ssim: Mean,
    pub(crate) latent_error: Mean,
    /// Promised PSNR, of pictures that have one.
    pub(crate) promise: Mean,
}

/// A mean and the number of its values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mean {
    pub(crate) count: u64,
    sum: f64,
}

impl Mean {
    fn add(&mut self, value: impl IntoIterator<Item = f64>) {
        for value in value {
            self.count += 1;
            self.sum += value;
        }
    }

    /// `None` if there are no values.
    pub(crate) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    fn and(self, other: Mean) -> Mean {
        Mean { count: self.count + other.count, sum: self.sum + other.sum }
    }
}

impl Tally {
    /// Adds a finished audit. Returns the results of its group.
    pub(super) fn add(&mut self, audited: &Audited, measured: &AuditMeasure) -> AuditFindings {
        let found = self.aims.entry(audited.name.clone()).or_default();
        found.psnr.add([measured.psnr]);
        found.ssim.add(measured.ssim);
        found.latent_error.add(measured.latent_error);
        found.promise.add(audited.promise);
        *found
    }

    /// Adds a picture made by these plans; `deviation` is its PSNR less the promise, in dB. Returns the total
    /// tightening, if that is more than the present one.
    pub(super) fn judge(&mut self, guided: bool, planning: &Planning, deviation: f64) -> Option<f64> {
        let judged = &mut self.judged[usize::from(guided)];
        let known = judged.take().filter(|judged| judged.is_of(planning));
        judged.insert(known.unwrap_or_else(|| Judged::new(planning.clone()))).add(deviation)
    }

    /// The results of all groups together.
    pub(crate) fn all(&self) -> AuditFindings {
        self.aims.values().fold(AuditFindings::default(), |all, found| AuditFindings {
            psnr: all.psnr.and(found.psnr),
            ssim: all.ssim.and(found.ssim),
            latent_error: all.latent_error.and(found.latent_error),
            promise: all.promise.and(found.promise),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_by_aim_and_of_all() {
        let mut tally = Tally::default();
        let audited = |name: &str, promise| Audited { name: name.into(), promise, judged: None };
        let measured = |psnr, ssim| AuditMeasure { psnr, ssim, latent_error: Some(0.5) };
        tally.add(&audited("fast", None), &measured(30.0, None));
        tally.add(&audited("psnr_45", Some(44.0)), &measured(42.0, Some(0.9)));
        let found = tally.add(&audited("psnr_45", Some(46.0)), &measured(45.0, Some(0.8)));
        assert_eq!((found.psnr.count, found.psnr.value(), found.promise.value()), (2, Some(43.5), Some(45.0)));
        let all = tally.all();
        assert_eq!((all.psnr.value(), all.ssim.count, all.latent_error.value()), (Some(39.0), 2, Some(0.5)));
        assert_eq!((all.promise.count, AuditFindings::default().psnr.value()), (2, None));
    }
}
