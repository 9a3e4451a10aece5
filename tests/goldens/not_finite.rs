//! Values that are not finite never become a picture. They fail only the request that has them, with an error of its
//! own.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use diffusion::{
    Guidance, ImageRequest, ImageSize, Interrupt, Pipeline, PipelineError, PreviewMethod, PreviewTimes, Previews,
    RgbImage, Sampler, SamplingParams,
};
use models::{AnyPipeline, Checkpoint, LoadOptions};

use crate::compare::{changed_checkpoint, goldens};

const STEPS: usize = 2;

const TEXT_ENCODER: &str = "text_encoder/model-00001-of-00002.safetensors";
const TRANSFORMER: &str = "transformer/diffusion_pytorch_model-00001-of-00003.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

fn request(seed: u64) -> ImageRequest {
    let size = ImageSize { width: 48, height: 32 };
    ImageRequest {
        prompt: "a fox".into(),
        negative_prompt: None,
        input_images: Default::default(),
        mask: None,
        fit: None,
        params: SamplingParams {
            size,
            num_inference_steps: STEPS,
            sampler: Sampler::Euler,
            guidance: Guidance::None,
            seed,
        },
        previews: Some(Previews { times: PreviewTimes::Interval(1), method: PreviewMethod::Vae }),
        cache: None,
        held: Default::default(),
    }
}

fn loaded(folder: &Path) -> AnyPipeline {
    models::load(&Checkpoint::open(folder).unwrap(), &LoadOptions::default(), &|_, _, _| ()).unwrap()
}

/// Loads the tiny checkpoint with one number of a tensor changed.
fn with_number(file: &str, tensor: &str, number: f32) -> AnyPipeline {
    let copy = changed_checkpoint(&goldens().join("models/qwen-image"), &[]);
    let path = copy.path().join(file);
    let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let old = tensors.get(tensor).unwrap_or_else(|| panic!("{tensor} in {:?}", tensors.keys()));
    let (shape, mut numbers) = (old.shape().clone(), old.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    numbers[0] = number;
    tensors.insert(tensor.to_owned(), Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap());
    // The copy must not share the original's file.
    std::fs::remove_file(&path).unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    loaded(copy.path())
}

/// Takes every step. Returns the preview after the first, and the picture.
fn drawn(model: &mut AnyPipeline, method: PreviewMethod) -> [Result<RgbImage, PipelineError>; 2] {
    let go_on = Interrupt::default();
    let mut state = model.prepare(&request(1), &go_on).unwrap();
    model.step(&mut [&mut state], &go_on).unwrap();
    let preview = model.preview(&state, method, &go_on);
    model.step(&mut [&mut state], &go_on).unwrap();
    [preview, model.decode(state, &go_on)]
}

#[test]
fn a_weight_that_is_no_number_makes_no_picture() {
    let weights = [
        (TEXT_ENCODER, "model.layers.0.self_attn.k_proj.weight", "latents"),
        (TRANSFORMER, "transformer_blocks.0.attn.to_k.weight", "latents"),
        (TRANSFORMER, "proj_out.bias", "latents"),
        (VAE, "decoder.mid_block.attentions.0.to_qkv.weight", "pixels"),
        (VAE, "decoder.conv_out.bias", "pixels"),
    ];
    for (file, tensor, what) in weights {
        for number in [f32::NAN, f32::INFINITY] {
            let mut model = with_number(file, tensor, number);
            for method in [PreviewMethod::Vae, PreviewMethod::Latent2Rgb] {
                let expected = Err(PipelineError::NotFinite { what });
                assert_eq!(drawn(&mut model, method), [expected.clone(), expected], "{tensor} {number} {method:?}");
            }
        }
    }
}

#[test]
fn a_request_without_a_picture_leaves_those_of_its_batch_alone() {
    let (mut model, go_on) = (loaded(&goldens().join("models/qwen-image")), Interrupt::default());
    let alone = |model: &mut AnyPipeline, seed| {
        let mut state = model.prepare(&request(seed), &Interrupt::default()).unwrap();
        (0..STEPS).for_each(|_| drop(model.step(&mut [&mut state], &Interrupt::default()).unwrap()));
        model.decode(state, &Interrupt::default()).unwrap()
    };
    let expected = [alone(&mut model, 1), alone(&mut model, 3)];
    let mut states: Vec<_> = (1..=3).map(|seed| model.prepare(&request(seed), &go_on).unwrap()).collect();
    let broken = states.remove(1);
    let nan = (broken.latents() * f64::NAN).unwrap();
    states.insert(1, broken.with_latents(nan));
    for _ in 0..STEPS {
        model.step(&mut states.iter_mut().collect::<Vec<_>>(), &go_on).unwrap();
    }
    let [first, second, third] = states.try_into().map_err(|_| "three").unwrap();
    assert_eq!(model.decode(second, &go_on), Err(PipelineError::NotFinite { what: "latents" }));
    assert!(model.decode(first, &go_on).unwrap() == expected[0] && model.decode(third, &go_on).unwrap() == expected[1]);
}
