//! `latentd bench cache`: speed and quality of the step cache on a model.
//!
//! The reference is the uncached picture of each prompt and step count. It is compared with the pictures of each
//! configuration, with those of plans if the model is calibrated, and with the obvious alternative: uncached pictures
//! in fewer steps from the same noise, by several samplers.

mod decision;
mod frontier;
mod images;
mod inputs;
mod labels;
mod plot;
mod report;
mod rounds;
mod summary;
mod trials;

use std::path::{Path, PathBuf};

use cache::Plans;
use clap::ValueEnum;
use diffusion::{Guidance, ImageSize, InvalidRequest, MAX_INFERENCE_STEPS, Pipeline, RequestDraft};
use indicatif::{ProgressBar, ProgressStyle};
use latentd::{Error, SamplerName, of_plans};
use omni::{ModelSource, OmniInput, write_whole};
use serde_json::Value;

use self::inputs::NamedConfig;
use self::report::{CacheComparison, Configuration, StepCount};
use self::rounds::{Rounds, Trial};
use self::trials::{Fewer, trials};
use crate::median::median;
use latentd::ModelFlags;
use latentd::check_place;
use latentd::terminal;
use latentd::{Purpose, SampleFlags};

/// Measure the step cache: speed and quality of configurations against the uncached pictures, and
/// against uncached pictures in fewer steps
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  latentd bench cache --model Qwen/Qwen-Image --prompts prompts.txt --cache-backend cache_dit --cache-config '{\"residual_diff_threshold\":0.12}' --num-inference-steps 50 --plot cache.svg"
)]
pub(super) struct Cache {
    /// A Hub id, a folder in the diffusers layout, or `builtin`
    #[arg(long, env = "LATENTD_MODEL")]
    model: Option<String>,
    #[command(flatten)]
    samples: SampleFlags,
    /// A JSON list of {"name": …, "config": {…}}; by default the guide's configurations, the presets, and plans of the
    /// built-in model. The configuration of the cache flags is measured as well
    #[arg(long, value_name = "FILE.json")]
    configs: Option<PathBuf>,
    /// A calibration of the model by `latentd cache calibrate`, to measure its plans as well
    #[arg(long, value_name = "FILE.json")]
    plan: Option<PathBuf>,
    /// Step counts, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "20", value_name = "N", allow_negative_numbers = true)]
    num_inference_steps: Vec<i64>,
    /// Samplers of the uncached pictures in fewer steps, separated by commas; by default all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SAMPLER")]
    samplers: Vec<SamplerName>,
    /// Maximum runs of the transformer in those pictures, separated by commas; by default tenths of each step count
    #[arg(long, value_delimiter = ',', value_name = "N", allow_negative_numbers = true)]
    fewer_steps: Vec<i64>,
    /// What not to draw, instead of the model's default
    #[arg(long)]
    negative_prompt: Option<String>,
    /// Weight of true classifier-free guidance; 1 turns it off
    #[arg(long, alias = "cfg-scale", value_name = "SCALE", allow_negative_numbers = true)]
    true_cfg_scale: Option<f64>,
    /// Weight of plain guidance, for models made for it (FLUX.2-klein base)
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance_scale: Option<f64>,
    /// Height in pixels
    #[arg(long, requires = "width")]
    height: Option<usize>,
    /// Width in pixels
    #[arg(long, requires = "height")]
    width: Option<usize>,
    /// Seed of the first prompt's noise; the next ones count up
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Write every figure, decision and diff as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Draw PSNR against the share of steps that were computed and against the speedup, with the best of each marked
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Write every picture into this folder
    #[arg(long, value_name = "FOLDER")]
    images: Option<PathBuf>,
    #[command(flatten)]
    loading: ModelFlags,
}

