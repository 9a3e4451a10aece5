//! Template, tokens, positions and language model of Qwen-Image-Edit against diffusers and transformers.

use candle_core::{DType, Device, Tensor};
use diffusion::PipelineError;
use models::qwen_image::EditPromptEncoder;
use models::{Precision, Tokenizer};

use crate::compare::{Golden, close};
use crate::qwen_image_edit_encoder::{by_picture, cases, checkpoint, encoder, encoder_in, grids, prompts};

fn ids(golden: &Golden, call: usize) -> Vec<u32> {
    let ids = golden.tensor(&format!("proc#{call}.input_ids")).get(0).unwrap().to_vec1::<i64>().unwrap();
    ids.into_iter().map(|id| id as u32).collect()
}

/// Returns the features that transformers' vision tower made, picture by picture.
fn recorded_features(golden: &Golden) -> Vec<Tensor> {
    by_picture(golden.tensor("vision.out.1"), &grids(golden))
}

#[test]
fn token_ids_are_exact() {
    for golden in cases() {
        let from_pair = encoder(&golden);
        let tokenizer = Tokenizer::load(&checkpoint(), "processor").unwrap();
        let from_json = EditPromptEncoder { tokenizer, ..encoder(&golden) };
        for (field, prompt, call) in prompts(&golden) {
            for encoder in [&from_pair, &from_json] {
                let ours = encoder.tokenize(field, &prompt, &grids(&golden)).unwrap();
                assert_eq!(ours, ids(&golden, call), "{} {field}", golden.case);
            }
        }
    }
}

#[test]
fn position_ids_are_exact() {
    let mut recorded = 0;
    for golden in cases() {
        let encoder = encoder(&golden);
        for (_, _, call) in prompts(&golden) {
            let ours = encoder.token_positions(&ids(&golden, call), &grids(&golden)).unwrap();
            let name = format!("text.lm#{call}.in_position_ids");
            if golden.case.ends_with("pos1d") {
                // The language model was given no positions, so it numbers the tokens.
                assert!(!golden.has(&name));
                assert!(ours.tokens().iter().enumerate().all(|(i, position)| *position == [i as u32; 3]));
                continue;
            }
            let theirs = golden.tensor(&name).squeeze(1).unwrap().t().unwrap().to_vec2::<i64>().unwrap();
            let ours: Vec<_> = ours.tokens().iter().map(|position| position.map(i64::from).to_vec()).collect();
            assert_eq!(ours, theirs, "{} {call}", golden.case);
            recorded += 1;
        }
    }
    assert_eq!(recorded, 6, "both prompts of three cases");
}

#[test]
fn rope_tables() {
    for golden in cases() {
        let (encoder, ids) = (encoder(&golden), ids(&golden, 0));
        let positions = encoder.token_positions(&ids, &grids(&golden)).unwrap();
        let sequence = encoder.decoder.sequence(&positions, ids.len()).unwrap();
        for (name, ours) in [("text.rotary.0", &sequence.cos), ("text.rotary.1", &sequence.sin)] {
            // transformers stores each angle twice, once for either half of a head.
            let theirs = golden.tensor(name).get(0).unwrap().narrow(1, 0, ours.dim(1).unwrap()).unwrap();
            close(&format!("{} {name}", golden.case), ours, &theirs, 1e-6);
        }
    }
}

#[test]
fn pictures_take_the_place_of_their_tokens() {
    for golden in cases() {
        let (encoder, features) = (encoder(&golden), recorded_features(&golden));
        golden.check("text.embed", 0, &encoder.decoder.embed(&ids(&golden, 0)).unwrap(), 1e-6);
        for (_, _, call) in prompts(&golden) {
            let features: Vec<&Tensor> = features.iter().collect();
            let ours = encoder.embed(&ids(&golden, call), &features).unwrap();
            golden.check(&format!("text.lm#{call}.in_inputs_embeds"), 0, &ours, 1e-6);
        }
    }
}

