//! The model card of Qwen-Image's pipelines, whose values hold unless the checkpoint overrides them.

use candle_core::DType;
use diffusion::{EditSize, GuidanceKind, ImageSize, InputImageBounds, ModelCard, Sampler, ShapeOf, most_pixels};

use super::config::TransformerConfig;
use super::edit_prompt::EditStyle;
use super::prompt::MAX_PROMPT_TOKENS;

/// Approximate number of pixels at which the text encoder sees a picture to edit. (The first Qwen-Image-Edit sees it at
/// the size at which it is edited.)
pub(super) const CONDITION_AREA: usize = 384 * 384;
/// The size that the models were trained for.
const NATIVE_SIZE: ImageSize = ImageSize { width: 1024, height: 1024 };
/// Approximate number of pixels at which pictures are edited.
const EDIT_AREA: usize = 1024 * 1024;
/// Largest ratio of sides; the processor refuses pictures beyond it.
const MAX_RATIO: f64 = 200.0;

/// Returns the card of a pipeline `class`. `style` is set if the pipeline edits.
pub(super) fn card(class: String, style: Option<EditStyle>, config: &TransformerConfig, dtype: DType) -> ModelCard {
    let pictures = |max_images| InputImageBounds { min_images: 1, max_images, min_side: 1, max_ratio: MAX_RATIO };
    let (input_images, of) = match style {
        None => (InputImageBounds::NONE, ShapeOf::First),
        Some(EditStyle::V1) => (pictures(1), ShapeOf::First),
        Some(EditStyle::Plus) => (pictures(4), ShapeOf::Last),
    };
    ModelCard {
        class,
        dtype: dtype.as_str(),
        default_size: NATIVE_SIZE,
        native_sizes: Vec::new(),
        knows: Vec::new(),
        max_pixels: most_pixels(NATIVE_SIZE),
        default_num_inference_steps: if style == Some(EditStyle::Plus) { 40 } else { 50 },
        low_num_inference_steps: 20,
        high_num_inference_steps: 80,
        default_sampler: Sampler::default(),
        guidance: GuidanceKind::TrueCfg,
        default_guidance_scale: 4.0,
        // All model cards' examples have it, also for text to image: without a negative prompt the pipelines disable
        // guidance.
        default_negative_prompt: Some(" ".into()),
        input_images,
        edit_size: EditSize::Area { area: EDIT_AREA, of },
        max_prompt_tokens: MAX_PROMPT_TOKENS,
        dim: config.dim(),
        num_blocks: vec![config.num_layers],
    }
}

#[cfg(test)]
mod tests {
    use super::super::family::CLASSES;
    use super::super::published::MODELS;
    use super::*;
    use crate::model_family::assert_as_published;

    #[test]
    fn cards_are_as_published() {
        for model in MODELS {
            let (_, style) = CLASSES.into_iter().find(|(class, _)| *class == model.class).unwrap();
            let card = card(model.class.into(), style, &TransformerConfig::default(), DType::BF16);
            assert_as_published(&card, model);
        }
    }
}
