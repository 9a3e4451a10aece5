//! Times a few layers of a model's true width and calculates the rest, for machines on which the whole model does not
//! fit or a picture would take too long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cache::CachePlan;
use candle_core::{Device, Result as CandleResult, Tensor};
use latentd::Error;
use models::Quantization;
use models::{Checkpoint, Dit, DitRow, LoadError, Precision, block_times, flux2, qwen_decoder, qwen_image, randn};
use omni::check_quantization;
use serde::Serialize;

use super::model::Family;
use super::setup::{Figures, Setup, Synthetic, milliseconds};
use crate::median::median;
use latentd::terminal;

/// Minimum time for which passes are repeated.
const AT_LEAST: Duration = Duration::from_secs(3);
/// Tokens of Qwen-Image's template before the prompt. The text encoder sees them, the transformer does not.
const TEMPLATE_TOKENS: usize = 34;

/// Measured and calculated times, in milliseconds.
#[derive(Serialize)]
pub(super) struct Parts {
    #[serde(flatten)]
    setup: Setup,
    layers: usize,
    /// Measured: a pass with `layers` blocks of each list, and a block of each list.
    measured: BTreeMap<String, f64>,
    /// Measured: the text encoder with `layers` layers, on a prompt.
    encoder_part_ms: f64,
    /// Measured: the whole VAE decoder.
    decode_ms: f64,
    /// Calculated: all layers of the text encoder, on all prompts.
    encode_ms: f64,
    /// Calculated: a pass with all blocks.
    pass_ms: f64,
    /// Calculated: a pass in which the step cache skips what it can.
    reused_pass_ms: Option<f64>,
    /// Number of steps that are certainly reused, because of a static mask.
    reused_steps: usize,
    /// Calculated: a picture, including encoding and decoding.
    picture_ms: f64,
    #[serde(skip)]
    segments: Vec<(&'static str, usize)>,
}

/// The decisions of the step cache that do not depend on the picture.
struct Plan {
    reused_steps: usize,
    /// Number of blocks at the ends of each list that every step computes.
    always: usize,
}

/// Times `layers` layers of the model.
///
/// # Errors
/// A flag cannot be honoured, or the device fails.
pub(super) fn time(synthetic: &Synthetic, layers: usize) -> Result<Parts, Error> {
    let device = synthetic.loading.on.device.open()?;
    let setup = synthetic.setup(&device);
    let segments = synthetic.model.segments();
    let plan = plan(synthetic, &setup, &segments)?;
    terminal::notice("making up weights; timing");
    let bench = Bench {
        synthetic,
        checkpoint: synthetic.model.checkpoint(Some(layers)),
        precision: Precision::new(synthetic.dtype(&device), device),
        layers,
    };
    let (measured, encoder_part_ms, decode_ms) = (bench.transformer()?, bench.text_encoder()?, bench.decoder()?);
    let pass_ms = whole_pass(&measured, &segments, layers);
    let reused_pass_ms = plan.as_ref().map(|plan| {
        let always: Vec<_> = segments.iter().map(|(name, count)| (*name, plan.always.min(*count))).collect();
        whole_pass(&measured, &always, layers)
    });
    let reused_steps = plan.map_or(0, |plan| plan.reused_steps);
    let encode_ms = encoder_part_ms * synthetic.model.text_layers() as f64 / layers as f64 * setup.passes_a_step as f64;
    let passes = (setup.steps - reused_steps) as f64 * pass_ms + reused_steps as f64 * reused_pass_ms.unwrap_or(0.0);
    let picture_ms = encode_ms + passes * setup.passes_a_step as f64 + decode_ms;
    Ok(Parts {
        setup,
        layers,
        measured,
        encoder_part_ms,
        decode_ms,
        encode_ms,
        pass_ms,
        reused_pass_ms,
        reused_steps,
        picture_ms,
        segments,
    })
}

/// The plan of the step cache; `None` without a cache.
fn plan(synthetic: &Synthetic, setup: &Setup, segments: &[(&str, usize)]) -> Result<Option<Plan>, Error> {
    let Some(config) = synthetic.loading.cache.resolve()? else { return Ok(None) };
    if config.planned.is_some() {
        return Err(Error::Flag(
            "`--cache-backend calibrated` plans for a model that runs whole: it needs `--layers all`".into(),
        ));
    }
    let num_blocks: Vec<_> = segments.iter().map(|(_, count)| *count).collect();
    config.validate(&num_blocks).map_err(|err| Error::Flag(format!("`--cache-config`: {err}")))?;
    let CachePlan { forced, warnings, .. } = cache::plan(&config, setup.steps, &num_blocks);
    warnings.iter().for_each(|warning| terminal::notice(&format!("warning: {warning}")));
    let reused_steps = forced.chars().filter(|step| *step == 'C').count();
    if reused_steps == 0 {
        let told = "no step is sure to be reused, and what is depends on the picture: \
            '{\"scm_steps_mask_policy\":\"medium\",\"scm_steps_policy\":\"static\"}' says which";
        terminal::notice(told);
    }
    Ok(Some(Plan { reused_steps, always: config.always_computed_blocks() }))
}

/// A model with a few layers.
struct Bench<'s> {
    synthetic: &'s Synthetic,
    checkpoint: Checkpoint,
    precision: Precision,
    layers: usize,
}

