//! Checkpoints with the defects that users have: tiny ones with one change each, and the expected message or picture.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod change;

use std::fs;

use models::{Checkpoint, FAMILIES};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use change::Change::{self, Halve, Json, Remove, Rename, Tensor, Text, Write};
use change::{assert_messages, changed, message};

use crate::loading::{drawn, load, tiny};

const QWEN: &str = "QwenImagePipeline";
const EDIT: &str = "QwenImageEditPlusPipeline";
const KLEIN: &str = "Flux2KleinPipeline";

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

const SHARD: &str = "transformer/diffusion_pytorch_model-00001-of-00003.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const TRANSFORMER: &str = "transformer/config.json";
const TEXT: &str = "text_encoder/config.json";
const VAE_CONFIG: &str = "vae/config.json";

#[test]
fn every_file_that_lacks_is_named() {
    let files = |class| {
        let tokenizer: &[_] = match class {
            KLEIN => &["tokenizer/tokenizer.json"],
            _ => &["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"],
        };
        let processor: &[_] = if class == EDIT { &["processor/preprocessor_config.json"] } else { &[] };
        [&[SCHEDULER, TRANSFORMER, TEXT, VAE_CONFIG][..], tokenizer, processor].concat()
    };
    for class in [QWEN, EDIT, KLEIN] {
        for file in files(class) {
            let folder = changed(class, &[Remove(file)]);
            let message = message(folder.path());
            // Without tokenizer.json the loader looks for the older pair and its files.
            let expected = format!("`{file}` is missing in `{}`", folder.path().display());
            let falls_back = file == "tokenizer/tokenizer.json" && folder.path().join("tokenizer/vocab.json").is_file();
            assert!(falls_back || message.starts_with(&expected), "{class}: {message}");
        }
    }
    assert_messages(vec![
        (
            QWEN,
            Remove("text_encoder/model-00002-of-00002.safetensors"),
            "`text_encoder/model.safetensors.index.json` names the shard `text_encoder/model-00002-of-00002.safetensors`, \
             which is missing in `{folder}`",
        ),
        (
            QWEN,
            Remove("text_encoder/model.safetensors.index.json"),
            "`text_encoder/model.safetensors.index.json` is missing in `{folder}`",
        ),
        (QWEN, Remove(VAE), "`vae/*.safetensors` is missing in `{folder}`"),
        (
            QWEN,
            Remove("model_index.json"),
            "`{folder}` is a checkpoint without its model_index.json: download it again, or add the file",
        ),
        (
            QWEN,
            Write("model_index.json", "\n"),
            "`model_index.json` is damaged or incomplete (it is empty): download it again",
        ),
        (QWEN, Write("model_index.json", "{"), "`model_index.json` is not understood: EOF while parsing an object"),
    ]);
}

