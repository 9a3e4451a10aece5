//! Tokenizer and Qwen3 decoder of FLUX.2-klein against transformers.

use candle_core::{DType, Device};
use diffusion::PipelineError;
use models::flux2::PromptEncoder;
use models::qwen_decoder::{Decoder, DecoderConfig, Positions};
use models::{Checkpoint, Precision};

use crate::compare::{Golden, close, goldens};

/// Length to which the recorded runs padded their prompts; the real pipeline pads to 512.
const MAX_SEQUENCE_LENGTH: usize = 64;

fn cases() -> Vec<Golden> {
    let mut cases = Golden::all(goldens().join("models/goldens"), "flux2-klein.");
    cases.retain(|golden| !golden.case.contains("cache"));
    assert_eq!(cases.len(), 4);
    cases
}

fn checkpoint() -> Checkpoint {
    Checkpoint::Dir(goldens().join("models/flux2-klein"))
}

fn f32() -> Precision {
    Precision::new(DType::F32, Device::Cpu)
}

fn encoder(precision: Precision) -> PromptEncoder {
    let weights = checkpoint().weights("text_encoder", precision).unwrap();
    PromptEncoder::load(&checkpoint(), &weights.scope("", &|_, _| ()), MAX_SEQUENCE_LENGTH).unwrap()
}

/// Returns the prompts of call `call`, one per row. The second call has the negative prompt, or repeats the first.
fn prompts(golden: &Golden, call: usize) -> Vec<String> {
    let rows = golden.tensor("text.call#0.in_input_ids").dim(0).unwrap();
    let negative = golden.case.ends_with("t2i_cfg_base") && call == 1;
    (0..rows).map(|row| if negative { String::new() } else { golden.run.kw.prompt.get(row) }).collect()
}

#[test]
fn token_ids_are_exact() {
    let encoder = encoder(f32());
    for golden in cases() {
        for call in [0, 1] {
            for (row, prompt) in prompts(&golden, call).iter().enumerate() {
                let recorded = |name: &str| {
                    let recorded = golden.tensor(&format!("text.call#{call}.in_{name}")).get(row).unwrap();
                    recorded.to_vec1::<i64>().unwrap()
                };
                let (ids, valid) = encoder.tokenize("prompt", prompt).unwrap();
                let theirs: Vec<u32> = recorded("input_ids").into_iter().map(|id| id as u32).collect();
                assert_eq!(ids, theirs, "{} {prompt:?}", golden.case);
                let mask: Vec<i64> = (0..ids.len()).map(|i| i64::from(i < valid)).collect();
                assert_eq!(mask, recorded("attention_mask"), "{} {prompt:?}", golden.case);
            }
        }
    }
}

#[test]
fn rope_tables() {
    let encoder = encoder(f32());
    let sequence = encoder.decoder.sequence(&Positions::sequential(MAX_SEQUENCE_LENGTH), 1).unwrap();
    for golden in cases() {
        for (name, ours) in [("text.rotary.0", &sequence.cos), ("text.rotary.1", &sequence.sin)] {
            // transformers stores each angle twice, once for either half of a head.
            let theirs = golden.tensor(name).get(0).unwrap().narrow(1, 0, ours.dim(1).unwrap()).unwrap();
            close(&format!("{} {name}", golden.case), ours, &theirs, 1e-6);
        }
    }
}

#[test]
fn every_layer_of_the_27() {
    let encoder = encoder(f32());
    let decoder = &encoder.decoder;
    assert_eq!(decoder.layers().len(), 27, "of 28");
    for golden in cases() {
        for (row, prompt) in prompts(&golden, 0).iter().enumerate() {
            let (ids, valid) = encoder.tokenize("prompt", prompt).unwrap();
            let sequence = decoder.sequence(&Positions::sequential(ids.len()), valid).unwrap();
            let mut hidden_states = decoder.embed(&ids).unwrap();
            golden.check("text.embed", row, &hidden_states, 1e-6);
            for (i, layer) in decoder.layers().iter().enumerate() {
                hidden_states = layer.forward(&hidden_states, &sequence).unwrap();
                golden.check(&format!("text.layers.{i}"), row, &hidden_states, 1e-4);
            }
        }
    }
}

/// Checks a decoder with all 28 layers, and therefore the final norm, for both calls of every run.
#[test]
fn the_whole_decoder() {
    let encoder = encoder(f32());
    let config = DecoderConfig::load(&checkpoint(), "text_encoder").unwrap();
    let weights = checkpoint().weights("text_encoder", f32()).unwrap();
    let decoder = Decoder::load(&config, &weights.scope("", &|_, _| ()), config.num_hidden_layers).unwrap();
    for golden in cases() {
        for call in [0, 1] {
            for (row, prompt) in prompts(&golden, call).iter().enumerate() {
                let (ids, valid) = encoder.tokenize("prompt", prompt).unwrap();
                let sequence = decoder.sequence(&Positions::sequential(ids.len()), valid).unwrap();
                let ours = decoder.last_hidden_state(&decoder.embed(&ids).unwrap(), &sequence).unwrap();
                golden.check(&format!("text.norm#{call}"), row, &ours, 1e-4);
            }
        }
    }
    let message = Decoder::load(&config, &weights.scope("", &|_, _| ()), 29).err().unwrap().to_string();
    assert!(message.contains("`num_hidden_layers` must be at least 29. Given: 28"), "{message}");
}

fn check_prompt_embeds(precision: Precision, tolerance: f64) {
    let kinds = format!("{:?} and {:?}", precision.weights, precision.activations);
    let encoder = encoder(precision);
    for golden in cases() {
        for (row, prompt) in prompts(&golden, 0).iter().enumerate() {
            let ours = encoder.encode("prompt", prompt).unwrap();
            assert_eq!(ours.dims(), [MAX_SEQUENCE_LENGTH, encoder.width()]);
            let theirs = golden.tensor("prompt_embeds").get(row).unwrap();
            close(&format!("{} prompt_embeds[{row}], {kinds}", golden.case), &ours, &theirs, tolerance);
        }
    }
}

#[test]
fn prompt_embeds() {
    check_prompt_embeds(f32(), 1e-4);
}

#[test]
fn prompt_embeds_in_half_precision() {
    check_prompt_embeds(Precision::new(DType::F16, Device::Cpu), 5e-3);
    check_prompt_embeds(Precision::new(DType::BF16, Device::Cpu), 4e-2);
    // Like on a GPU, where the activations are rounded too.
    check_prompt_embeds(Precision { weights: DType::BF16, activations: DType::BF16, device: Device::Cpu }, 8e-2);
}

#[test]
fn a_prompt_fills_the_sequence_and_no_more() {
    let encoder = encoder(f32());
    let most = encoder.max_prompt_tokens();
    // Each word is one token, since no two are merged.
    let words = |n: usize| "<|im_end|>".repeat(n);
    let (ids, valid) = encoder.tokenize("prompt", &words(most)).unwrap();
    assert_eq!((ids.len(), valid), (MAX_SEQUENCE_LENGTH, MAX_SEQUENCE_LENGTH));
    assert_eq!(encoder.encode("prompt", &words(most)).unwrap().dims(), [MAX_SEQUENCE_LENGTH, encoder.width()]);
    let Err(PipelineError::Invalid(invalid)) = encoder.encode("negative_prompt", &words(most + 1)) else {
        panic!("the prompt was accepted")
    };
    let message = invalid.to_string();
    assert!(message.contains("negative_prompt") && message.contains(&format!("at most {most} tokens")), "{message}");
    assert!(message.contains(&format!("{} tokens", most + 1)), "{message}");
}
