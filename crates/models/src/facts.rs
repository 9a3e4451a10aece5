//! Facts about a checkpoint that diffusers' files do not hold.

use diffusion::{EditSize, ImageSize, MAX_INFERENCE_STEPS, ModelCard, most_pixels};
use serde::Deserialize;

use crate::bounds::ConfigFile;
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// The optional file at the root of a checkpoint. Without it the family's defaults apply.
const FILE: &str = "latentd.json";

/// Most pixels of a picture, more than any model was trained for.
const MAX_AREA: usize = 4096 * 4096;
/// Highest `max_pixels` that a checkpoint may set.
const MAX_PIXELS: usize = 16_384 * 16_384;

/// `latentd.json`: a checkpoint's defaults where they differ from its family's, e.g. for a small model trained on small
/// pictures.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Facts {
    /// Default size, `WIDTHxHEIGHT`.
    pub size: Option<String>,
    /// The only sizes, each `WIDTHxHEIGHT`, at which the model generates pictures from text, if it was trained for no
    /// others. A picture of another size is generated at the nearest of them and resized.
    pub native_sizes: Vec<String>,
    /// The subjects that the model was trained on, as prompts name them, if they are few. A prompt that names none of
    /// them is drawn with a warning.
    pub knows: Vec<String>,
    /// Most pixels of one picture, which the operator may override. The default is four times the pixels of `size`.
    pub max_pixels: Option<usize>,
    /// Default number of steps. Low quality takes half of them, high quality twice as many.
    pub num_inference_steps: Option<usize>,
    /// Default guidance weight.
    pub guidance_scale: Option<f64>,
    /// Default negative prompt.
    pub negative_prompt: Option<String>,
    /// Approximate number of pixels at which pictures are edited.
    pub edit_area: Option<usize>,
    /// Approximate number of pixels at which the text encoder sees the pictures to edit.
    pub condition_area: Option<usize>,
}

