//! Every field of a request: the one place that names, types, bounds and describes it. `validate` reads them and
//! /openapi.json lists them. A name that is not here is skipped while a body is parsed.

use diffusion::{MAX_GUIDANCE, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS, PreviewMethod, Quality, Sampler};
use scheduler::PRIORITIES;

use super::asked::{ImageField, MAX_PARTIAL_IMAGES, ResponseFormat};
use super::given::Shape;
use super::kinds::{AnyField, Field, Flag, Integer, MoreFields, Named, OneOf, Settings, Text, Weight, Word};
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
    Field::new("prompt", "What the picture shall show.", Text { says_something: true, ..PROMPTS });
pub(crate) const NEGATIVE_PROMPT: Field<Text> = Field::new(
    "negative_prompt",
    "What it shall not show, in place of the model's default, which `/info` has. It counts where guidance makes two \
     passes: a scale of 1 turns them off.",
    PROMPTS,
);
pub(crate) const MODEL: Field<Word> = Field::new("model", "One of the served model's names.", Word { pattern: None });
pub(crate) const N: Field<Integer> =
    Field::new("n", "Pictures to make.", Integer { least: 1, most: MAX_IMAGES }).or("1");
/// `width` and `height` are alternatives, which take numbers.
pub(crate) const SIZE: Field<Word> = Field::new(
    "size",
    "`auto` is the model's default for a generation, and for an edit what the model makes of its pictures: of a mask's \
     picture, or of the first or last one, the shape. Also read as `width` and `height`.",
    Word { pattern: Some("^(auto|[0-9]+x[0-9]+)$") },
)
.or("\"auto\"");
pub(crate) const WIDTH: Field<Integer> = Field::new("width", "", SIDE);
pub(crate) const HEIGHT: Field<Integer> = Field::new("height", "", SIDE);
pub(crate) const SEED: Field<Integer> = Field::new(
    "seed",
    "The noise's seed: it makes the same picture again. Picture i of a request has seed + i, and 0 follows the last one. \
     -1, as none, draws one for each picture; the answer has it.",
    Integer { least: -1, most: i64::MAX },
)
.or("-1");

// Denoising.

pub(crate) const QUALITY: Field<OneOf<Quality>> = Field::new(
    "quality",
    "How much work the picture is worth: it picks the steps, unless they are given.",
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
    "Denoising steps, in place of those that `quality` stands for. Also read as `steps` or `step`.",
    Integer { least: 1, most: MAX_INFERENCE_STEPS },
)
.also(&["steps", "step"]);
pub(crate) const SAMPLER: Field<OneOf<Sampler>> = Field::new(
    "sampler",
    "How the picture gets from noise level to noise level, along the model's own schedule, in place of the server's \
     default, which `/info` has. `euler` is what the models come with, and what few-step (distilled) ones need; `heun` \
     runs the transformer twice a step, but once in the last, and each run counts as a step wherever steps are told, \
     cached or timed; `dpmpp_2m` and `unipc` run it once and remember what it said before.",
    OneOf(&Sampler::NAMED),
);
pub(crate) const GUIDANCE_SCALE: Field<Weight> = Field::new(
    "guidance_scale",
    "The weight of models with plain classifier-free guidance, or with guidance as an input: `/info` says which it is. \
     Others ignore it.",
    Weight { most: MAX_GUIDANCE },
);
/// Other servers call it `cfg`, vllm-omni's scripts `cfg_scale`.
pub(crate) const TRUE_CFG_SCALE: Field<Weight> = Field::new(
    "true_cfg_scale",
    "The weight of true classifier-free guidance, in place of the model's default; 1 turns it off. Also read as \
     `cfg_scale` or `cfg`.",
    Weight { most: MAX_GUIDANCE },
)
.also(&["cfg_scale", "cfg"]);

// The file.

