//! The diffusion transformer of Qwen-Image against diffusers, from rotary tables to velocities.

use candle_core::Tensor;
use diffusion::{CfgBranch, Interrupt, Pipeline};
use models::qwen_image::{Conditioning, Transformer};
use models::{Dit, DitRow, RequestState, Streams, timestep_embedding};

use crate::compare::{Golden, close};
use crate::qwen_image::{Model, cases, model, request};

/// Prepares the requests of a recorded run, with its own noise.
fn states(model: &mut Model, golden: &Golden) -> Vec<RequestState> {
    let latents = golden.tensor("latents.init");
    let state =
        |i| model.prepare(&request(golden, i), &Interrupt::default()).unwrap().with_latents(latents.get(i).unwrap());
    (0..golden.batch_size()).map(state).collect()
}

/// Begins the conditional pass of every picture, as one ragged batch.
fn begin(model: &Model, golden: &Golden, states: &[RequestState]) -> (Streams, Conditioning) {
    let kw = &golden.run.kw;
    let rows = states.iter().map(|state| DitRow {
        latents: state.latents(),
        token_grid: (kw.height / 16, kw.width / 16),
        references: &[],
        prompt_embeds: state.prompt_embeds(CfgBranch::Cond).unwrap(),
        sigma: state.sigmas().sigma(0),
        guidance: None,
    });
    model.family().transformer().begin(&rows.collect::<Vec<_>>()).unwrap()
}

/// Compares each row of a ragged `ours` with the recorded batch.
#[track_caller]
pub fn check_rows(golden: &Golden, name: &str, ours: &Tensor, rows: &kernels::RowLayout, tolerance: f64) {
    for (i, range) in rows.iter().enumerate() {
        golden.check(name, i, &ours.narrow(0, range.start, range.len()).unwrap(), tolerance);
    }
}

/// Checks the rotary tables of the first recorded pass.
pub fn check_rope(golden: &Golden, context: &Conditioning) {
    let (image, text) = (golden.tensor("dit.rope.0"), golden.tensor("dit.rope.1"));
    for (i, table) in context.rope().iter().enumerate() {
        let text_len = context.text_rows().length(i);
        for (axis, ours) in [table.cos(), table.sin()].into_iter().enumerate() {
            let part = |t: &Tensor| t.narrow(2, axis, 1).unwrap().squeeze(2).unwrap();
            let theirs = Tensor::cat(&[part(text).narrow(0, 0, text_len).unwrap(), part(image)], 0).unwrap();
            close(&format!("{} rope {axis} of row {i}", golden.case), ours, &theirs, 1e-6);
        }
    }
}

/// Checks the embeddings of the first recorded pass; `times` are the noise levels of its modulation.
pub fn check_embeddings(
    transformer: &Transformer,
    golden: &Golden,
    (streams, context): (&Streams, &Conditioning),
    times: &[f32],
) {
    check_rows(golden, "dit.img_in", &streams.hidden_states, context.image_rows(), 1e-5);
    check_rows(golden, "dit.txt_in", streams.encoder().unwrap(), context.text_rows(), 1e-4);
    // Angles reach 1000 rad, where the last bit of an f32 is worth 6e-5. Torch's exponential and ours differ by one bit
    // in one frequency.
    for (name, ours, tolerance) in [
        ("dit.time_proj", timestep_embedding(times, 256, 1000.0, &candle_core::Device::Cpu).unwrap(), 1e-4),
        ("dit.temb", transformer.time_embed(times).unwrap(), 1e-5),
    ] {
        close(&format!("{} {name}", golden.case), &ours, golden.tensor(name), tolerance);
    }
}

