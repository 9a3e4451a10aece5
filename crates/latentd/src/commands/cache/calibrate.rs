//! `latentd cache calibrate`: measures a model and writes its plans.

use std::collections::HashSet;
use std::path::PathBuf;

use cache::{Calibration, FittedPlan, Psnr};
use diffusion::Sampler;
use latentd::Error;
use omni::{ModelSource, OmniDiffusionSamplingParams, OmniInput, write_whole};

use latentd::ModelFlags;
use latentd::check_place;
use latentd::terminal::{self, CountBar};
use latentd::{Purpose, SampleFlags};

/// Measure which of a model's steps can be skipped, for `--cache-backend calibrated`
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd cache calibrate --model Qwen/Qwen-Image --prompts prompts.txt -o plan.json\n  latentd cache calibrate --model Qwen/Qwen-Image-Edit-2511 --image cat.jpg --image street.jpg -o plan.json\n  latentd serve Qwen/Qwen-Image --cache-backend calibrated --cache-config '{\"plan\":\"@plan.json\",\"psnr\":45}'"
)]
pub(super) struct Calibrate {
    /// A Hub id, a folder in the diffusers layout, or `builtin`
    #[arg(long, env = "LATENTD_MODEL")]
    model: Option<String>,
    #[command(flatten)]
    samples: SampleFlags,
    /// Denoising steps
    #[arg(long, alias = "num-inference-steps", default_value_t = 28, value_name = "N", allow_negative_numbers = true)]
    steps: i64,
    /// Weight of true classifier-free guidance, instead of the model's default
    #[arg(long, alias = "guidance", value_name = "SCALE", allow_negative_numbers = true)]
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
    /// File to write the measurements to
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,
    #[command(flatten)]
    loading: ModelFlags,
}

impl Calibrate {
    pub(super) fn run(self) -> Result<(), Error> {
        if let Some(sampler) = self.loading.sampler {
            return Err(Error::Flag(format!(
                "`--sampler` must be absent: a plan takes the place of a sampler, and is measured along euler's steps. Given: {}",
                Sampler::from(sampler).name()
            )));
        }
        let samples = self.samples.read()?;
        check_place("output", &self.output)?;
        let mut omni = self.loading.load(self.loading.builder(self.model.as_deref())?)?;
        let source = ModelSource::parse(self.model.as_deref(), self.loading.revision.clone());
        let inputs = samples.of_model(&source, omni.card(), Purpose::Calibration)?;
        for warning in doubts(&inputs) {
            terminal::notice(&format!("warning: {warning}"));
        }
        let params = OmniDiffusionSamplingParams {
            num_inference_steps: Some(self.steps),
            true_cfg_scale: self.true_cfg_scale,
            guidance_scale: self.guidance_scale,
            height: self.height,
            width: self.width,
            ..OmniDiffusionSamplingParams::default()
        };
        let bar = CountBar::new("calibrating", "steps");
        let calibration = omni.calibrate(&inputs, &params, |done, all| bar.update(done, all))?;
        bar.finish();
        let json = serde_json::to_string(&calibration).expect("numbers make JSON. This is a bug.");
        write_whole(&self.output, json.as_bytes()).map_err(|source| Error::File {
            action: "write",
            path: self.output.display().to_string(),
            source,
        })?;
        terminal::notice(&format!("{} pictures measured: {}", calibration.pictures, self.output.display()));
        for line in table(&calibration) {
            terminal::line(&line);
        }
        Ok(())
    }
}

/// Number of prompts below which a calibration warns.
const FEW: usize = 8;

/// Warnings that plans measured on `inputs` may promise more than they keep.
fn doubts(inputs: &[OmniInput]) -> Vec<String> {
    let different: HashSet<_> = inputs.iter().map(|input| input.prompt.as_str()).collect();
    let (all, different) = (inputs.len(), different.len());
    let few = (all < FEW).then(|| format!("{all} prompts tell little of others: plans want {FEW} or more"));
    let same = (different < all).then(|| {
        format!("of {all} prompts {different} differ: plans that are measured on few promise too much of others")
    });
    few.into_iter().chain(same).collect()
}

/// A table of the plans' expected PSNR, one line per plan.
fn table(calibration: &Calibration) -> Vec<String> {
    let line = |plan: &FittedPlan| {
        let (computed, steps) = (plan.computed.len(), calibration.num_inference_steps);
        let Psnr { mean, tenth, least } = plan.psnr;
        let share = computed as f64 / steps as f64;
        format!("{computed:4} of {steps}   {share:6.3}   {mean:6.1} dB   {tenth:6.1}   {least:6.1}")
    };
    let head = "steps         share   PSNR, mean   9 of 10   worst".to_owned();
    std::iter::once(head).chain(calibration.plans.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_equal_prompts_are_doubted() {
        let doubts = |prompts: &[&str]| doubts(&prompts.iter().map(|&prompt| prompt.into()).collect::<Vec<_>>());
        let eight = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(doubts(&eight), [""; 0]);
        assert_eq!(doubts(&eight[..2]), ["2 prompts tell little of others: plans want 8 or more"]);
        let same = doubts(&["a"; 9]);
        assert_eq!(same, ["of 9 prompts 1 differ: plans that are measured on few promise too much of others"]);
    }
}