impl Bench<'_> {
    /// Times of a pass and of a block of each list, as returned by [`block_times`].
    fn transformer(&self) -> Result<BTreeMap<String, f64>, Error> {
        let quantization = self.synthetic.loading.quantization.map(Quantization::from);
        check_quantization(quantization, self.device())?;
        let weights = self.checkpoint.weights("transformer", self.precision.clone())?.quantized(quantization);
        let scope = weights.scope("", &|_, _| ());
        match self.synthetic.model.family() {
            Family::QwenImage => {
                let config = qwen_image::TransformerConfig::load(&self.checkpoint)?;
                let dit = qwen_image::Transformer::load(&config, &scope)?;
                self.pass_times(&dit, config.in_channels, config.joint_attention_dim)
            }
            Family::Klein => {
                let config = flux2::TransformerConfig::load(&self.checkpoint)?;
                let dit = flux2::Transformer::load(&config, &scope)?;
                self.pass_times(&dit, config.in_channels, config.joint_attention_dim)
            }
        }
    }

    fn pass_times<D: Dit + Sync>(&self, dit: &D, channels: usize, text: usize) -> Result<BTreeMap<String, f64>, Error> {
        let token_grid = self.synthetic.size.token_grid();
        self.on_device(|| {
            let row = DitRow {
                latents: &self.random(0, (token_grid.0 * token_grid.1, channels))?,
                token_grid,
                references: &[],
                prompt_embeds: &self.random(1, (self.synthetic.text_tokens(), text))?,
                sigma: 0.5,
                guidance: None,
            };
            block_times(dit, &row, AT_LEAST)
        })
    }

    /// Time of a prompt through the text encoder's layers, in milliseconds.
    fn text_encoder(&self) -> Result<f64, Error> {
        let weights = self.checkpoint.weights("text_encoder", self.precision.clone())?;
        let config = qwen_decoder::DecoderConfig::load(&self.checkpoint, "text_encoder")?;
        let decoder = qwen_decoder::Decoder::load(&config, &weights.scope("", &|_, _| ()), self.layers)?;
        let tokens = match self.synthetic.model.family() {
            Family::QwenImage => TEMPLATE_TOKENS + self.synthetic.text_tokens(),
            Family::Klein => self.synthetic.text_tokens(),
        };
        let ids = vec![1; tokens];
        self.on_device(|| {
            self.median_of(|| {
                let sequence = decoder.sequence(&qwen_decoder::Positions::sequential(tokens), tokens)?;
                decoder.last_hidden_state(&decoder.embed(&ids)?, &sequence)
            })
        })
    }

    /// Time from latents to pixels, in milliseconds.
    fn decoder(&self) -> Result<f64, Error> {
        let weights = self.checkpoint.weights("vae", self.precision.clone())?;
        let scope = weights.scope("", &|_, _| ());
        let (rows, columns) = self.synthetic.size.token_grid();
        let latents = |channels| self.random(2, (2 * rows, 2 * columns, channels));
        match self.synthetic.model.family() {
            Family::QwenImage => {
                let config = qwen_image::VaeConfig::load(&self.checkpoint)?;
                let vae = qwen_image::Vae::load(&config, &scope)?;
                self.on_device(|| {
                    let latents = latents(config.z_dim)?;
                    self.median_of(|| vae.decode(&latents))
                })
            }
            Family::Klein => {
                let config = flux2::VaeConfig::load(&self.checkpoint)?;
                let vae = flux2::Vae::load(&config, &scope)?;
                self.on_device(|| {
                    let latents = latents(config.latent_channels)?;
                    self.median_of(|| vae.decode(&latents))
                })
            }
        }
    }

    fn device(&self) -> &Device {
        &self.precision.device
    }

    fn random(&self, seed: u64, shape: impl Into<candle_core::Shape>) -> CandleResult<Tensor> {
        let shape = shape.into();
        Tensor::from_vec(randn(seed, shape.elem_count()), shape, self.device())
    }

    /// Median time of repeated runs after a warm-up, in milliseconds.
    fn median_of(&self, run: impl Fn() -> CandleResult<Tensor>) -> CandleResult<f64> {
        let (mut times, start) = (Vec::new(), Instant::now());
        // If the warm-up takes long, a single further run is enough.
        while times.len() < 2 || (times.len() < 100 && start.elapsed() < AT_LEAST) {
            let started = Instant::now();
            run()?;
            self.device().synchronize()?;
            times.push(milliseconds(started));
        }
        Ok(median(times.drain(1..)))
    }

    fn on_device<R: Send>(&self, work: impl FnOnce() -> CandleResult<R> + Send) -> Result<R, Error> {
        let failed = |source| LoadError::Device { file: "made-up weights".into(), source };
        Ok(kernels::in_pool(self.device(), work).map_err(failed)?)
    }
}