#[test]
fn every_layer() {
    for golden in cases() {
        let (encoder, ids) = (encoder(&golden), ids(&golden, 0));
        let positions = encoder.token_positions(&ids, &grids(&golden)).unwrap();
        let sequence = encoder.decoder.sequence(&positions, ids.len()).unwrap();
        let mut hidden_states = golden.tensor("text.lm#0.in_inputs_embeds").get(0).unwrap();
        for (i, layer) in encoder.decoder.layers().iter().enumerate() {
            hidden_states = layer.forward(&hidden_states, &sequence).unwrap();
            golden.check(&format!("text.layers.{i}"), 0, &hidden_states, 1e-4);
        }
        golden.check("text.norm#0", 0, &encoder.decoder.final_norm(&hidden_states).unwrap(), 1e-4);
    }
}

/// Starts from the recorded patches, for both prompts, with the template dropped.
fn check_prompt_embeds(precision: &Precision, tolerance: f64) {
    for golden in cases() {
        let (encoder, grids) = (encoder_in(&golden, precision.clone()), grids(&golden));
        let features = encoder.vision.forward(golden.tensor("proc#0.pixel_values"), &grids).unwrap();
        let pictures: Vec<_> = by_picture(&features, &grids).into_iter().zip(grids).collect();
        for (field, prompt, call) in prompts(&golden) {
            let ours = encoder.encode(field, &prompt, &pictures).unwrap();
            let theirs = golden.tensor(&format!("text.norm#{call}")).get(0).unwrap();
            let theirs = theirs.narrow(0, 64, theirs.dim(0).unwrap() - 64).unwrap();
            let what = format!("{} {field}, {:?} and {:?}", golden.case, precision.weights, precision.activations);
            close(&what, &ours, &theirs, tolerance);
        }
    }
}

#[test]
fn prompt_embeds_of_both_prompts() {
    check_prompt_embeds(&Precision::new(DType::F32, Device::Cpu), 1e-4);
}

#[test]
fn prompt_embeds_in_half_precision() {
    check_prompt_embeds(&Precision::new(DType::F16, Device::Cpu), 5e-3);
    check_prompt_embeds(&Precision::new(DType::BF16, Device::Cpu), 4e-2);
    // Like on a GPU, where the activations are rounded too.
    let precision = Precision { weights: DType::BF16, activations: DType::BF16, device: Device::Cpu };
    check_prompt_embeds(&precision, 8e-2);
}

#[test]
fn a_prompt_that_names_special_tokens_is_safe() {
    let golden = &cases()[0];
    let encoder = encoder(golden);
    let refused = |prompt: &str| match encoder.tokenize("prompt", prompt, &grids(golden)) {
        Err(PipelineError::Invalid(invalid)) => invalid.to_string(),
        other => panic!("{prompt}: {other:?}"),
    };
    let message = refused("a <|image_pad|> and <|image_pad|>");
    assert!(message.contains("prompt") && message.contains("not contain <|image_pad|>"), "{message}");
    // Other special tokens keep their meaning, as in diffusers.
    let taken = encoder.tokenize("prompt", "<|vision_start|><|im_end|><|video_pad|>", &grids(golden)).unwrap();
    assert_eq!(taken.len(), encoder.tokenize("prompt", "", &grids(golden)).unwrap().len() + 3);
}

#[test]
fn a_prompt_may_have_1019_tokens() {
    let golden = &cases()[0];
    let encoder = encoder(golden);
    // One token that never merges with its neighbours.
    let words = |n: usize| "<|im_end|>".repeat(n);
    assert!(encoder.tokenize("prompt", &words(1019), &grids(golden)).is_ok());
    let Err(PipelineError::Invalid(invalid)) = encoder.tokenize("negative_prompt", &words(1020), &grids(golden)) else {
        panic!("the prompt was accepted")
    };
    let message = invalid.to_string();
    assert!(message.contains("negative_prompt") && message.contains("at most 1019 tokens"), "{message}");
    assert!(message.contains("1020 tokens"), "{message}");
}
