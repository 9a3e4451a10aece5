//! Resizing and patches of Qwen-Image-Edit's pictures against Pillow and transformers.

use candle_core::{Device, Tensor};
use diffusion::{ImageSize, RgbImage};
use models::qwen2_5_vl::ImageProcessor;
use models::{Checkpoint, Filter, resize};

use crate::compare::{Golden, goldens};
use crate::qwen_image_edit_encoder::{cases, checkpoint, encoder, grids, prompts};

/// Returns the pictures as they were given to the pipeline: two for the `2img` cases, else the first only.
fn inputs(golden: &Golden) -> Vec<RgbImage> {
    let names: &[&str] = if golden.case.contains("2img") { &["a", "b"] } else { &["a"] };
    let open = |name: &&str| {
        let path = goldens().join(format!("models/qwen-image-edit-plus/input_{name}.png"));
        let image = image::load_from_memory(&std::fs::read(path).unwrap()).unwrap().into_rgb8();
        let size = ImageSize { width: image.width() as usize, height: image.height() as usize };
        RgbImage { size, pixels: image.into_raw() }
    };
    names.iter().map(open).collect()
}

/// Returns the pictures as the pipeline passed them to the processor.
fn cond_images(golden: &Golden) -> Vec<RgbImage> {
    let picture = |i: usize| {
        let tensor = golden.tensor(&format!("proc#0.cond_image_u8.{i}"));
        let (height, width, _) = tensor.dims3().unwrap();
        RgbImage { size: ImageSize { width, height }, pixels: tensor.flatten_all().unwrap().to_vec1().unwrap() }
    };
    (0..grids(golden).len()).map(picture).collect()
}

#[test]
fn lanczos_is_pillow_s() {
    for golden in cases() {
        for (i, (input, theirs)) in inputs(&golden).iter().zip(cond_images(&golden)).enumerate() {
            let ours = resize(input, theirs.size, Filter::Lanczos);
            let worst = ours.pixels.iter().zip(&theirs.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            println!("{} picture {i}: a byte differs by {worst} at most", golden.case);
            assert_eq!(worst, 0, "{} picture {i}: a byte differs by {worst}", golden.case);
        }
    }
}

#[test]
fn pixel_values_within_two_grey_levels() {
    let processor = ImageProcessor::load(&checkpoint(), "processor").unwrap();
    for golden in cases() {
        let (patches, given): (Vec<_>, Vec<_>) =
            cond_images(&golden).iter().map(|picture| processor.pixel_values(picture).unwrap()).unzip();
        assert_eq!(given, grids(&golden), "{}", golden.case);
        // [patches, colour, frames and pixels]
        let by_colour = |t: &Tensor| t.reshape(((), 3, 1176 / 3)).unwrap();
        let ours = by_colour(&Tensor::cat(&patches, 0).unwrap());
        let theirs = by_colour(golden.tensor("proc#0.pixel_values"));
        let grey_levels: Vec<f32> = processor.image_std.iter().map(|std| (std * 255.0) as f32).collect();
        let grey_levels = Tensor::new(grey_levels, &Device::Cpu).unwrap().reshape((1, 3, 1)).unwrap();
        let moved = (ours - theirs).unwrap().abs().unwrap().broadcast_mul(&grey_levels).unwrap();
        let worst = moved.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        println!("{}: {worst:.3} grey levels at most", golden.case);
        assert!(worst <= 2.001, "{}: {worst} grey levels", golden.case);
    }
}

/// Starts from the original pictures.
#[test]
fn prompt_embeds_of_pictures() {
    for golden in cases() {
        let encoder = encoder(&golden);
        let sizes = cond_images(&golden).into_iter().map(|picture| picture.size);
        let inputs = inputs(&golden);
        let see = |(input, size)| encoder.vision_features(&resize(input, size, Filter::Lanczos)).unwrap();
        let pictures: Vec<_> = inputs.iter().zip(sizes).map(see).collect();
        for (field, prompt, call) in prompts(&golden) {
            let ours = encoder.encode(field, &prompt, &pictures).unwrap();
            let theirs = golden.tensor(&format!("text.norm#{call}")).get(0).unwrap();
            let theirs = theirs.narrow(0, 64, theirs.dim(0).unwrap() - 64).unwrap();
            crate::compare::close(&format!("{} {field}", golden.case), &ours, &theirs, 3e-2);
        }
    }
}

#[test]
fn a_checkpoint_without_the_processor_names_its_file() {
    let folder = goldens().join("models/qwen-image");
    let message = ImageProcessor::load(&Checkpoint::Dir(folder), "processor").unwrap_err().to_string();
    assert!(message.starts_with("`processor/preprocessor_config.json` is missing"), "{message}");
}
