//! `latentd bench` without a subcommand: times the stages of a picture.

use std::path::PathBuf;
use std::time::Instant;

use diffusion::{ImageSize, InvalidRequest, InvalidSize, Limits};
use latentd::Error;
use omni::{GeneratedImage, OmniDiffusionSamplingParams, OmniInput, open_pictures};
use serde::Serialize;

use crate::median::median;
use crate::synthetic;
use latentd::ModelFlags;
use latentd::terminal;
use latentd::with_flags;

/// Default picture size of a synthetic model.
const SYNTHETIC_SIZE: ImageSize = ImageSize { width: 512, height: 512 };

/// The flags of the stage timings.
#[derive(clap::Args)]
pub(super) struct Stages {
    /// A Hub id, a folder in the diffusers layout, or `builtin`
    #[arg(long, env = "LATENTD_MODEL")]
    model: Option<String>,
    /// What to draw
    #[arg(long, default_value = "a cup of coffee on a brown background")]
    prompt: String,
    /// A picture to edit, for a model that edits. Repeat the flag for more, up to the model's limit
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// What not to draw, instead of the model's default
    #[arg(long)]
    negative_prompt: Option<String>,
    /// Denoising steps; by default 20, and with --synthetic the model's own
    #[arg(long, alias = "steps", value_name = "N")]
    num_inference_steps: Option<i64>,
    /// Weight of true classifier-free guidance; 1 turns it off
    #[arg(long, alias = "cfg-scale", value_name = "SCALE")]
    true_cfg_scale: Option<f64>,
    /// WIDTHxHEIGHT in pixels
    #[arg(long, conflicts_with_all = ["height", "width"])]
    size: Option<String>,
    /// Height in pixels
    #[arg(long, requires = "width")]
    height: Option<usize>,
    /// Width in pixels
    #[arg(long, requires = "height")]
    width: Option<usize>,
    /// Measured runs, after one warm-up; the figures are their medians
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// Time this model with made-up weights, without a download: the whole model on a GPU; on a CPU a few blocks of its
    /// true width, from which the rest is calculated
    #[arg(long, value_enum, value_name = "MODEL", conflicts_with_all = ["model", "prompt", "image", "negative_prompt", "runs"])]
    synthetic: Option<synthetic::Model>,
    /// Number of timed blocks of each list, or `all`; by default `all` on a GPU and 2 on a CPU
    #[arg(long, value_name = "N", requires = "synthetic")]
    layers: Option<synthetic::Layers>,
    /// Tokens of the text stream, for a model that does not pad prompts; 512 by default
    #[arg(long, value_name = "N", requires = "synthetic", value_parser = clap::value_parser!(u16).range(6..=1024))]
    text_tokens: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    loading: ModelFlags,
}

/// Median milliseconds of each stage over the runs, and its estimated billions of floating point operations.
#[derive(Serialize)]
struct Figures {
    /// Instruction set of the CPU's kernels.
    instruction_set: &'static str,
    load_ms: f64,
    encode_ms: f64,
    step_ms: f64,
    decode_ms: f64,
    end_to_end_ms: f64,
    encode_gflop: f64,
    step_gflop: f64,
    decode_gflop: f64,
    steps: usize,
    runs: usize,
}

