//! The diffusion transformer of Qwen-Image-Edit against diffusers, from the recorded inputs of each pass: references
//! after the picture, in all three versions of the model.

use candle_core::{DType, Device, Tensor};
use models::qwen_image::{Transformer, TransformerConfig};
use models::{Checkpoint, Dit, Precision};

use crate::compare::{Golden, goldens};
use crate::dit_rows::{Row, check_ragged_batch, velocities};
use crate::qwen_image_transformer::{check_blocks_and_velocity, check_embeddings, check_first_block, check_rope};

/// Template tokens before the user's turn, which the pipelines cut off.
const TEMPLATE_TOKENS: usize = 64;
/// Pixels per token along a side.
const TOKEN_SIDE: usize = 16;

fn cases() -> Vec<Golden> {
    Golden::all(goldens().join("models/goldens"), "qwen-image-edit-plus.")
}

/// Loads the tiny checkpoint. A published -2511 has the flag in its configuration.
fn transformer(zero_cond_t: bool) -> Transformer {
    let checkpoint = Checkpoint::Dir(goldens().join("models/qwen-image-edit-plus"));
    let config = TransformerConfig { zero_cond_t, ..TransformerConfig::load(&checkpoint).unwrap() };
    let weights = checkpoint.weights("transformer", Precision::new(DType::F32, Device::Cpu)).unwrap();
    Transformer::load(&config, &weights.scope("", &|_, _| ())).unwrap()
}

fn is_2511(golden: &Golden) -> bool {
    golden.case.contains("2511")
}

/// Returns the token rows and columns of a recorded `[1, 3, 1, height, width]` picture.
fn token_grid(golden: &Golden, picture: &str) -> (usize, usize) {
    let dims = golden.tensor(picture).dims();
    (dims[3] / TOKEN_SIDE, dims[4] / TOKEN_SIDE)
}

/// Returns the passes of step `step`: first the prompt, then the negative prompt.
fn rows(golden: &Golden, step: usize) -> [Row; 2] {
    let latents = match step {
        0 => golden.tensor("latents.init"),
        step => golden.tensor(&format!("step.{}.latents", step - 1)),
    };
    let encoded = (0..).map(|i| format!("vae.enc.pixels#{i}")).take_while(|name| golden.has(name));
    let grids = std::iter::once("vae.dec.out".to_owned()).chain(encoded);
    let grids: Vec<_> = grids.map(|picture| token_grid(golden, &picture)).collect();
    let pictures = Tensor::cat(&[latents, golden.tensor("latents.image")], 1).unwrap().get(0).unwrap();
    let sigma = golden.tensor("sched.sigmas").to_vec1::<f32>().unwrap()[step];
    [0, 1].map(|branch| {
        let text = golden.tensor(&format!("text.norm#{branch}")).get(0).unwrap();
        let prompt_embeds = text.narrow(0, TEMPLATE_TOKENS, text.dim(0).unwrap() - TEMPLATE_TOKENS).unwrap();
        Row::new(&pictures, &grids, prompt_embeds, sigma)
    })
}

/// Returns the transformer of a case and its first pass, of which everything is recorded.
fn first_pass(golden: &Golden) -> (Transformer, Row) {
    let [cond, _] = rows(golden, 0);
    (transformer(is_2511(golden)), cond)
}

#[test]
fn all_versions_are_recorded() {
    let recorded: Vec<String> = cases().into_iter().map(|golden| golden.case).collect();
    let versions = ["edit_v1", "plus_2511_zero_cond_t", "plus_2img_mrope3d", "plus_2img_pos1d"];
    assert_eq!(recorded, versions.map(|version| format!("qwen-image-edit-plus.{version}")));
}

#[test]
fn rope_tables_of_every_picture() {
    for golden in cases() {
        let (transformer, row) = first_pass(&golden);
        check_rope(&golden, &transformer.begin(&[row.dit_row()]).unwrap().1);
    }
}

#[test]
fn embeddings() {
    for golden in cases() {
        let (transformer, row) = first_pass(&golden);
        let (streams, context) = transformer.begin(&[row.dit_row()]).unwrap();
        let times = if is_2511(&golden) { vec![row.sigma, 0.0] } else { vec![row.sigma] };
        check_embeddings(&transformer, &golden, (&streams, &context), &times);
        golden.check("dit.txt_norm", 0, &transformer.norm_text(&row.prompt_embeds).unwrap(), 1e-4);
    }
}

#[test]
fn internals_of_the_first_block() {
    for golden in cases() {
        let (transformer, row) = first_pass(&golden);
        let (streams, context) = transformer.begin(&[row.dit_row()]).unwrap();
        check_first_block(&transformer, &golden, (&streams, &context));
    }
}

#[test]
fn every_block_and_the_velocity() {
    for golden in cases() {
        let (transformer, row) = first_pass(&golden);
        check_blocks_and_velocity(&transformer, &golden, transformer.begin(&[row.dit_row()]).unwrap());
    }
}

/// Runs both passes of a step as one ragged batch.
#[test]
fn every_velocity_of_a_run() {
    for golden in cases() {
        let transformer = transformer(is_2511(&golden));
        let steps = golden.tensor("sched.timesteps").dim(0).unwrap();
        for step in 0..steps {
            for (branch, velocity) in velocities(&transformer, &rows(&golden, step)).iter().enumerate() {
                golden.check(&format!("dit#{}", 2 * step + branch), 0, velocity, 1e-4);
            }
        }
        assert!(!golden.has(&format!("dit#{}", 2 * steps)), "{}: passes are left", golden.case);
    }
}

#[test]
fn a_ragged_batch_is_each_row_alone() {
    for zero_cond_t in [false, true] {
        check_ragged_batch(&transformer(zero_cond_t), 64, 64);
    }
}
