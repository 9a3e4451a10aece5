//! The cache backend that follows plans made from measurements: its settings, and the measuring.

use std::path::Path;
use std::sync::Arc;

use cache::{Aim, CacheConfig, Calibrated, Calibration, Gram, SegmentGrams};
use diffusion::{ImageRequest, Interrupt};
use models::{AnyPipeline, CollectProducts, Products};
use serde::Deserialize;

use crate::error::Error;

/// The settings of `--cache-backend calibrated`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The file of the measurements, perhaps behind an `@`.
    plan: String,
    /// Share of the steps to compute.
    budget: f64,
}

/// The cache that `{"plan": "@FILE", "budget": SHARE}` describes.
///
/// # Errors
/// A key is missing, unknown or outside its bound, or the file holds no measurements.
pub fn calibrated_config(json: &str) -> Result<CacheConfig, Error> {
    let Settings { plan, budget } =
        serde_json::from_str(json).map_err(|err| Error::Flag(format!("`--cache-config`: {err}")))?;
    if !(budget > 0.0 && budget <= 1.0) {
        return Err(Error::Flag(format!("`--cache-config`: `budget` must be above 0 and at most 1. Given: {budget}")));
    }
    let calibration = Arc::new(read(Path::new(plan.strip_prefix('@').unwrap_or(&plan)))?);
    Ok(CacheConfig { calibrated: Some(Calibrated { calibration, aim: Aim::Budget(budget) }), ..CacheConfig::default() })
}

fn read(path: &Path) -> Result<Calibration, Error> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: name.clone(), source })?;
    let refuse = |why: String| Error::Flag(format!("`{name}` is no calibration of this program: {why}"));
    let calibration: Calibration = serde_json::from_str(&text).map_err(|err| refuse(err.to_string()))?;
    calibration.check().map_err(|why| refuse(format!("it {why}")))?;
    Ok(calibration)
}

/// What is measured so far: sums of products over runs, `[segment][branch]`.
#[derive(Default)]
pub(crate) struct Measured {
    sums: Vec<Vec<Products>>,
    /// Names of the lists of blocks.
    segments: Vec<&'static str>,
    sigmas: Vec<f64>,
    runs: usize,
}

impl Measured {
    /// Makes one request, computed whole, and adds what its blocks did.
    pub(crate) fn run(&mut self, pipeline: &mut AnyPipeline, request: &ImageRequest) -> Result<(), Error> {
        let mut request = request.clone();
        request.extensions.insert(CollectProducts);
        let interrupt = Interrupt::default();
        let mut state = pipeline.prepare(&request, &interrupt)?;
        for _ in 0..request.params.num_inference_steps {
            let reports = pipeline.step(&mut [&mut state], &interrupt)?;
            self.segments = reports.iter().flat_map(|report| &report.runs).map(|run| run.segment).collect();
            self.segments.dedup();
        }
        let products = state.products().expect("it was asked for. This is a bug.");
        if self.runs == 0 {
            self.sums = products.clone();
            self.sigmas = state.sigmas().as_slice().iter().copied().map(f64::from).collect();
        } else {
            let sums = self.sums.iter_mut().flatten().flatten().flatten();
            sums.zip(products.iter().flatten().flatten().flatten()).for_each(|(sum, product)| *sum += product);
        }
        self.runs += 1;
        Ok(())
    }

    /// The means.
    pub(crate) fn calibration(self, class: &str) -> Result<Calibration, Error> {
        let mean = |rows: &Products| {
            let rows: Vec<Vec<_>> =
                rows.iter().map(|row| row.iter().map(|sum| sum / self.runs as f64).collect()).collect();
            Gram::from_triangle(&rows)
        };
        let grams = self.sums.iter().zip(&self.segments).map(|(branches, name)| {
            let branches = branches.iter().map(mean).collect::<Result<_, _>>()?;
            Ok(SegmentGrams { name: (*name).to_owned(), branches })
        });
        let segments: Result<_, cache::GramError> = grams.collect();
        let segments = segments.map_err(|err| Error::Flag(format!("nothing can be planned for this model: {err}")))?;
        Ok(Calibration { class: class.to_owned(), sigmas: self.sigmas, segments, runs: self.runs })
    }
}
