//! Every field of a request: the one place that names, types, bounds and describes it. `validate` reads them and
//! /openapi.json lists them. A name that is not here is skipped while a body is parsed.

use diffusion::{MAX_GUIDANCE, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS, PreviewMethod, Quality, Sampler};
use scheduler::PRIORITIES;

use super::asked::{ImageField, MAX_PARTIAL_IMAGES, ResponseFormat};
use super::given::Shape;
use super::kinds::{AnyField, Field, Flag, Integer, MoreFields, OneOf, PictureNames, Settings, Text, Weight, Word};
use pictures::OutputFormat;

/// All fields, in the order of the description.
pub(crate) static FIELDS: [&dyn AnyField; 36] = [
    &PROMPT,
    &NEGATIVE_PROMPT,
    &MODEL,
    &N,
    &SIZE,
    &WIDTH,
    &HEIGHT,
    &SEED,
    &QUALITY,
    &NUM_INFERENCE_STEPS,
    &SAMPLER,
    &GUIDANCE_SCALE,
    &TRUE_CFG_SCALE,
    &RESPONSE_FORMAT,
    &OUTPUT_FORMAT,
    &OUTPUT_COMPRESSION,
    &EMBED_METADATA,
    &BACKGROUND,
    &STREAM,
    &PARTIAL_IMAGES,
    &PREVIEW_INTERVAL,
    &PREVIEW_METHOD,
    &STREAM_PROGRESS,
    &ASYNC,
    &CACHE,
    &RETURN_TIMINGS,
    &RETURN_CACHE_STATS,
    &USER,
    &SAFETY_IDENTIFIER,
    &EXTRA_BODY,
    &PRIORITY,
    &IMAGES,
    &IMAGE,
    &URL,
    &MASK,
    &MARKUP,
];

/// Returns the field with this name or alias, and what is kept of its value.
pub(crate) fn known(name: &str) -> Option<(&'static str, Shape)> {
    FIELDS.iter().find_map(|field| Some((field.named(name)?, field.shape())))
}

const PROMPTS: Text = Text { max_chars: Some(MAX_PROMPT_CHARS), says_something: false };
const ANY_TEXT: Text = Text { max_chars: None, says_something: false };
const SIDE: Integer = Integer { least: 1, most: i64::MAX };

// The picture.

pub(crate) const PROMPT: Field<Text> =
    Field::new("prompt", "What the picture should show.", Text { says_something: true, ..PROMPTS });
pub(crate) const NEGATIVE_PROMPT: Field<Text> = Field::new(
    "negative_prompt",
    "What the picture should not show, in place of the model's default (see `/info`). It has an effect only if \
     guidance runs two passes a step: a scale of 1 turns that off.",
    PROMPTS,
);
pub(crate) const MODEL: Field<Word> = Field::new("model", "One of the served model's names.", Word { pattern: None });
pub(crate) const N: Field<Integer> =
    Field::new("n", "Pictures to make.", Integer { least: 1, most: MAX_IMAGES }).or("1");
/// `width` and `height` are alternatives, which take numbers.
pub(crate) const SIZE: Field<Word> = Field::new(
    "size",
    "`auto` is the model's default for a generation. For an edit the model takes the shape of the mask's picture, or \
     else of the first or last one. Also accepted as `width` and `height`.",
    Word { pattern: Some("^(auto|[0-9]+x[0-9]+)$") },
)
.or("\"auto\"");
pub(crate) const WIDTH: Field<Integer> = Field::new("width", "", SIDE);
pub(crate) const HEIGHT: Field<Integer> = Field::new("height", "", SIDE);
pub(crate) const SEED: Field<Integer> = Field::new(
    "seed",
    "Seed of the noise: the same seed makes the same picture again. GivenPicture i of a request has seed + i, wrapping to \
     0. -1, the same as no seed, draws one for each picture; the answer has it.",
    Integer { least: -1, most: i64::MAX },
)
.or("-1");

// Denoising.

pub(crate) const QUALITY: Field<OneOf<Quality>> = Field::new(
    "quality",
    "How much work to spend: selects the number of steps, unless that is given.",
    OneOf(&[
        ("auto", Quality::Medium),
        ("low", Quality::Low),
        ("medium", Quality::Medium),
        ("standard", Quality::Medium),
        ("high", Quality::High),
        ("hd", Quality::High),
        ("xhigh", Quality::High),
        ("max", Quality::High),
    ]),
)
.or("\"auto\"");
/// Other servers call it `steps` or `step`.
pub(crate) const NUM_INFERENCE_STEPS: Field<Integer> = Field::new(
    "num_inference_steps",
    "Denoising steps, in place of those of `quality`. Also accepted as `steps` or `step`.",
    Integer { least: 1, most: MAX_INFERENCE_STEPS },
)
.also(&["steps", "step"]);
pub(crate) const SAMPLER: Field<OneOf<Sampler>> = Field::new(
    "sampler",
    "The sampler, on the model's own schedule, in place of the server's default (see `/info`). `euler` is the models' \
     own, and few-step (distilled) models need it. `heun` runs the transformer twice a step, but once in the last, and \
     each run counts as a step of progress, cache and timings. `dpmpp_2m` and `unipc` run it once a step and reuse \
     earlier results.",
    OneOf(&Sampler::NAMED),
);
pub(crate) const GUIDANCE_SCALE: Field<Weight> = Field::new(
    "guidance_scale",
    "Guidance weight of models with plain classifier-free guidance, or with guidance as an input (see `/info`). Other \
     models ignore it.",
    Weight { most: MAX_GUIDANCE },
);
/// Other servers call it `cfg`, vllm-omni's scripts `cfg_scale`.
pub(crate) const TRUE_CFG_SCALE: Field<Weight> = Field::new(
    "true_cfg_scale",
    "Weight of true classifier-free guidance, in place of the model's default; 1 turns it off. Also accepted as \
     `cfg_scale` or `cfg`.",
    Weight { most: MAX_GUIDANCE },
)
.also(&["cfg_scale", "cfg"]);