/// Checks the internals of the first block.
pub fn check_first_block(transformer: &Transformer, golden: &Golden, (streams, context): (&Streams, &Conditioning)) {
    let (image_rows, text_rows) = (context.image_rows(), context.text_rows());
    let block = &transformer.blocks()[0];
    let [img_mod, txt_mod] = &transformer.modulations(0..1, context).unwrap()[0];
    for (name, ours) in [("dit.blocks.0.img_mod", &img_mod.0), ("dit.blocks.0.txt_mod", &txt_mod.0)] {
        close(&format!("{} {name}", golden.case), ours, golden.tensor(name), 1e-5);
    }

    let image = img_mod.norm1(&streams.hidden_states, context.image_time_rows()).unwrap();
    let text = txt_mod.norm1(streams.encoder().unwrap(), text_rows).unwrap();
    check_rows(golden, "dit.blocks.0.attn.in_hidden_states", &image, image_rows, 1e-5);
    check_rows(golden, "dit.blocks.0.attn.in_encoder_hidden_states", &text, text_rows, 1e-5);

    let dim = image.dim(1).unwrap();
    let q = block.attn.to_qkv.forward(&image).unwrap().narrow(1, 0, dim).unwrap().contiguous().unwrap();
    check_rows(golden, "dit.blocks.0.attn.to_q", &q, image_rows, 1e-5);
    let heads = q.reshape((q.dim(0).unwrap(), (), block.attn.norm_q.dim(0).unwrap())).unwrap();
    let normed = kernels::rms_norm(&heads, &block.attn.norm_q, 1e-6).unwrap();
    check_rows(golden, "dit.blocks.0.attn.norm_q", &normed, image_rows, 1e-5);

    let (text, image) = block.attn.attend((&text, text_rows), (&image, image_rows), context.rope()).unwrap();
    let (image, text) = (block.attn.to_out.forward(&image).unwrap(), block.attn.to_add_out.forward(&text).unwrap());
    check_rows(golden, "dit.blocks.0.attn.0", &image, image_rows, 1e-5);
    check_rows(golden, "dit.blocks.0.attn.1", &text, text_rows, 1e-5);
}

/// Checks both streams after every block, and the outputs of the last layers.
pub fn check_blocks_and_velocity(
    transformer: &Transformer,
    golden: &Golden,
    (mut streams, context): (Streams, Conditioning),
) {
    for i in 0..transformer.blocks().len() {
        streams = transformer.block(0, i, &streams, &context).unwrap();
        check_rows(golden, &format!("dit.blocks.{i}.0"), streams.encoder().unwrap(), context.text_rows(), 1e-4);
        check_rows(golden, &format!("dit.blocks.{i}.1"), &streams.hidden_states, context.image_rows(), 1e-4);
    }
    let normed = transformer.final_norm(&streams.hidden_states, &context).unwrap();
    check_rows(golden, "dit.norm_out", &normed, context.image_rows(), 1e-4);
    for (i, velocity) in transformer.end(&streams, &context).unwrap().iter().enumerate() {
        golden.check("dit#0", i, velocity, 1e-4);
    }
}

#[test]
fn rope_tables() {
    let mut model = model();
    for golden in cases() {
        let states = states(&mut model, &golden);
        check_rope(&golden, &begin(&model, &golden, &states).1);
    }
}

#[test]
fn embeddings() {
    let mut model = model();
    for golden in cases() {
        let states = states(&mut model, &golden);
        let (streams, context) = begin(&model, &golden, &states);
        let sigmas: Vec<f32> = states.iter().map(|state| state.sigmas().sigma(0)).collect();
        check_embeddings(model.family().transformer(), &golden, (&streams, &context), &sigmas);
        for (i, state) in states.iter().enumerate() {
            let normed = model.family().transformer().norm_text(state.prompt_embeds(CfgBranch::Cond).unwrap()).unwrap();
            golden.check("dit.txt_norm", i, &normed, 1e-4);
        }
    }
}

#[test]
fn internals_of_the_first_block() {
    let mut model = model();
    for golden in cases() {
        let states = states(&mut model, &golden);
        let (streams, context) = begin(&model, &golden, &states);
        check_first_block(model.family().transformer(), &golden, (&streams, &context));
    }
}

#[test]
fn every_block_and_the_velocity() {
    let mut model = model();
    for golden in cases() {
        let states = states(&mut model, &golden);
        check_blocks_and_velocity(model.family().transformer(), &golden, begin(&model, &golden, &states));
    }
}
