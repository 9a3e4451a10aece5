//! `latentd bench --synthetic`: times a published model on this machine without its weights.
//!
//! On a GPU the model is built at its full size with made-up weights, and a picture is made ([`whole`]). On a CPU a few
//! blocks of its true width are timed, and the rest is calculated ([`parts`]).

mod model;
mod parts;
mod setup;
mod whole;

use latentd::Error;

pub(super) use self::model::Model;
use self::setup::{FEW_LAYERS, Figures};
pub(super) use self::setup::{Layers, Synthetic};
use latentd::terminal;

impl Synthetic {
    /// Times the model and prints the figures.
    ///
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