// The file.

pub(crate) const RESPONSE_FORMAT: Field<OneOf<ResponseFormat>> = Field::new(
    "response_format",
    "Where the picture is: base64 in the JSON, behind a URL that is valid for an hour without a key, or the whole \
     answer (`file`, for one picture; the same as `Accept: image/*`).",
    OneOf(&[
        ("b64_json", ResponseFormat::Field(ImageField::B64Json)),
        ("url", ResponseFormat::Field(ImageField::Url)),
        ("file", ResponseFormat::File),
    ]),
)
.or("\"b64_json\"");
pub(crate) const OUTPUT_FORMAT: Field<OneOf<OutputFormat>> = Field::new(
    "output_format",
    "The file format.",
    OneOf(&[
        ("png", OutputFormat::Png),
        ("jpeg", OutputFormat::Jpeg),
        ("jpg", OutputFormat::Jpeg),
        ("webp", OutputFormat::WebP),
    ]),
)
.or("\"png\"");
pub(crate) const OUTPUT_COMPRESSION: Field<Integer> =
    Field::new("output_compression", "JPEG quality.", Integer { least: 0, most: 100 }).or("100");
pub(crate) const EMBED_METADATA: Field<Flag> = flag(
    "embed_metadata",
    "Write how the picture was made, prompt and seed included, into a PNG's text chunk `parameters`.",
);
/// OpenAI's values, and whether the model can make such a picture.
pub(crate) const BACKGROUND: Field<OneOf<bool>> = Field::new(
    "background",
    "Always opaque: the model has no alpha.",
    OneOf(&[("auto", true), ("opaque", true), ("transparent", false)]),
)
.or("\"auto\"");

// Events.

pub(crate) const STREAM: Field<Flag> = flag("stream", "Answer with server-sent events: previews, progress, pictures.");
pub(crate) const PARTIAL_IMAGES: Field<Integer> = Field::new(
    "partial_images",
    "Previews of each picture, spread over its steps. Only with `stream` or `async`.",
    Integer { least: 0, most: MAX_PARTIAL_IMAGES },
)
.or("0");
pub(crate) const PREVIEW_INTERVAL: Field<Integer> = Field::new(
    "preview_interval",
    "Steps between previews, in place of `partial_images`.",
    Integer { least: 1, most: i64::MAX },
);
pub(crate) const PREVIEW_METHOD: Field<OneOf<PreviewMethod>> = Field::new(
    "preview_method",
    "How previews are made: by a fit of the latent channels to colours, which costs almost nothing, or by the VAE, \
     which takes as long as decoding the picture.",
    OneOf(&[("latent2rgb", PreviewMethod::Latent2Rgb), ("vae", PreviewMethod::Vae)]),
)
.or("\"latent2rgb\"");
pub(crate) const STREAM_PROGRESS: Field<Flag> = flag(
    "stream_progress",
    "An event after every step, with what the step cache did. OpenAI has no such event: its Python client raises on \
     it under strict validation (`_strict_response_validation`).",
);

// Handling of the request.

pub(crate) const ASYNC: Field<Flag> =
    flag("async", "Answer at once with a job to poll; the same as `Prefer: respond-async`.");
pub(crate) const CACHE: Field<Settings> = Field::new(
    "cache",
    "The request's own step cache: `off`, a preset's name, or an object of settings that override the server's.",
    Settings,
);
pub(crate) const RETURN_TIMINGS: Field<Flag> = flag("return_timings", "Report the time of each stage.");
pub(crate) const RETURN_CACHE_STATS: Field<Flag> =
    flag("return_cache_stats", "Report what the step cache computed and reused.");
pub(crate) const USER: Field<Text> =
    Field::new("user", "The client's identifier of its user. It has no effect.", ANY_TEXT);
pub(crate) const SAFETY_IDENTIFIER: Field<Text> =
    Field::new("safety_identifier", "The same as `user`, but the answer repeats it.", ANY_TEXT);
pub(crate) const EXTRA_BODY: Field<MoreFields> = Field::new(
    "extra_body",
    "Further fields, as some clients nest them; the body's own take precedence.",
    MoreFields(known),
);
pub(crate) const PRIORITY: Field<Integer> = Field::new(
    "priority",
    "Urgency: more urgent requests run first, within bounds.",
    Integer { least: *PRIORITIES.start() as i64, most: *PRIORITIES.end() as i64 },
)
.or("0");

// Pictures, which differ between a form and JSON: `openapi` describes them.

pub(crate) const IMAGES: Field<PictureNames> = Field::new("images", "", PictureNames(Shape::Pictures));
pub(crate) const IMAGE: Field<PictureNames> = Field::new("image", "", PictureNames(Shape::Pictures));
/// The name in vllm-omni's clients.
pub(crate) const URL: Field<PictureNames> = Field::new("url", "", PictureNames(Shape::Pictures));
pub(crate) const MASK: Field<PictureNames> = Field::new("mask", "", PictureNames(Shape::Picture));
/// A drawing over a picture: refused.
pub(crate) const MARKUP: Field<PictureNames> = Field::new("markup", "", PictureNames(Shape::Counted));

const fn flag(name: &'static str, about: &'static str) -> Field<Flag> {
    Field::new(name, about, Flag).or("false")
}
