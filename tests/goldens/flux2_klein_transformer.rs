//! The diffusion transformer of FLUX.2-klein against diffusers, from the recorded inputs of each pass: rotary tables,
//! embeddings, blocks of both kinds, velocities.

use candle_core::{DType, Device, Tensor};
use kernels::RowLayout;
use models::flux2::{Transformer, TransformerConfig};
use models::{Checkpoint, Dit, DitRow, Precision, Streams};

use crate::compare::{Golden, close, goldens};
use crate::dit_rows::{Row, check_ragged_batch, velocities};
use crate::qwen_image_transformer::check_rows;

/// Four pipeline runs: two sizes, CFG, two pictures to edit, and two prompts at once.
fn cases() -> Vec<Golden> {
    let folder = goldens().join("models/goldens");
    let mut cases = Golden::all(folder.clone(), "flux2-klein.t2i_");
    cases.extend(Golden::all(folder, "flux2-klein.edit_"));
    cases
}

fn transformer(weights: DType) -> Transformer {
    let checkpoint = Checkpoint::Dir(goldens().join("models/flux2-klein"));
    let config = TransformerConfig::load(&checkpoint).unwrap();
    let weights = checkpoint.weights("transformer", Precision::new(weights, Device::Cpu)).unwrap();
    Transformer::load(&config, &weights.scope("", &|_, _| ())).unwrap()
}

/// Builds the rows of pass `call` from its recorded inputs.
fn rows(golden: &Golden, call: usize) -> Vec<Row> {
    let input = |name: &str| golden.tensor(&format!("dit#{call}.in_{name}"));
    let grids = token_grids(&input("img_ids").get(0).unwrap().to_vec2::<i64>().unwrap());
    let sigmas = input("timestep").to_vec1::<f32>().unwrap();
    let row = |(i, &sigma): (usize, &f32)| {
        let (pictures, text) = (input("hidden_states").get(i).unwrap(), input("encoder_hidden_states").get(i).unwrap());
        Row::new(&pictures, &grids, text, sigma)
    };
    sigmas.iter().enumerate().map(row).collect()
}

/// Returns the rows and columns of each picture. The tokens of a picture share one time.
fn token_grids(ids: &[Vec<i64>]) -> Vec<(usize, usize)> {
    let pictures = ids.chunk_by(|a, b| a[0] == b[0]);
    let side = |picture: &[Vec<i64>], axis: usize| picture.iter().map(|id| id[axis]).max().unwrap() as usize + 1;
    pictures.map(|picture| (side(picture, 1), side(picture, 2))).collect()
}

/// Begins the first pass, of which everything is recorded.
fn begin(transformer: &Transformer, golden: &Golden) -> (Streams, <Transformer as Dit>::Context, Vec<f32>) {
    let rows = rows(golden, 0);
    let (streams, context) = transformer.begin(&rows.iter().map(Row::dit_row).collect::<Vec<DitRow<'_>>>()).unwrap();
    (streams, context, rows.iter().map(|row| row.sigma).collect())
}

#[test]
fn rope_tables() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let (_, context, _) = begin(&transformer, &golden);
        for (i, table) in context.rope().iter().enumerate() {
            for (name, ours) in [("0", table.cos()), ("1", table.sin())] {
                let recorded = |stream| golden.tensor(&format!("dit.rope#{stream}.{name}"));
                // Text, then image. Each angle is recorded twice, once for either channel of its pair.
                let theirs = Tensor::cat(&[recorded(1), recorded(0)], 0).unwrap();
                let pairs = Tensor::arange_step(0, theirs.dim(1).unwrap() as u32, 2, &Device::Cpu).unwrap();
                let theirs = theirs.index_select(&pairs, 1).unwrap();
                close(&format!("{} rope {name} of row {i}", golden.case), ours, &theirs, 1e-6);
            }
        }
    }
}

#[test]
fn embeddings_and_modulations() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let (streams, context, sigmas) = begin(&transformer, &golden);
        check_rows(&golden, "dit.x_embedder", &streams.hidden_states, context.image_rows(), 1e-5);
        check_rows(&golden, "dit.context_embedder", streams.encoder().unwrap(), context.text_rows(), 1e-5);
        let time_embed = transformer.time_embed(&sigmas, &vec![None; sigmas.len()]).unwrap();
        for (name, ours) in [
            ("dit.temb", &time_embed),
            ("dit.double_stream_modulation_img", context.double_img().vectors()),
            ("dit.double_stream_modulation_txt", context.double_txt().vectors()),
            ("dit.single_stream_modulation", context.single().vectors()),
        ] {
            close(&format!("{} {name}", golden.case), ours, golden.tensor(name), 1e-5);
        }
    }
}

