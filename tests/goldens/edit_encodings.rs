//! Cached encodings from one edit to the next: which are kept, how many bytes, and that results do not change.

use diffusion::{ImageRequest, Interrupt, Lookups, Pipeline};
use models::AnyPipeline;

use crate::edit_models::{PLENTY, edit, finished, guided, klein, latents, mask_from, picture, qwen, size};

/// Hits and misses of prompts, of vision features, and of picture latents.
type Use = [(usize, usize); 3];

const NONE: (usize, usize) = (0, 0);

fn used(model: &mut AnyPipeline, request: &ImageRequest) -> Use {
    let state = model.prepare(request, &Interrupt::default()).unwrap();
    let used = model.encodings(&state);
    [used.prompts, used.vision, used.references].map(|Lookups { hits, misses }| (hits, misses))
}

#[test]
fn qwen_image_edit_encodes_a_picture_once_and_a_prompt_once_for_each_picture() {
    let mut model = qwen(PLENTY);
    let made = size(128, 64);
    let (a, b) = (&picture(1, made), &picture(2, made));
    let pictures =
        |pictures: &[&diffusion::InputImage]| pictures.iter().map(|&picture| picture.clone()).collect::<Vec<_>>();
    let masked = ImageRequest { mask: Some(mask_from(64, made)), ..edit("night", &pictures(&[a]), made) };
    let negative = guided(&model, edit("day", &pictures(&[b]), made), 3.0, "blue");
    let steps: [(&str, ImageRequest, Use); 8] = [
        ("first", edit("night", &pictures(&[a]), made), [(0, 1), (0, 1), (0, 1)]),
        ("the same again", edit("night", &pictures(&[a]), made), [(1, 0), NONE, (1, 0)]),
        ("at another size", edit("night", &pictures(&[a]), size(64, 64)), [(1, 0), NONE, (1, 0)]),
        ("under a mask", masked, [(1, 0), NONE, (2, 0)]),
        ("another prompt", edit("day", &pictures(&[a]), made), [(0, 1), (1, 0), (1, 0)]),
        ("the prompt about another picture", edit("night", &pictures(&[b]), made), [(0, 1), (0, 1), (0, 1)]),
        ("both pictures", edit("night", &pictures(&[b, a]), made), [(0, 1), (2, 0), (2, 0)]),
        // Both prompts are encoded with the picture.
        ("guided", negative, [(0, 2), (2, 0), (1, 0)]),
    ];
    for (name, request, expected) in steps {
        assert_eq!(used(&mut model, &request), expected, "{name}");
    }
}

#[test]
fn flux2_klein_encodes_a_prompt_once_whatever_the_pictures() {
    let mut model = klein(PLENTY);
    let made = size(64, 64);
    let [a, b] = [1, 2].map(|seed| [picture(seed, made)]);
    let steps: [(&str, ImageRequest, Use); 5] = [
        ("no picture", edit("night", &[], made), [(0, 1), NONE, NONE]),
        ("a picture", edit("night", &a, made), [(1, 0), NONE, (0, 1)]),
        ("another prompt", edit("day", &a, made), [(0, 1), NONE, (1, 0)]),
        ("another picture", edit("day", &b, made), [(1, 0), NONE, (0, 1)]),
        ("guided", guided(&model, edit("day", &b, made), 3.0, ""), [(1, 1), NONE, (1, 0)]),
    ];
    for (name, request, expected) in steps {
        assert_eq!(used(&mut model, &request), expected, "{name}");
    }
}

#[test]
fn all_that_is_kept_stays_within_its_bytes() {
    for load in [klein, qwen] {
        // Enough for a prompt and a few pictures, but not for all.
        let bound = 100_000;
        let (mut small, mut large) = (load(bound), load(PLENTY));
        let mut most = 0;
        for seed in 0..8 {
            let request = edit(&format!("night {seed}"), &[picture(seed, size(96, 96))], size(64, 64));
            let [small, large] = [&mut small, &mut large].map(|model| {
                let state = model.prepare(&request, &Interrupt::default()).unwrap();
                model.encodings(&state).bytes
            });
            assert!(small <= bound as u64, "{small} bytes kept, {bound} allowed");
            most = most.max(small);
            assert!(seed < 7 || large > bound as u64, "only {large} bytes to keep: the bound is not met");
        }
        assert!(most > bound as u64 / 2, "only {most} of {bound} bytes are used");
    }
}

#[test]
fn kept_encodings_give_what_fresh_ones_give() {
    for load in [klein, qwen] {
        let (mut keeps, mut forgets) = (load(PLENTY), load(0));
        let pictures = [picture(1, size(96, 96)), picture(2, size(128, 64))];
        let mut request = guided(&keeps, edit("night", &pictures, size(128, 64)), 3.0, "blue");
        request.mask = Some(mask_from(48, size(96, 96)));
        keeps.prepare(&request, &Interrupt::default()).unwrap();
        let [kept, fresh] = [&mut keeps, &mut forgets].map(|model| finished(model, &request));
        let misses = |model: &AnyPipeline, state| {
            let used = model.encodings(state);
            used.prompts.misses + used.vision.misses + used.references.misses
        };
        assert_eq!(misses(&keeps, &kept), 0);
        assert_eq!(forgets.encodings(&fresh).bytes, 0);
        assert!(misses(&forgets, &fresh) >= 4);
        assert!(latents(&kept) == latents(&fresh), "not the same latents, bit for bit");
        assert!(
            keeps.decode(kept, &Interrupt::default()).unwrap() == forgets.decode(fresh, &Interrupt::default()).unwrap()
        );
    }
}