impl Cache {
    pub(super) fn run(self) -> Result<(), Error> {
        let samples = self.samples.read()?;
        let configurations = self.configurations()?;
        let (step_counts, fewer) = (self.step_counts()?, self.fewer()?);
        self.check_outputs()?;
        let (plans, source) = (Plans::default(), self.source());
        let builder = self.loading.builder(self.model.as_deref())?.cache(None).plans(plans.clone());
        let omni = self.loading.load(builder)?;
        for calibration in configurations.iter().filter_map(|named| named.calibration.as_ref()) {
            let flag = if self.plan.is_some() { "--plan" } else { "--cache-config" };
            omni.check_plans(calibration).map_err(|err| of_plans(flag, err))?;
        }
        let pipeline = omni.into_pipeline();
        let inputs = samples.of_model(&source, pipeline.card(), Purpose::Comparison)?;
        for named in &configurations {
            let valid = named.config.validate(&pipeline.card().num_blocks);
            valid.map_err(|err| Error::Flag(format!("{:?}: {err}", named.name)))?;
        }
        let (draft, seed) = (self.draft(), i64::from(self.seed));
        let mut rounds = Rounds { pipeline, plans, draft, seed, images: self.images.clone(), warnings: Vec::new() };
        let mut report = self.report(&rounds, &inputs)?;
        rounds.warm_up(&inputs[0], step_counts[0])?;
        let counts = step_counts.iter().map(|&steps| 1 + trials(&configurations, steps, &fewer).len()).sum::<usize>();
        let bar = bar(counts * inputs.len());
        for steps in step_counts {
            let trials = trials(&configurations, steps, &fewer);
            let measured = rounds.measure(&inputs, steps, &trials, || bar.inc(1))?;
            report.step_counts.push(step_count(steps, &configurations, trials, measured));
            report.warnings.clone_from(&rounds.warnings);
            // A long run that is stopped leaves its results so far.
            self.write(&report)?;
        }
        bar.finish_and_clear();
        self.decision(&mut rounds, &inputs[0], &mut report)?;
        self.write(&report)?;
        report.warnings.iter().for_each(|warning| terminal::notice(&format!("warning: {warning}")));
        terminal::print(&report.markdown());
        Ok(())
    }

    fn source(&self) -> ModelSource {
        ModelSource::parse(self.model.as_deref(), self.loading.revision.clone())
    }

    /// The configurations of the file, or the default ones; plans; and the configuration of the flags.
    fn configurations(&self) -> Result<Vec<NamedConfig>, Error> {
        let of_flags = self.loading.cache.resolve()?;
        let mut named = match &self.configs {
            Some(path) => inputs::configurations(&inputs::read(path)?, &path.display().to_string())?,
            None => [inputs::guide(), inputs::presets()].concat(),
        };
        named.extend(self.plans()?);
        let calibration = self.loading.cache.calibrated()?.map(|calibrated| calibrated.source.known());
        let of_flags =
            of_flags.map(|config| NamedConfig { name: "flags".into(), keys: Value::Null, config, calibration });
        named.extend(of_flags);
        Ok(named)
    }

    /// Plans from the model's calibration, if there is one.
    fn plans(&self) -> Result<Vec<NamedConfig>, Error> {
        match &self.plan {
            Some(path) => inputs::plans(Some(path)),
            None if self.configs.is_none() && self.source() == ModelSource::Builtin => inputs::plans(None),
            None => Ok(Vec::new()),
        }
    }

    fn step_counts(&self) -> Result<Vec<usize>, Error> {
        counts("num_inference_steps", &self.num_inference_steps)
    }

    fn fewer(&self) -> Result<Fewer, Error> {
        let samplers = match &self.samplers[..] {
            [] => SamplerName::value_variants(),
            named => named,
        };
        let samplers = samplers.iter().map(|&name| name.into()).collect();
        Ok(Fewer { samplers, counts: counts("fewer_steps", &self.fewer_steps)? })
    }

    fn draft(&self) -> RequestDraft {
        RequestDraft {
            negative_prompt: self.negative_prompt.clone(),
            size: self.width.zip(self.height).map(|(width, height)| ImageSize { width, height }),
            true_cfg_scale: self.true_cfg_scale,
            guidance_scale: self.guidance_scale,
            ..RequestDraft::default()
        }
    }