#[test]
fn internals_of_the_first_dual_block() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let (streams, context, _) = begin(&transformer, &golden);
        let (image_rows, text_rows) = (context.image_rows(), context.text_rows());
        let (modulation, block) = (context.double_img(), &transformer.blocks()[0]);
        let image_in = modulation.norm(0, &streams.hidden_states, image_rows).unwrap();
        let text_in = context.double_txt().norm(0, streams.encoder().unwrap(), text_rows).unwrap();
        let attended = block.attn.attend((&text_in, text_rows), (&image_in, image_rows), context.rope());
        let (text, image) = attended.unwrap();
        let (to_out, to_add_out) = (&block.attn.to_out, &block.attn.to_add_out);
        check_rows(&golden, "dit.blocks.0.attn.0", &to_out.forward(&image).unwrap(), image_rows, 1e-5);
        check_rows(&golden, "dit.blocks.0.attn.1", &to_add_out.forward(&text).unwrap(), text_rows, 1e-5);

        let gate = modulation.gate(0).unwrap();
        let hidden = to_out.forward_gated(&image, &streams.hidden_states, &gate, image_rows).unwrap();
        let ff = block.ff.forward(&modulation.norm(1, &hidden, image_rows).unwrap()).unwrap();
        check_rows(&golden, "dit.blocks.0.ff", &ff, image_rows, 1e-5);
    }
}

/// Starts from the recorded streams after the dual-stream blocks.
#[test]
fn internals_of_the_first_single_block() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let (_, context, _) = begin(&transformer, &golden);
        let last = transformer.blocks().len() - 1;
        let stream = |i: usize| golden.tensor(&format!("dit.blocks.{last}.{i}")).flatten_to(1).unwrap();
        let streams = Streams { hidden_states: stream(1), encoder_hidden_states: Some(stream(0)) };
        let streams = transformer.enter(1, streams, &context).unwrap();
        let rows = context.joint_rows();
        let normed = context.single().norm(0, &streams.hidden_states, rows).unwrap();
        let block = &transformer.single_blocks()[0];
        let parts = [block.to_qkv.forward(&normed).unwrap(), block.to_mlp.forward(&normed).unwrap()];
        check_rows(&golden, "dit.single.0.proj_in", &Tensor::cat(&parts, 1).unwrap(), rows, 1e-5);
        let streams = transformer.block(1, 0, &streams, &context).unwrap();
        check_rows(&golden, "dit.single.0", &streams.hidden_states, rows, 1e-5);
    }
}

#[test]
fn every_block_and_the_velocity() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let (mut streams, context, _) = begin(&transformer, &golden);
        for i in 0..transformer.blocks().len() {
            streams = transformer.block(0, i, &streams, &context).unwrap();
            check_rows(&golden, &format!("dit.blocks.{i}.0"), streams.encoder().unwrap(), context.text_rows(), 1e-4);
            check_rows(&golden, &format!("dit.blocks.{i}.1"), &streams.hidden_states, context.image_rows(), 1e-4);
        }
        streams = transformer.enter(1, streams, &context).unwrap();
        for i in 0..transformer.single_blocks().len() {
            streams = transformer.block(1, i, &streams, &context).unwrap();
            check_rows(&golden, &format!("dit.single.{i}"), &streams.hidden_states, context.joint_rows(), 1e-4);
        }
        let (image, image_rows) = image_tokens(&streams, &context);
        let normed = transformer.final_norm(&image, image_rows, &context).unwrap();
        check_rows(&golden, "dit.norm_out", &normed, image_rows, 1e-4);
        for (i, velocity) in transformer.end(&streams, &context).unwrap().iter().enumerate() {
            golden.check("dit#0", i, velocity, 1e-4);
        }
    }
}

/// Returns each row's image tokens in single-stream blocks, references included.
fn image_tokens<'c>(streams: &Streams, context: &'c <Transformer as Dit>::Context) -> (Tensor, &'c RowLayout) {
    let rows = context.joint_rows().iter().zip(context.text_rows().iter());
    let images = rows.map(|(joint, text)| {
        streams.hidden_states.narrow(0, joint.start + text.len(), joint.len() - text.len()).unwrap()
    });
    (Tensor::cat(&images.collect::<Vec<_>>(), 0).unwrap(), context.image_rows())
}

/// Checks every recorded pass, both passes of guided steps included, and returns their number.
fn check_velocities(transformer: &Transformer, golden: &Golden, tolerance: f64) -> usize {
    let calls = (0..).take_while(|call| golden.has(&format!("dit#{call}")));
    calls
        .inspect(|&call| {
            for (i, velocity) in velocities(transformer, &rows(golden, call)).iter().enumerate() {
                golden.check(&format!("dit#{call}"), i, velocity, tolerance);
            }
        })
        .count()
}

#[test]
fn every_velocity_of_a_run() {
    let transformer = transformer(DType::F32);
    for golden in cases() {
        let steps = golden.tensor("sched.timesteps").dim(0).unwrap();
        let passes = if golden.case.ends_with("cfg_base") { 2 * steps } else { steps };
        assert_eq!(check_velocities(&transformer, &golden, 1e-4), passes, "{}: passes", golden.case);
    }
}

/// The only error is the rounding of the weights to 8 and 11 bits.
#[test]
fn velocities_of_half_precision_weights() {
    let golden = &Golden::all(goldens().join("models/goldens"), "flux2-klein.edit_2img")[0];
    for (weights, tolerance) in [(DType::BF16, 3e-2), (DType::F16, 4e-3)] {
        assert!(check_velocities(&transformer(weights), golden, tolerance) > 0);
    }
}

#[test]
fn a_ragged_batch_is_each_row_alone() {
    check_ragged_batch(&transformer(DType::F32), 128, 96);
}