impl Facts {
    /// Reads the file if it exists.
    ///
    /// # Errors
    /// The file exists but is not valid.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        if !checkpoint.has(FILE) {
            return Ok(Facts::default());
        }
        let facts: Facts = checkpoint.json(FILE)?;
        facts.check()?;
        Ok(facts)
    }

    fn check(&self) -> Result<(), LoadError> {
        let refuse = |key, bound: &str, given: String| {
            Err(LoadError::Config { file: FILE.into(), key, bound: bound.into(), given })
        };
        let sizes = self.size.iter().map(|size| ("size", size));
        for (key, size) in sizes.chain(self.native_sizes.iter().map(|size| ("native_sizes", size))) {
            match size.parse::<ImageSize>() {
                Ok(size) if size.pixels() <= MAX_AREA => {}
                Ok(_) => return refuse(key, &format!("have at most {MAX_AREA} pixels"), format!("{size:?}")),
                Err(_) => return refuse(key, "be WIDTHxHEIGHT, such as 128x128", format!("{size:?}")),
            }
        }
        for (key, number, most) in [
            ("num_inference_steps", self.num_inference_steps, MAX_INFERENCE_STEPS as usize),
            ("max_pixels", self.max_pixels, MAX_PIXELS),
            ("edit_area", self.edit_area, MAX_AREA),
            ("condition_area", self.condition_area, MAX_AREA),
        ] {
            if let Some(number) = number.filter(|number| !(1..=most).contains(number)) {
                return refuse(key, &format!("be between 1 and {most}"), number.to_string());
            }
        }
        match self.guidance_scale {
            Some(scale) if !(0.0..=diffusion::MAX_GUIDANCE).contains(&scale) => {
                refuse("guidance_scale", &format!("be between 0 and {}", diffusion::MAX_GUIDANCE), scale.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Refuses facts that have no effect on a pipeline with this card. `sees_pictures` tells whether its text encoder
    /// sees pictures.
    ///
    /// # Errors
    /// A fact has no effect.
    pub(crate) fn check_effect(&self, card: &ModelCard, sees_pictures: bool) -> Result<(), LoadError> {
        let edits = card.input_images.max_images > 0;
        for (key, fact, has_effect, why) in [
            ("edit_area", self.edit_area, edits, "edits no pictures"),
            ("condition_area", self.condition_area, sees_pictures, "has a text encoder that sees no pictures"),
        ] {
            if let Some(given) = fact.filter(|_| !has_effect) {
                return Err(ConfigFile(FILE).refusal(key, format!("be left out: {} {why}", card.class), given));
            }
        }
        Ok(())
    }

    /// Returns the family's card with this checkpoint's values in place of the defaults.
    pub fn applied_to(&self, card: ModelCard) -> ModelCard {
        let size: Option<ImageSize> = self.size.as_deref().and_then(|size| size.parse().ok());
        let edit_size = match (card.edit_size, self.edit_area) {
            (EditSize::Area { of, .. }, Some(area)) => EditSize::Area { area, of },
            (EditSize::Own { .. }, Some(max_area)) => EditSize::Own { max_area },
            (rule, None) => rule,
        };
        let steps = self.num_inference_steps;
        ModelCard {
            default_size: size.unwrap_or(card.default_size),
            native_sizes: self.native_sizes.iter().filter_map(|size| size.parse().ok()).collect(),
            knows: self.knows.clone(),
            max_pixels: self.max_pixels.or(size.map(most_pixels)).unwrap_or(card.max_pixels),
            default_num_inference_steps: steps.unwrap_or(card.default_num_inference_steps),
            low_num_inference_steps: steps.map_or(card.low_num_inference_steps, |steps| steps.div_ceil(2)),
            high_num_inference_steps: steps
                .map_or(card.high_num_inference_steps, |steps| (2 * steps).min(MAX_INFERENCE_STEPS as usize)),
            default_guidance_scale: self.guidance_scale.unwrap_or(card.default_guidance_scale),
            default_negative_prompt: self.negative_prompt.clone().or(card.default_negative_prompt),
            edit_size,
            ..card
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &'static str) -> Result<Facts, String> {
        let checkpoint = Checkpoint::Embedded(vec![(FILE, json.as_bytes())]);
        Facts::load(&checkpoint).map_err(|err| err.to_string())
    }

    #[test]
    fn a_checkpoint_without_the_file_has_none() {
        assert_eq!(Facts::load(&Checkpoint::Embedded(Vec::new())).unwrap(), Facts::default());
    }

    #[test]
    fn what_is_no_fact_is_named() {
        for (json, expected) in [
            (r#"{"size": "large"}"#, "`latentd.json`: `size` must be WIDTHxHEIGHT, such as 128x128. Given: \"large\""),
            (
                r#"{"native_sizes": ["64x64", "64"]}"#,
                "`latentd.json`: `native_sizes` must be WIDTHxHEIGHT, such as 128x128. Given: \"64\"",
            ),
            (
                r#"{"size": "4097x4096"}"#,
                "`latentd.json`: `size` must have at most 16777216 pixels. Given: \"4097x4096\"",
            ),
            (
                r#"{"num_inference_steps": 0}"#,
                "`latentd.json`: `num_inference_steps` must be between 1 and 1000. Given: 0",
            ),
            (r#"{"max_pixels": 0}"#, "`latentd.json`: `max_pixels` must be between 1 and 268435456. Given: 0"),
            (
                r#"{"edit_area": 16777217}"#,
                "`latentd.json`: `edit_area` must be between 1 and 16777216. Given: 16777217",
            ),
            (r#"{"guidance_scale": 21}"#, "`latentd.json`: `guidance_scale` must be between 0 and 20. Given: 21"),
            (r#"{"steps": 3}"#, "`latentd.json`: `steps` is not understood: unknown field `steps`"),
        ] {
            let message = facts(json).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
        assert_eq!(facts(r#"{"size": "128x96"}"#).unwrap().size.as_deref(), Some("128x96"));
    }

    #[test]
    fn a_size_brings_its_limit_unless_that_is_said_too() {
        let card = ModelCard {
            class: "QwenImagePipeline".into(),
            dtype: "f32",
            default_size: ImageSize { width: 1024, height: 1024 },
            native_sizes: Vec::new(),
            knows: Vec::new(),
            max_pixels: 2048 * 2048,
            default_num_inference_steps: 50,
            low_num_inference_steps: 20,
            high_num_inference_steps: 80,
            default_sampler: diffusion::Sampler::Euler,
            guidance: diffusion::GuidanceKind::TrueCfg,
            default_guidance_scale: 4.0,
            default_negative_prompt: None,
            input_images: diffusion::InputImageBounds::NONE,
            edit_size: EditSize::Own { max_area: 1024 * 1024 },
            max_prompt_tokens: 1024,
            dim: 8,
            num_blocks: vec![1],
        };
        let limit = |json| facts(json).unwrap().applied_to(card.clone()).max_pixels;
        for (json, expected) in [
            ("{}", 2048 * 2048),
            (r#"{"size": "128x96"}"#, 256 * 192),
            (r#"{"size": "128x96", "max_pixels": 1000}"#, 1000),
            (r#"{"max_pixels": 5000000}"#, 5_000_000),
        ] {
            assert_eq!(limit(json), expected, "{json}");
        }
    }
}
