//! `latentd bench --synthetic`: what a real model takes on this machine, without its weights.
//!
//! Where all of a model fits, a GPU, it is built at its full size with made-up weights, and a picture is made of it ([`whole`]).
//! Elsewhere a few blocks of its true width are timed, and the rest is arithmetic ([`parts`]).

mod model;
mod parts;
mod whole;

use std::str::FromStr;
use std::time::Instant;

use candle_core::{DType, Device};
use diffusion::ImageSize;
use latentd::{DtypeName, Error, QuantizationName};
use serde::Serialize;

use self::model::Family;
pub(super) use self::model::Model;
use crate::commands::ModelFlags;
use crate::terminal;

/// What is timed.
pub(super) struct Synthetic {
    pub(super) model: Model,
    /// All on a GPU and a few on a CPU where nothing is said.
    pub(super) layers: Option<Layers>,
    pub(super) size: ImageSize,
    /// Denoising steps, in place of the model's own.
    pub(super) steps: Option<i64>,
    /// Weight of guidance, in place of the model's own.
    pub(super) true_cfg_scale: Option<f64>,
    /// Tokens of the text stream, in place of [`TEXT_TOKENS`].
    pub(super) text_tokens: Option<usize>,
    pub(super) loading: ModelFlags,
}

/// How many blocks of each list there are, and layers of the text encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layers {
    All,
    Few(usize),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Layers::All),
            (_, Ok(few @ 1..=8)) => Ok(Layers::Few(few)),
            _ => Err("must be `all`, or from 1 to 8".into()),
        }
    }
}

/// Tokens of a prompt: as many as klein fills every prompt up to. Qwen-Image takes a prompt as long as it is; this is a
/// very long one.
const TEXT_TOKENS: usize = 512;
/// Blocks that are timed on a CPU where nothing else is asked for.
const FEW_LAYERS: usize = 2;

/// What the figures are of.
#[derive(Serialize)]
struct Setup {
    /// Of the CPU's kernels.
    instruction_set: &'static str,
    device: String,
    model: &'static str,
    dtype: &'static str,
    /// What the products of the blocks are rounded to.
    quantization: Option<&'static str>,
    height: usize,
    width: usize,
    image_tokens: usize,
    text_tokens: usize,
    steps: usize,
    passes_a_step: usize,
}

impl Synthetic {
    /// # Errors
    /// A flag cannot be honoured, or the device fails.
    pub(super) fn run(&self, json: bool) -> Result<(), Error> {
        self.check_text_tokens()?;
        let is_cpu = self.loading.on.device.open()?.is_cpu();
        match self.layers.unwrap_or(if is_cpu { Layers::Few(FEW_LAYERS) } else { Layers::All }) {
            Layers::Few(layers) => show(&parts::time(self, layers)?, json),
            Layers::All => show(&whole::time(self)?, json),
        }
        Ok(())
    }

    fn check_text_tokens(&self) -> Result<(), Error> {
        match (self.model.family(), self.text_tokens) {
            (Family::Klein, Some(given)) if given != TEXT_TOKENS => {
                let told =
                    format!("`--text-tokens`: FLUX.2-klein fills every prompt up to {TEXT_TOKENS}. Given: {given}");
                Err(Error::Flag(told))
            }
            _ => Ok(()),
        }
    }

    fn text_tokens(&self) -> usize {
        self.text_tokens.unwrap_or(TEXT_TOKENS)
    }

    fn steps(&self) -> usize {
        self.steps.map_or(self.model.published().num_inference_steps, |steps| steps.max(1) as usize)
    }

    /// Transformer passes of a step: two with true classifier-free guidance, which is Qwen-Image's own.
    fn passes_a_step(&self) -> usize {
        match self.model.family() {
            Family::Klein => 1,
            Family::QwenImage => 1 + usize::from(self.true_cfg_scale.is_none_or(|scale| scale > 1.0)),
        }
    }

    /// What the weights are kept in: all published ones are stored in bf16.
    fn dtype(&self, device: &Device) -> DType {
        DtypeName::resolve(self.loading.dtype, device, DType::BF16, kernels::multiplies_bf16())
    }

    fn setup(&self, device: &Device) -> Setup {
        Setup {
            instruction_set: kernels::instruction_set().unwrap_or_default(),
            device: if device.is_cpu() { "cpu".into() } else { self.loading.on.device.to_string() },
            model: self.model.name(),
            dtype: self.dtype(device).as_str(),
            quantization: self.loading.quantization.map(QuantizationName::name),
            height: self.size.height,
            width: self.size.width,
            image_tokens: self.size.image_seq_len(),
            text_tokens: self.text_tokens(),
            steps: self.steps(),
            passes_a_step: self.passes_a_step(),
        }
    }
}

/// Figures for a person, and for a program.
trait Figures: Serialize {
    fn setup(&self) -> &Setup;

    /// The figures as lines, a name and what is told of it each.
    fn lines(&self) -> Vec<(String, String)>;
}

fn show(figures: &impl Figures, json: bool) {
    if json {
        terminal::line(&serde_json::to_string(figures).expect("numbers make JSON. This is a bug."));
        return;
    }
    let setup = figures.setup();
    let place = match setup.device.as_str() {
        "cpu" => format!("kernels on the CPU: {}", setup.instruction_set),
        device => format!("on {device}"),
    };
    let products = setup.quantization.map(|name| format!(", {name} products")).unwrap_or_default();
    terminal::notice(&format!(
        "{}, {}x{}: {} image tokens, {} of text, {} steps of {} pass(es); made-up {} weights{products}, {place}",
        setup.model,
        setup.width,
        setup.height,
        setup.image_tokens,
        setup.text_tokens,
        setup.steps,
        setup.passes_a_step,
        setup.dtype,
    ));
    for (name, told) in figures.lines() {
        terminal::line(&format!("{name:<28} {told}"));
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_all_or_a_few() {
        assert_eq!(("all".parse(), "3".parse()), (Ok(Layers::All), Ok(Layers::Few(3))));
        for bad in ["", "0", "9", "-1", "some"] {
            assert_eq!(bad.parse::<Layers>().unwrap_err(), "must be `all`, or from 1 to 8", "{bad}");
        }
    }
}
