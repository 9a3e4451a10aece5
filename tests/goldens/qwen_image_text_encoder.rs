//! Tokenizer and language model of Qwen-Image against transformers.

use models::qwen_decoder::Positions;

use crate::compare::close;
use crate::qwen_image::{cases, model};

#[test]
fn token_ids_are_exact() {
    let model = model();
    for golden in cases() {
        let calls = [Some(&golden.run.kw.prompt), golden.run.kw.negative_prompt.as_ref()];
        for (call, prompts) in calls.into_iter().enumerate() {
            let Some(prompts) = prompts else { continue };
            let (name, mask) =
                (format!("text.call#{call}.in_input_ids"), format!("text.call#{call}.in_attention_mask"));
            for i in 0..golden.batch_size() {
                let theirs = golden.tensor(&name).get(i).unwrap().to_vec1::<i64>().unwrap();
                let mask = golden.tensor(&mask).get(i).unwrap().to_vec1::<i64>().unwrap();
                let theirs: Vec<u32> =
                    theirs.iter().zip(mask).filter(|(_, m)| *m == 1).map(|(id, _)| *id as u32).collect();
                assert_eq!(
                    model.family().prompts().unwrap().tokenize("prompt", &prompts.get(i)).unwrap(),
                    theirs,
                    "{}",
                    golden.case
                );
            }
        }
    }
}

#[test]
fn rope_tables() {
    let model = model();
    for golden in cases() {
        for (name, axis) in [("text.rotary.0", 0), ("text.rotary.1", 1)] {
            let theirs = golden.tensor(name).get(0).unwrap();
            let (tokens, head_dim) = theirs.dims2().unwrap();
            let positions = Positions::sequential(tokens);
            let sequence = model.family().prompts().unwrap().language_model.sequence(&positions, tokens).unwrap();
            let ours = if axis == 0 { sequence.cos } else { sequence.sin };
            // transformers stores each angle twice, once for either half of a head.
            close(&format!("{} {name}", golden.case), &ours, &theirs.narrow(1, 0, head_dim / 2).unwrap(), 1e-6);
        }
    }
}

#[test]
fn every_layer() {
    let model = model();
    let language_model = &model.family().prompts().unwrap().language_model;
    for golden in cases() {
        for i in 0..golden.batch_size() {
            let ids = model.family().prompts().unwrap().tokenize("prompt", &golden.run.kw.prompt.get(i)).unwrap();
            let sequence = language_model.sequence(&Positions::sequential(ids.len()), ids.len()).unwrap();
            let mut hidden_states = language_model.embed(&ids).unwrap();
            golden.check("text.embed", i, &hidden_states, 1e-6);
            for (layer, block) in language_model.layers().iter().enumerate() {
                hidden_states = block.forward(&hidden_states, &sequence).unwrap();
                golden.check(&format!("text.layers.{layer}"), i, &hidden_states, 1e-4);
            }
            golden.check("text.norm#0", i, &language_model.final_norm(&hidden_states).unwrap(), 1e-4);
        }
    }
}

#[test]
fn prompt_embeds_of_both_prompts() {
    let model = model();
    for golden in cases() {
        for i in 0..golden.batch_size() {
            let embeds = model.family().prompts().unwrap().encode("prompt", &golden.run.kw.prompt.get(i)).unwrap();
            golden.check("prompt_embeds", i, &embeds, 1e-4);
            let Some(negative) = golden.run.kw.negative_prompt.as_ref().filter(|_| golden.has("negative_embeds"))
            else {
                continue;
            };
            let embeds = model.family().prompts().unwrap().encode("negative_prompt", &negative.get(i)).unwrap();
            golden.check("negative_embeds", i, &embeds, 1e-4);
        }
    }
}
