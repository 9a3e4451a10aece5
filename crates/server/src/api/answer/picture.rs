//! Picture files and the facts reported with them. Encoding takes milliseconds a picture, so it must not run on the
//! event loop.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use diffusion::{RgbImage, StepReport};
use scheduler::{Generated, Timings};

use super::cache_report::CacheReport;
use super::cache_summary;
use super::terms::AnswerTerms;
use pictures::encode;

/// A finished picture.
#[derive(Debug)]
pub(crate) struct FinishedPicture {
    pub(crate) image_index: usize,
    pub(crate) seed: u64,
    pub(crate) file: Bytes,
    /// The file's URL, if the answer contains that instead of the file.
    pub(crate) url: Option<String>,
    /// Time at which it was finished, in seconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) prompt_tokens: usize,
    /// Jobs that were queued ahead of it when it was submitted.
    pub(crate) position: usize,
    pub(crate) timings: Timings,
    /// Time to encode the file.
    pub(crate) encode: Duration,
    pub(crate) cache: Option<CacheReport>,
    /// Sentences for the client.
    pub(crate) warnings: Vec<String>,
}

/// A preview of a picture.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) image_index: usize,
    /// Index of the preview, from 0.
    pub(crate) partial_image_index: usize,
    /// The step after which the preview was made.
    pub(crate) step_index: usize,
    pub(crate) file: Bytes,
    /// In seconds since 1970.
    pub(crate) created_at: u64,
}

impl FinishedPicture {
    /// Encodes picture `image_index` of an answer, finished at `now`.
    ///
    /// # Errors
    /// Why its file cannot be written.
    pub(crate) fn new(terms: &AnswerTerms, image_index: usize, generated: Generated, now: u64) -> Result<Self, String> {
        let begun = Instant::now();
        let text = terms.metadata.as_ref().map(|texts| texts[image_index].as_str());
        let file = file(terms, &generated.image, text)?;
        log_cache(terms, &generated.steps);
        let cache = terms.cache.as_ref().map(|cache| CacheReport::new(&generated.steps, cache, &terms.num_blocks));
        Ok(FinishedPicture {
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

/// Logs one line on what the step cache did for a picture.
fn log_cache(terms: &AnswerTerms, steps: &[StepReport]) {
    if let (true, Some(cache)) = (terms.cache_summary, &terms.cache) {
        let stats = cache_summary::stats(steps, cache, &terms.num_blocks);
        tracing::info!(cache = cache_summary::line(steps, &stats), "cache summary");
    }
}

/// Encodes a picture, with `text` in it if its format can hold text.
///
/// # Errors
/// Why it cannot be written.
pub(crate) fn file(terms: &AnswerTerms, image: &RgbImage, text: Option<&str>) -> Result<Bytes, String> {
    let file = encode(image, terms.output.format, terms.output.compression, text);
    file.map(Bytes::from).map_err(|err| format!("encoding the picture: {err}"))
}
