//! Pictures as files, with what is told of them. Takes milliseconds a picture: not for the event loop.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use diffusion::{RgbImage, StepReport};
use scheduler::{Generated, Timings};

use super::cache_report::CacheReport;
use super::cache_summary;
use super::terms::Terms;
use pictures::encode;

/// A finished picture.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) image_index: usize,
    pub(crate) seed: u64,
    pub(crate) file: Bytes,
    /// Where the file can be fetched, where the answer says that instead of the file.
    pub(crate) url: Option<String>,
    /// When it was done, in seconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) prompt_tokens: usize,
    /// Jobs that were before it in line when it was submitted.
    pub(crate) position: usize,
    pub(crate) timings: Timings,
    /// How long the file took.
    pub(crate) encode: Duration,
    pub(crate) cache: Option<CacheReport>,
    /// What the sender should know, in sentences.
    pub(crate) warnings: Vec<String>,
}

/// A picture on the way.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) image_index: usize,
    /// Counts the picture's previews, from 0.
    pub(crate) partial_image_index: usize,
    /// The step after which it was drawn.
    pub(crate) step_index: usize,
    pub(crate) file: Bytes,
    /// In seconds since 1970.
    pub(crate) created_at: u64,
}

impl Picture {
    /// Picture `image_index` of an answer on these terms, done at `now`.
    ///
    /// # Errors
    /// Why its file cannot be written.
    pub(crate) fn new(terms: &Terms, image_index: usize, generated: Generated, now: u64) -> Result<Self, String> {
        let begun = Instant::now();
        let text = terms.metadata.as_ref().map(|texts| texts[image_index].as_str());
        let file = file(terms, &generated.image, text)?;
        log_cache(terms, &generated.steps);
        let cache = terms.cache.as_ref().map(|cache| CacheReport::new(&generated.steps, cache, &terms.num_blocks));
        Ok(Picture {
            image_index,
            seed: terms.seeds[image_index],
            file,
            url: None,
            created_at: now,
            prompt_tokens: generated.prompt_tokens,
            position: generated.position,
            timings: generated.timings,
            encode: begun.elapsed(),
            cache,
            warnings: [terms.warnings.clone(), generated.warnings].concat(),
        })
    }
}

/// A line in the log on what the step cache did for a picture.
fn log_cache(terms: &Terms, steps: &[StepReport]) {
    if let (true, Some(cache)) = (terms.cache_summary, &terms.cache) {
        let stats = cache_summary::stats(steps, cache, &terms.num_blocks);
        tracing::info!(cache = cache_summary::line(steps, &stats), "cache summary");
    }
}

/// The picture's file, with this text in it where its format has a place for one.
///
/// # Errors
/// Why it cannot be written.
pub(crate) fn file(terms: &Terms, image: &RgbImage, text: Option<&str>) -> Result<Bytes, String> {
    let file = encode(image, terms.output.format, terms.output.compression, text);
    file.map(Bytes::from).map_err(|err| format!("encoding the picture: {err}"))
}