impl Stages {
    pub(super) fn run(self) -> Result<(), Error> {
        if let Some(model) = self.synthetic {
            let json = self.json;
            return self.synthetic(model)?.run(json);
        }
        let pictures = open_pictures(&self.image, None).map_err(with_flags)?;
        let input = OmniInput { prompt: self.prompt.clone(), pictures };
        let started = Instant::now();
        let mut omni = self.loading.load(self.loading.builder(self.model.as_deref())?.limits(Limits::NONE))?;
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        if let Some(gpu) = omni.gpu() {
            terminal::notice(&format!("{gpu}; {}", omni.placement()));
        }

        let params = self.params()?;
        let (mut encode, mut step, mut decode, mut whole) = (vec![], vec![], vec![], vec![]);
        for run in 0..=self.runs.max(1) {
            let started = Instant::now();
            let mut last = Instant::now();
            let mut steps = Vec::new();
            let generated = omni.generate_with_progress(input.clone(), params.clone(), |progress| {
                // The first interval also holds the prompt's encoding.
                if progress.done > 1 || progress.total == 1 {
                    steps.push(last.elapsed().as_secs_f64() * 1e3);
                }
                last = Instant::now();
            });
            let images = generated.map_err(with_flags)?;
            let total = started.elapsed().as_secs_f64() * 1e3;
            if run == 0 {
                continue;
            }
            let timings = first(&images).timings;
            encode.push(timings.encode.as_secs_f64() * 1e3);
            decode.push(timings.decode.as_secs_f64() * 1e3);
            step.push(median(steps));
            whole.push(total);
        }
        let work = omni.work(input, params)?;
        let figures = Figures {
            instruction_set: kernels::instruction_set().unwrap_or_default(),
            load_ms,
            encode_ms: median(encode),
            step_ms: median(step),
            decode_ms: median(decode),
            end_to_end_ms: median(whole),
            encode_gflop: work.encode / 1e9,
            step_gflop: work.step / 1e9,
            decode_gflop: (work.decode + work.fit) / 1e9,
            steps: self.steps().max(0) as usize,
            runs: self.runs,
        };
        self.print(&figures);
        Ok(())
    }

    fn synthetic(self, model: synthetic::Model) -> Result<synthetic::Synthetic, Error> {
        Ok(synthetic::Synthetic {
            model,
            layers: self.layers,
            size: self.size()?.unwrap_or(SYNTHETIC_SIZE),
            steps: self.num_inference_steps,
            true_cfg_scale: self.true_cfg_scale,
            text_tokens: self.text_tokens.map(usize::from),
            loading: self.loading,
        })
    }

    fn steps(&self) -> i64 {
        self.num_inference_steps.unwrap_or(20)
    }

    fn size(&self) -> Result<Option<ImageSize>, Error> {
        match &self.size {
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|err: InvalidSize| InvalidRequest::new("size", err.to_string(), format!("{text:?}")).into()),
            None => Ok(self.width.zip(self.height).map(|(width, height)| ImageSize { width, height })),
        }
    }

    fn params(&self) -> Result<OmniDiffusionSamplingParams, Error> {
        let size = self.size()?;
        Ok(OmniDiffusionSamplingParams {
            num_inference_steps: Some(self.steps()),
            height: size.map(|size| size.height),
            width: size.map(|size| size.width),
            negative_prompt: self.negative_prompt.clone(),
            true_cfg_scale: self.true_cfg_scale,
            seed: Some(0),
            ..OmniDiffusionSamplingParams::default()
        })
    }

    fn print(&self, figures: &Figures) {
        if self.json {
            terminal::line(&serde_json::to_string(figures).expect("numbers make JSON. This is a bug."));
            return;
        }
        terminal::notice(&format!(
            "medians of {} runs of {} steps, in milliseconds; kernels on the CPU: {}",
            figures.runs, figures.steps, figures.instruction_set
        ));
        terminal::line(&format!("load        {:9.1}", figures.load_ms));
        terminal::line(&format!("encode      {:9.1}   {:9.3} GFLOP", figures.encode_ms, figures.encode_gflop));
        terminal::line(&format!("step        {:9.2}   {:9.3} GFLOP", figures.step_ms, figures.step_gflop));
        terminal::line(&format!("decode      {:9.1}   {:9.3} GFLOP", figures.decode_ms, figures.decode_gflop));
        terminal::line(&format!("end to end  {:9.1}", figures.end_to_end_ms));
    }
}

fn first(images: &[GeneratedImage]) -> &GeneratedImage {
    images.first().expect("a generation makes a picture. This is a bug.")
}
