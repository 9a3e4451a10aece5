//! Random and damaged uploads: each is answered, and nothing panics.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::forms::{Form, in_pieces, post, post_json};
use super::uploads::{form, outcome, outcome_of};
use crate::api::request::Endpoint;

/// The fields that have a meaning in some request.
const NAMES: [&str; 38] = [
    "prompt",
    "model",
    "n",
    "size",
    "width",
    "height",
    "quality",
    "seed",
    "steps",
    "num_inference_steps",
    "sampler",
    "cfg",
    "true_cfg_scale",
    "guidance_scale",
    "negative_prompt",
    "response_format",
    "output_format",
    "output_compression",
    "background",
    "stream",
    "partial_images",
    "preview_interval",
    "preview_method",
    "stream_progress",
    "async",
    "user",
    "safety_identifier",
    "priority",
    "cache",
    "return_timings",
    "return_cache_stats",
    "extra_body",
    "image",
    "images",
    "mask",
    "markup",
    "url",
    "image_url",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-4_i64..40).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "auto",
            "64x64",
            "low",
            "file",
            "url",
            "jpeg",
            "off",
            "data:,",
            "data:image/png;base64,iVBORw0KGgo="
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            any_object(inner).prop_map(Value::from)
        ]
    })
}

fn any_object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![4 => prop::sample::select(NAMES.to_vec()).prop_map(String::from), 1 => any::<String>()];
    prop::collection::btree_map(name, value, 0..8).prop_map(|map| map.into_iter().collect())
}

fn is_answered(outcome: &str) -> bool {
    outcome == "taken" || outcome.starts_with('4')
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

const PICTURES: [&[u8]; 7] = [
    include_bytes!("../../../pictures/testdata/turned.jpg"),
    include_bytes!("../../../pictures/testdata/cmyk.jpg"),
    include_bytes!("../../../pictures/testdata/turned.webp"),
    include_bytes!("../../../pictures/testdata/animated.webp"),
    include_bytes!("../../../pictures/testdata/animated.png"),
    include_bytes!("../../../pictures/testdata/palette.png"),
    include_bytes!("../../../pictures/testdata/animated.gif"),
];

proptest! {
    #[test]
    fn any_json_is_answered(mut object in any_object(any_json()), has_prompt: bool) {
        if has_prompt {
            object.insert("prompt".into(), "a cat".into());
        }
        let body = Value::Object(object).to_string();
        for endpoint in [Endpoint::Generation, Endpoint::Edit] {
            let outcome = block_on(outcome_of(endpoint, post_json(&body)));
            prop_assert!(is_answered(&outcome), "{}", outcome);
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for request in [
            post(bytes.clone()),
            form().part("Content-Disposition: form-data; name=\"image\"", &bytes).request(),
            Form::default().text("prompt", "x").file("image", "a", &[b"\x89PNG\r\n\x1a\n", &bytes[..]].concat()).request(),
            Form::default().text("prompt", "x").file("image", "a", &[b"\xff\xd8\xff\xe0", &bytes[..]].concat()).request(),
            Form::default().text("prompt", "x").file("image", "a", &[b"GIF89a", &bytes[..]].concat()).request(),
            Form::default().part(&format!("Content-Disposition: {}", String::from_utf8_lossy(&bytes)), b"x").request(),
        ] {
            let outcome = block_on(outcome(request));
            prop_assert!(outcome.starts_with('4'), "{}", outcome);
        }
    }

    /// Changes single bytes of a valid request: of the form, and of its picture.
    #[test]
    fn a_damaged_form_is_answered(
        picture in 0..PICTURES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        piece in 1_usize..200,
    ) {
        let mut body = Form::default().text("prompt", "a cat").text("n", "1").file("image", "a", PICTURES[picture]).end();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let outcome = block_on(outcome(post(in_pieces(&body, piece))));
        let panicked = outcome.contains("one that cannot be decoded");
        prop_assert!(is_answered(&outcome) && !panicked, "{}", outcome);
    }
}