#[test]
fn weights_that_are_not_read_are_told_what_they_are() {
    let weight = "transformer_blocks.0.attn.to_q.weight";
    let shard_of = |name: &str| {
        let folder = tiny(QWEN).0;
        let index = fs::read(folder.join("transformer/diffusion_pytorch_model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        format!("transformer/{}", index["weight_map"][name].as_str().unwrap())
    };
    let shard: &'static str = shard_of(weight).leak();
    let say = |text: String| -> &'static str { text.leak() };
    assert_messages(vec![
        (QWEN, Write(SHARD, LFS), say(format!("`{SHARD}` is a Git LFS pointer, not the file itself"))),
        (QWEN, Write("tokenizer/vocab.json", LFS), "`tokenizer/vocab.json` is a Git LFS pointer, not the file itself"),
        (QWEN, Write(VAE_CONFIG, LFS), "`vae/config.json` is a Git LFS pointer, not the file itself"),
        (QWEN, Halve(VAE), say(format!("`{VAE}` is damaged or incomplete ("))),
        (QWEN, Write(VAE, ""), say(format!("`{VAE}` is damaged or incomplete ("))),
        (QWEN, Write(VAE, "<html>Not found</html>"), say(format!("`{VAE}` is damaged or incomplete ("))),
        (QWEN, Rename(VAE, "vae/diffusion_pytorch_model.bin"), "`vae/diffusion_pytorch_model.bin`: weights pickled"),
        (QWEN, Rename(VAE, "vae/qwen.gguf"), "`vae/qwen.gguf`: weights in the GGUF format"),
        (QWEN, Rename(VAE, "vae/ae.safetensors"), "`vae/ae.safetensors`: not a file name of the diffusers layout"),
        (
            QWEN,
            Json(TRANSFORMER, "/quantization_config", json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
            "`transformer/config.json`: the weights are quantized (bitsandbytes)",
        ),
        (
            KLEIN,
            Json(TEXT, "/quantization_config", json!({"quant_method": "gptq", "bits": 4})),
            "`text_encoder/config.json`: the weights are quantized (gptq)",
        ),
        (
            QWEN,
            Tensor(shard, weight, Some((Dtype::F8_E4M3, &[32, 32]))),
            say(format!("`{shard}`: the weights are quantized (tensor `{weight}` is F8_E4M3)")),
        ),
        (
            QWEN,
            Tensor(shard, weight, Some((Dtype::I8, &[32, 32]))),
            say(format!("`{shard}`: the weights are quantized (tensor `{weight}` is I8)")),
        ),
        (
            QWEN,
            Tensor(shard, weight, Some((Dtype::F64, &[32, 32]))),
            say(format!("`{shard}`: tensor `{weight}` is F64. f32, f16 and bf16 are read: convert it")),
        ),
        (
            QWEN,
            Tensor(shard, weight, Some((Dtype::I64, &[32, 32]))),
            say(format!("`{shard}`: tensor `{weight}` is I64. f32, f16 and bf16 are read: convert it")),
        ),
        (
            QWEN,
            Tensor(shard, weight, Some((Dtype::F32, &[32, 31]))),
            say(format!("`{shard}`: tensor `{weight}` has shape [32, 31], the configuration asks for [32, 32]")),
        ),
        (
            QWEN,
            Tensor(shard, weight, None),
            say(format!("`transformer/diffusion_pytorch_model.safetensors.index.json`: tensor `{weight}` is missing")),
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/num_layers", json!(5)),
            "`transformer/diffusion_pytorch_model.safetensors.index.json`: `transformer_blocks` holds more than the 5 \
             layers that the component's config.json names",
        ),
        (
            KLEIN,
            Json(TRANSFORMER, "/num_single_layers", json!(1)),
            "`transformer/diffusion_pytorch_model.safetensors`: `single_transformer_blocks` holds more than the 1 layers",
        ),
        (
            QWEN,
            Json(TEXT, "/text_config/num_hidden_layers", json!(2)),
            "`text_encoder/model.safetensors.index.json`: `model.layers` holds more than the 2 layers",
        ),
        (
            QWEN,
            Write("tokenizer/merges.txt", "#version: 0.2\nt h\n"),
            "`tokenizer/merges.txt` is damaged or incomplete (it makes ",
        ),
        (
            QWEN,
            Json("text_encoder/model.safetensors.index.json", "/weight_map/x", json!("../vae/x.safetensors")),
            "`text_encoder/model.safetensors.index.json`: `weight_map` must name files beside the index. Given:",
        ),
    ]);
}

#[test]
fn numbers_that_make_no_model_are_refused_by_name() {
    assert_messages(vec![
        (
            QWEN,
            Json(SCHEDULER, "/max_image_seq_len", json!(256)),
            "`scheduler/scheduler_config.json`: `max_image_seq_len` must be above base_image_seq_len = 256. Given: 256",
        ),
        (
            QWEN,
            Json(SCHEDULER, "/shift", json!(-1.0)),
            "`scheduler/scheduler_config.json`: `shift` must be between 0.001 and 1000. Given: -1",
        ),
        (
            QWEN,
            Text(SCHEDULER, "\"max_shift\": 0.9", "\"max_shift\": NaN"),
            "`scheduler/scheduler_config.json`: `max_shift` is not understood: expected value",
        ),
        (
            KLEIN,
            Json(SCHEDULER, "/stochastic_sampling", json!(true)),
            "`scheduler/scheduler_config.json`: `stochastic_sampling` must be false. Given: true",
        ),
        (
            QWEN,
            Json("model_index.json", "/scheduler/1", json!("UniPCMultistepScheduler")),
            "`model_index.json`: `scheduler` must be FlowMatchEulerDiscreteScheduler. Given: UniPCMultistepScheduler",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/num_layers", json!(0)),
            "`transformer/config.json`: `num_layers` must be between 1 and 1000. Given: 0",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/num_layers", json!(1_000_000_000)),
            "`transformer/config.json`: `num_layers` must be between 1 and 1000. Given: 1000000000",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/num_attention_heads", json!(-2)),
            "`transformer/config.json`: `num_attention_heads` is not understood: invalid value: integer `-2`",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/axes_dims_rope", json!([4, 6, 8])),
            "`transformer/config.json`: `axes_dims_rope` must sum to attention_head_dim. Given: [4, 6, 8]",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/axes_dims_rope", json!([5, 5, 6])),
            "`transformer/config.json`: `axes_dims_rope` must be even and at least 2. Given: [5, 5, 6]",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/joint_attention_dim", json!(72)),
            "`transformer/config.json`: `joint_attention_dim` must be the text encoder's hidden_size, 64. Given: 72",
        ),
        (
            QWEN,
            Json(TRANSFORMER, "/_class_name", json!("FluxTransformer2DModel")),
            "`transformer/config.json`: `_class_name` must be QwenImageTransformer2DModel. Given: FluxTransformer2DModel",
        ),
        (
            QWEN,
            Json(TEXT, "/text_config/rope_theta", json!(0)),
            "`text_encoder/config.json`: `rope_theta` must be between 1 and 1000000000. Given: 0",
        ),
        (
            KLEIN,
            Json(TEXT, "/num_hidden_layers", json!(20)),
            "`text_encoder/config.json`: `num_hidden_layers` must be at least 27. Given: 20",
        ),
        (KLEIN, Json(TEXT, "/vocab_size", json!(100)), "`tokenizer` does not make a tokenizer: `"),
        (
            KLEIN,
            Json(TRANSFORMER, "/rope_theta", json!(0)),
            "`transformer/config.json`: `rope_theta` must be between 1 and 1000000000. Given: 0",
        ),
        (
            KLEIN,
            Json(TRANSFORMER, "/num_single_layers", json!(0)),
            "`transformer/config.json`: `num_single_layers` must be between 1 and 1000. Given: 0",
        ),
        (
            KLEIN,
            Json(TRANSFORMER, "/joint_attention_dim", json!(95)),
            "`transformer/config.json`: `joint_attention_dim` must be the width of the text encoder's states side by \
             side, 96. Given: 95",
        ),
        (
            QWEN,
            Json(VAE_CONFIG, "/latents_std/3", json!(0.0)),
            "`vae/config.json`: `latents_std` must be between 0.000001 and 1000000. Given: 0",
        ),
        (
            QWEN,
            Json(VAE_CONFIG, "/base_dim", json!(0)),
            "`vae/config.json`: `base_dim` must be between 2 and 4096. Given: 0",
        ),
        (
            QWEN,
            Json(VAE_CONFIG, "/dim_mult", json!([1, 2, 0, 4])),
            "`vae/config.json`: `dim_mult` must be between 1 and 64, and make even widths of base_dim. Given: [1, 2, 0, 4]",
        ),
        (
            EDIT,
            Json("processor/preprocessor_config.json", "/merge_size", json!(0)),
            "`processor/preprocessor_config.json`: `merge_size` must be between 1 and 16. Given: 0",
        ),
        (
            EDIT,
            Json(TEXT, "/vision_config/num_heads", json!(0)),
            "`text_encoder/config.json`: `num_heads` must be between 1 and 1024. Given: 0",
        ),
    ]);
}

#[test]
fn facts_that_would_have_no_effect_are_refused() {
    assert_messages(vec![
        (
            QWEN,
            Write("latentd.json", r#"{"condition_area": 100}"#),
            "`latentd.json`: `condition_area` must be left out: QwenImagePipeline has a text encoder that sees no \
             pictures. Given: 100",
        ),
        (
            KLEIN,
            Write("latentd.json", r#"{"condition_area": 100}"#),
            "`latentd.json`: `condition_area` must be left out: Flux2KleinPipeline has a text encoder that sees no \
             pictures. Given: 100",
        ),
        (
            QWEN,
            Write("latentd.json", r#"{"edit_area": 100}"#),
            "`latentd.json`: `edit_area` must be left out: QwenImagePipeline edits no pictures. Given: 100",
        ),
    ]);
}

#[test]
fn folders_and_files_of_other_shapes_are_told_what_they_are() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--Qwen--Qwen-Image");
    let snapshot = repository.join("snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(snapshot.join("model_index.json"), "{}").unwrap();
    for folder in [repository.clone(), repository.join("snapshots")] {
        let message = message(&folder);
        assert!(
            message.contains("a repository's folder in the Hub's cache: name the repository, `Qwen/Qwen-Image`"),
            "{message}"
        );
    }
    let whole = changed(QWEN, &[]);
    let vae = message(&whole.path().join("vae"));
    assert!(vae.contains("is one component of a model"), "{vae}");
    let file = message(&whole.path().join(VAE));
    assert!(file.contains("is a single .safetensors file"), "{file}");
}

/// Returns the picture that a checkpoint draws.
fn picture(class: &str, changes: &[Change]) -> Vec<u8> {
    let folder = changed(class, changes);
    drawn(&mut load(folder.path()).unwrap(), tiny(class).1)
}

#[test]
fn lone_variants_are_loaded() {
    let variants = [
        Rename(VAE, "vae/diffusion_pytorch_model.fp16.safetensors"),
        Rename("text_encoder/model.safetensors.index.json", "text_encoder/model.safetensors.index.bf16.json"),
    ];
    assert!(picture(QWEN, &variants) == picture(QWEN, &[]));
}

#[test]
fn a_tokenizer_s_stored_padding_and_truncation_change_nothing() {
    let cut = [
        Json(
            "tokenizer/tokenizer.json",
            "/truncation",
            json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}),
        ),
        Json(
            "tokenizer/tokenizer.json",
            "/padding",
            json!({"strategy": {"Fixed": 60}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 3,
                "pad_type_id": 0, "pad_token": "<|endoftext|>"}),
        ),
    ];
    assert!(picture(KLEIN, &cut) == picture(KLEIN, &[]));
}

#[test]
fn a_scheduler_s_spacing_is_honoured() {
    let plain = picture(QWEN, &[]);
    for key in ["/use_karras_sigmas", "/use_exponential_sigmas", "/use_beta_sigmas"] {
        assert!(picture(QWEN, &[Json(SCHEDULER, key, json!(true))]) != plain, "{key} has no effect");
    }
}

#[test]
fn the_first_edit_model_s_condition_area_is_honoured() {
    let class = "QwenImageEditPipeline";
    let of = |area: usize| {
        let folder = changed(class, &[]);
        fs::write(folder.path().join("latentd.json"), json!({"edit_area": 9216, "condition_area": area}).to_string())
            .unwrap();
        let mut model =
            models::load(&Checkpoint::open(folder.path()).unwrap(), &Default::default(), &|_, _, _| ()).unwrap();
        drawn(&mut model, 1)
    };
    assert!(of(56 * 56) != of(112 * 112));
}

#[test]
fn the_table_knows_every_class() {
    for class in FAMILIES.iter().flat_map(|family| family.classes) {
        assert_eq!(message(changed(class, &[]).path()), "nothing: it was loaded", "{class}");
    }
}