pub(crate) const RESPONSE_FORMAT: Field<OneOf<ResponseFormat>> = Field::new(
    "response_format",
    "Where the picture stands: as base64 in the JSON, behind a URL that needs no key and lives for an hour, or as the \
     whole answer (`file`, for one picture; so does `Accept: image/*`).",
    OneOf(&[
        ("b64_json", ResponseFormat::Field(ImageField::B64Json)),
        ("url", ResponseFormat::Field(ImageField::Url)),
        ("file", ResponseFormat::File),
    ]),
)
.or("\"b64_json\"");
pub(crate) const OUTPUT_FORMAT: Field<OneOf<OutputFormat>> = Field::new(
    "output_format",
    "The kind of file.",
    OneOf(&[
        ("png", OutputFormat::Png),
        ("jpeg", OutputFormat::Jpeg),
        ("jpg", OutputFormat::Jpeg),
        ("webp", OutputFormat::WebP),
    ]),
)
.or("\"png\"");
pub(crate) const OUTPUT_COMPRESSION: Field<Integer> =
    Field::new("output_compression", "JPEG's quality.", Integer { least: 0, most: 100 }).or("100");
pub(crate) const EMBED_METADATA: Field<Flag> =
    flag("embed_metadata", "A PNG says how it was made, prompt and seed included, in a text chunk `parameters`.");
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
    "Previews of each picture, spread over its steps. Only where `stream` or `async` is true.",
    Integer { least: 0, most: MAX_PARTIAL_IMAGES },
)
.or("0");
pub(crate) const PREVIEW_INTERVAL: Field<Integer> = Field::new(
    "preview_interval",
    "In place of `partial_images`: a preview after each so many steps.",
    Integer { least: 1, most: i64::MAX },
);
pub(crate) const PREVIEW_METHOD: Field<OneOf<PreviewMethod>> = Field::new(
    "preview_method",
    "How a preview is drawn: by a fit of the latents' channels to colours, which costs next to nothing, or by the VAE, \
     which takes as long as the picture's own decoding.",
    OneOf(&[("latent2rgb", PreviewMethod::Latent2Rgb), ("vae", PreviewMethod::Vae)]),
)
.or("\"latent2rgb\"");
pub(crate) const STREAM_PROGRESS: Field<Flag> = flag(
    "stream_progress",
    "An event after every step: which it was, and what the step cache did. OpenAI has no such event: its Python client \
     raises on one where it validates strictly (`_strict_response_validation`).",
);

// Handling of the request.

pub(crate) const ASYNC: Field<Flag> =
    flag("async", "Answer at once with a job to ask after; so does `Prefer: respond-async`.");
pub(crate) const CACHE: Field<Settings> = Field::new(
    "cache",
    "The request's own step cache: `off`, a preset's name, or an object of settings over the server's.",
    Settings,
);
pub(crate) const RETURN_TIMINGS: Field<Flag> = flag("return_timings", "Say where the time went.");
pub(crate) const RETURN_CACHE_STATS: Field<Flag> =
    flag("return_cache_stats", "Say what the step cache computed and reused.");
pub(crate) const USER: Field<Text> = Field::new("user", "Who asks, by the client's word: of no effect.", ANY_TEXT);
pub(crate) const SAFETY_IDENTIFIER: Field<Text> =
    Field::new("safety_identifier", "The same, which the answer repeats.", ANY_TEXT);
pub(crate) const EXTRA_BODY: Field<MoreFields> =
    Field::new("extra_body", "More fields, as some clients nest them; the body's own go first.", MoreFields(known));
pub(crate) const PRIORITY: Field<Integer> = Field::new(
    "priority",
    "Its urgency: what is more urgent goes first, within bounds.",
    Integer { least: *PRIORITIES.start() as i64, most: *PRIORITIES.end() as i64 },
)
.or("0");

// Pictures, which differ between a form and JSON: `openapi` describes them.

pub(crate) const IMAGES: Field<Named> = Field::new("images", "", Named(Shape::Pictures));
pub(crate) const IMAGE: Field<Named> = Field::new("image", "", Named(Shape::Pictures));
/// The name in vllm-omni's clients.
pub(crate) const URL: Field<Named> = Field::new("url", "", Named(Shape::Pictures));
pub(crate) const MASK: Field<Named> = Field::new("mask", "", Named(Shape::Picture));
/// A drawing over a picture: refused.
pub(crate) const MARKUP: Field<Named> = Field::new("markup", "", Named(Shape::Counted));

const fn flag(name: &'static str, about: &'static str) -> Field<Flag> {
    Field::new(name, about, Flag).or("false")
}