impl Figures for Parts {
    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn lines(&self) -> Vec<(String, String)> {
        let measured = |name: &str, time: f64, of: &str| (name.to_owned(), format!("{time:10.1} ms measured{of}"));
        let reckoned = |name: String, time: f64| (name, format!("{time:10.1} ms by arithmetic"));
        let blocks = self
            .segments
            .iter()
            .map(|(name, count)| measured(name, self.measured[&format!("{name}_ms")], &format!(", of {count}")));
        let mut lines: Vec<_> = blocks.collect();
        lines.push(reckoned("a pass of all blocks".into(), self.pass_ms));
        lines.extend(self.reused_pass_ms.map(|time| reckoned("a pass that is reused".into(), time)));
        lines.push(measured("text encoder", self.encoder_part_ms, &format!(", {} of its layers", self.layers)));
        lines.push(reckoned("encoding the prompts".into(), self.encode_ms));
        lines.push(measured("decoding", self.decode_ms, ""));
        let Setup { steps, .. } = self.setup;
        let steps = match self.reused_steps {
            0 => format!("a picture in {steps} steps"),
            reused => format!("the same, {reused} of {steps} reused"),
        };
        lines.push((steps, format!("{:10.1} s by arithmetic", self.picture_ms / 1e3)));
        lines
    }
}

/// Time of a pass with the blocks of `segments`, from a measured pass with `layers` blocks of each list. The time
/// outside the blocks is the same.
fn whole_pass(measured: &BTreeMap<String, f64>, segments: &[(&str, usize)], layers: usize) -> f64 {
    let more = segments.iter().map(|(name, count)| measured[&format!("{name}_ms")] * (*count as f64 - layers as f64));
    measured["step_ms"] + more.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_that_are_not_run_are_added() {
        let measured = [("step_ms", 100.0), ("dual_ms", 20.0), ("single_ms", 10.0)];
        let measured = measured.map(|(name, time)| (name.to_owned(), time)).into();
        // 40 ms of the measured pass are outside the two blocks of each list.
        assert_eq!(whole_pass(&measured, &[("dual", 5), ("single", 20)], 2), 40.0 + 100.0 + 200.0);
        assert_eq!(whole_pass(&measured, &[("dual", 1), ("single", 2)], 2), 80.0);
    }
}
