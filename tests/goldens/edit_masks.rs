//! Masked edits: the picture stays unchanged outside the mask.

use std::sync::Arc;

use diffusion::{ImageRequest, ImageSize, Interrupt, Mask, Pipeline, PreviewMethod, PreviewTimes, Previews, RgbImage};
use models::{AnyPipeline, Filter, resize};

use crate::edit_models::{PLENTY, edit, finished, klein, latents, mask_from, picture, qwen, size};

/// A size at which both models edit a picture of the same size.
const OWN: ImageSize = ImageSize { width: 128, height: 64 };

fn both() -> [(&'static str, AnyPipeline); 2] {
    [("FLUX.2-klein", klein(PLENTY)), ("Qwen-Image-Edit", qwen(PLENTY))]
}

fn masked(mask: Arc<Mask>, made: ImageSize) -> ImageRequest {
    ImageRequest { mask: Some(mask), ..edit("make it night", &[picture(1, OWN)], made) }
}

/// Returns the largest difference between two pictures in these columns.
fn worst(a: &RgbImage, b: &RgbImage, columns: std::ops::Range<usize>) -> u8 {
    assert_eq!(a.size, b.size);
    let pairs = a.pixels.iter().zip(&b.pixels).enumerate();
    let inside = pairs.filter(|(i, _)| columns.contains(&(i / 3 % a.size.width)));
    inside.map(|(_, (a, b))| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn pixels_outside_are_the_pictures() {
    for (name, mut model) in both() {
        let request = masked(mask_from(72, OWN), OWN);
        let state = finished(&mut model, &request);
        let said = model.warnings(&state).concat();
        assert!(said.starts_with("the mask is honoured by blending: outside of it the latents follow"), "{said}");
        let made = model.decode(state, &Interrupt::default()).unwrap();
        let input = &request.input_images[0].image;
        let (outside, inside) = (worst(&made, input, 0..72), worst(&made, input, 72..128));
        println!("{name}: outside off by {outside}, 1 allowed; inside by up to {inside}");
        assert!(outside <= 1 && inside > 10, "{name}: outside off by {outside}, inside by up to {inside}");
    }
}

/// 100x72 is not a whole number of tokens, and not the picture's aspect ratio.
#[test]
fn pixels_outside_are_the_resized_pictures_at_a_size_of_its_own() {
    let made_size = size(100, 72);
    for (name, mut model) in both() {
        // Column 64 of 128 is column 50 of 100; a few columns around it are blended.
        let request = masked(mask_from(64, OWN), made_size);
        let state = finished(&mut model, &request);
        let made = model.decode(state, &Interrupt::default()).unwrap();
        let resized = resize(&request.input_images[0].image, made_size, Filter::Lanczos);
        assert_eq!(worst(&made, &resized, 0..46), 0, "{name}: outside");
        assert!(worst(&made, &resized, 54..100) > 10, "{name}: inside");
    }
}

#[test]
fn a_mask_of_which_nothing_may_change_gives_the_picture_back() {
    for (name, mut model) in both() {
        let request = masked(mask_from(128, OWN), OWN);
        let state = finished(&mut model, &request);
        assert!(model.decode(state, &Interrupt::default()).unwrap() == request.input_images[0].image, "{name}");
    }
}

#[test]
fn a_mask_of_which_all_may_change_changes_nothing() {
    for (name, mut model) in both() {
        for made in [OWN, size(100, 72)] {
            let request = masked(mask_from(0, OWN), made);
            let (masked, free) = (finished(&mut model, &request), {
                let free = ImageRequest { mask: None, ..request };
                finished(&mut model, &free)
            });
            assert!(latents(&masked) == latents(&free), "{name} at {made}: not the same latents, bit for bit");
            assert!(model.warnings(&free).is_empty(), "{name}: a warning without a mask");
            assert!(
                model.decode(masked, &Interrupt::default()).unwrap()
                    == model.decode(free, &Interrupt::default()).unwrap(),
                "{name} at {made}"
            );
        }
    }
}

#[test]
fn previews_keep_the_outside_too() {
    for (name, mut model) in both() {
        let mut request = masked(mask_from(72, OWN), OWN);
        for method in [PreviewMethod::Vae, PreviewMethod::Latent2Rgb] {
            request.previews = Some(Previews { method, times: PreviewTimes::Interval(1) });
            let mut state = model.prepare(&request, &Interrupt::default()).unwrap();
            for step in 0..2 {
                model.step(&mut [&mut state], &Interrupt::default()).unwrap();
                let drawn = model.preview(&state, method, &Interrupt::default()).unwrap();
                let input = &request.input_images[0].image;
                assert_eq!(worst(&drawn, input, 0..72), 0, "{name}: {method:?} after step {step}");
                assert!(worst(&drawn, input, 72..128) > 10, "{name}: {method:?} after step {step}: inside");
            }
        }
    }
}
