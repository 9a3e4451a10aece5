//! The shared part of `generate` and `edit`: the flags of a picture; making, writing and reporting pictures.

use std::path::{Path, PathBuf};

use diffusion::{ImageSize, InvalidRequest, InvalidSize, Limits, MAX_IMAGES};
use latentd::Error;
use omni::{GeneratedImage, InputPictures, ModelSource, OmniDiffusionSamplingParams, OmniInput};

use super::cache_reports::{CacheReports, Setup};
use latentd::ModelFlags;
use latentd::terminal::{self, StepsBar};
use latentd::{check_place, numbered, with_flags};

/// The flags of a picture.
#[derive(clap::Args)]
pub(super) struct PictureFlags {
    /// What the picture should show, or what to change
    #[arg(value_name = "PROMPT", required_unless_present = "prompt_flag", conflicts_with = "prompt_flag")]
    prompt: Option<String>,
    /// The same as a flag
    #[arg(id = "prompt_flag", long = "prompt", value_name = "PROMPT")]
    prompt_flag: Option<String>,
    /// A Hub id, a folder in the diffusers layout, or `builtin`
    #[arg(long, env = "LATENTD_MODEL")]
    model: Option<String>,
    /// What the picture should not show, instead of the model's default. It has an effect only with guidance, which
    /// --true-cfg-scale 1 (for FLUX.2-klein base --guidance-scale 1) turns off
    #[arg(long)]
    negative_prompt: Option<String>,
    /// Denoising steps, 1 to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    num_inference_steps: Option<i64>,
    /// Weight of true classifier-free guidance; 1 turns it off; by default the model's
    #[arg(long, alias = "cfg-scale", value_name = "SCALE", allow_negative_numbers = true)]
    true_cfg_scale: Option<f64>,
    /// Weight of plain guidance, for models made for it (FLUX.2-klein base)
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance_scale: Option<f64>,
    /// Seed of the noise; -1 or no flag draws a random one
    #[arg(long, allow_negative_numbers = true)]
    seed: Option<i64>,
    /// WIDTHxHEIGHT in pixels
    #[arg(long, conflicts_with_all = ["height", "width"])]
    size: Option<String>,
    /// Height in pixels
    #[arg(long, requires = "width")]
    height: Option<usize>,
    /// Width in pixels
    #[arg(long, requires = "height")]
    width: Option<usize>,
    /// Maximum pixels of a picture; by default the model's limit, four times the pixels that it was made for
    #[arg(long, value_name = "PIXELS")]
    max_generated_image_size: Option<usize>,
    /// Number of pictures, with seeds counting up
    #[arg(long, alias = "num-outputs-per-prompt", short = 'n', value_name = "N", allow_negative_numbers = true)]
    num_images_per_prompt: Option<i64>,
    /// File to write: .png, .jpg or .webp. With several pictures the second is NAME-2.png
    #[arg(long, short, default_value = "latentd.png")]
    output: PathBuf,
    #[command(flatten)]
    loading: ModelFlags,
    #[command(flatten)]
    reports: CacheReports,
}

impl PictureFlags {
    /// Makes the pictures. `open` reads the input pictures, after the other flags have been checked. `banner` is
    /// printed if no model is named.
    ///
    /// # Errors
    /// A flag cannot be honoured, or the model cannot be loaded or fails.
    pub(super) fn make(self, banner: &str, open: impl FnOnce() -> Result<InputPictures, Error>) -> Result<(), Error> {
        let params = self.params()?;
        check_output(&self.output, self.num_images_per_prompt)?;
        let config = self.loading.cache.resolve()?;
        self.reports.check(config.as_ref())?;
        let prompt = self.prompt.as_ref().or(self.prompt_flag.as_ref()).cloned().unwrap_or_default();
        let input = OmniInput { prompt, pictures: open()? };
        if self.model.is_none() {
            terminal::notice(banner);
        }
        let limits = Limits { max_pixels: self.max_generated_image_size };
        let mut omni = self.loading.load(self.loading.builder(self.model.as_deref())?.limits(limits))?;
        if omni.placement().host_bytes() > 0 {
            terminal::notice(&omni.placement().to_string());
        }
        let bar = StepsBar::default();
        let images = omni.generate_with_progress(input, params, |step| bar.update(step)).map_err(with_flags)?;
        bar.finish();
        save(&images, &self.output)?;
        warn(&images);
        let Some(config) = &config else { return Ok(()) };
        let model = ModelSource::parse(self.model.as_deref(), self.loading.revision.clone()).id();
        self.reports.write(&images, &Setup { model, config, num_blocks: omni.card().num_blocks.clone() })
    }

    fn params(&self) -> Result<OmniDiffusionSamplingParams, Error> {
        let (width, height) = match &self.size {
            None => (self.width, self.height),
            Some(text) => {
                let size: ImageSize = text
                    .parse()
                    .map_err(|err: InvalidSize| InvalidRequest::new("size", err.to_string(), format!("{text:?}")))?;
                (Some(size.width), Some(size.height))
            }
        };
        Ok(OmniDiffusionSamplingParams {
            num_inference_steps: self.num_inference_steps,
            sampler: self.loading.sampler.map(diffusion::Sampler::from),
            height,
            width,
            negative_prompt: self.negative_prompt.clone(),
            true_cfg_scale: self.true_cfg_scale,
            guidance_scale: self.guidance_scale,
            seed: self.seed,
            num_outputs_per_prompt: self.num_images_per_prompt,
        })
    }
}

/// Prints the model's warnings about the request, each one once.
fn warn(images: &[GeneratedImage]) {
    let mut told = Vec::new();
    for warning in images.iter().flat_map(|image| &image.warnings) {
        if !told.contains(&warning) {
            terminal::notice(&format!("note: {warning}"));
            told.push(warning);
        }
    }
}

/// Checks the output files before the pictures are made, because that takes minutes. A number of pictures outside its
/// bounds is rejected later, so it is clamped here.
fn check_output(output: &Path, num_images: Option<i64>) -> Result<(), Error> {
    let ending = output.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
    if !matches!(ending.as_deref(), Some("png" | "jpg" | "jpeg" | "webp")) {
        let bound = "end in .png, .jpg or .webp";
        return Err(InvalidRequest::new("--output", bound, output.display()).into());
    }
    let num_images = num_images.unwrap_or(1).clamp(1, MAX_IMAGES) as usize;
    (0..num_images).try_for_each(|i| check_place("output", &numbered(output, i)))
}

fn save(images: &[GeneratedImage], output: &Path) -> Result<(), Error> {
    for (i, image) in images.iter().enumerate() {
        let path = numbered(output, i);
        image.save(&path)?;
        terminal::line(&format!("{} ({}, seed {})", path.display(), image.image.size, image.seed));
    }
    if let Some(image) = images.first() {
        let timings = image.timings;
        let runs = || images.iter().flat_map(|image| &image.steps).flat_map(|step| &step.runs);
        let reused = runs().filter(|run| run.reused).count();
        terminal::notice(&format!(
            "encode {}, denoise {} ({} steps, {} block runs computed, {reused} reused), decode {}",
            terminal::seconds(timings.encode),
            terminal::seconds(timings.denoise),
            image.steps.len(),
            runs().count() - reused,
            terminal::seconds(timings.decode),
        ));
    }
    Ok(())
}