    /// The report before the first picture.
    fn report(&self, rounds: &Rounds, inputs: &[OmniInput]) -> Result<CacheComparison, Error> {
        let trial = Trial::uncached(1);
        let request = rounds.request(&inputs[0], 0, &trial)?;
        let scale = match request.params.guidance {
            Guidance::TrueCfg { scale } | Guidance::Cfg { scale } | Guidance::Embedded { scale } => scale,
            Guidance::None => 1.0,
        };
        Ok(CacheComparison {
            model: self.source().id(),
            size: request.params.size.to_string(),
            true_cfg_scale: scale,
            negative_prompt: request.negative_prompt,
            seed: rounds.seed,
            prompts: inputs.iter().map(|input| input.prompt.clone()).collect(),
            step_counts: Vec::new(),
            decision: None,
            warnings: Vec::new(),
        })
    }

    /// Times the decision itself against a step of the uncached pictures.
    fn decision(&self, rounds: &mut Rounds, input: &OmniInput, report: &mut CacheComparison) -> Result<(), Error> {
        let request = rounds.request(input, 0, &Trial::uncached(1))?;
        let sampler = request.params.sampler;
        let of_step = report.step_counts.iter().flat_map(|count| {
            let steps = sampler.num_evaluations(count.num_inference_steps) as f64;
            count.uncached_ms.iter().map(move |ms| ms * 1e3 / steps)
        });
        report.decision = Some(decision::measure(&mut rounds.pipeline, &request, median(of_step))?);
        Ok(())
    }

    /// Checks the output files before the measurement, because it takes hours.
    fn check_outputs(&self) -> Result<(), Error> {
        for (flag, path) in [("json", &self.json), ("plot", &self.plot)] {
            path.as_deref().map_or(Ok(()), |path| check_place(flag, path))?;
        }
        match &self.plot {
            Some(path) if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("svg")) => {
                Err(InvalidRequest::new("--plot", "end in .svg", path.display()).into())
            }
            _ => Ok(()),
        }
    }

    fn write(&self, report: &CacheComparison) -> Result<(), Error> {
        if let Some(path) = &self.json {
            write(path, &(serde_json::to_string(report).expect("numbers make JSON. This is a bug.") + "\n"))?;
        }
        if let Some(path) = &self.plot {
            write(path, &plot::svg(report))?;
        }
        Ok(())
    }
}

/// Checks typed step counts.
fn counts(field: &'static str, given: &[i64]) -> Result<Vec<usize>, Error> {
    let count = |&steps: &i64| match steps {
        1..=MAX_INFERENCE_STEPS => Ok(steps as usize),
        given => {
            let bound = format!("be between 1 and {MAX_INFERENCE_STEPS}");
            Err(InvalidRequest::new(field, bound, given).into())
        }
    };
    given.iter().map(count).collect()
}

/// The report of one step count. `trials` has the configurations first.
fn step_count(
    steps: usize,
    configurations: &[NamedConfig],
    trials: Vec<Trial>,
    measured: rounds::MeasuredPicture,
) -> StepCount {
    let keys = configurations.iter().map(|named| named.keys.clone()).chain(std::iter::repeat(Value::Null));
    let all = trials.into_iter().zip(keys).zip(measured.pictures).map(|((trial, config), pictures)| Configuration {
        name: trial.name,
        config,
        sampler: trial.sampler.map(|sampler| sampler.name()),
        summary: summary::summarize(&pictures),
        is_best: false,
        pictures,
    });
    let mut all = Vec::from_iter(all);
    let summaries: Vec<_> = all.iter().map(|configuration| configuration.summary).collect();
    let best = frontier::by_share(&summaries);
    all.iter_mut().zip(0..).for_each(|(configuration, i)| configuration.is_best = best.contains(&i));
    let fewer_steps = all.split_off(configurations.len());
    StepCount { num_inference_steps: steps, uncached_ms: measured.uncached_ms, configurations: all, fewer_steps }
}

fn bar(pictures: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("pictures [{bar:32}] {pos}/{len}, {elapsed} (eta {eta})");
    ProgressBar::new(pictures as u64).with_style(style.expect("a valid template. This is a bug.").progress_chars("=> "))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    write_whole(path, text.as_bytes()).map_err(|source| Error::File {
        action: "write",
        path: path.display().to_string(),
        source,
    })
}
