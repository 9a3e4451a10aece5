//! The checkpoint's files, embedded.

/// One file of the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// The path inside the checkpoint's folder, e.g. `transformer/config.json`.
    pub path: &'static str,
    /// The contents, starting at a multiple of 64 bytes.
    pub bytes: &'static [u8],
}

/// The contents of the file at `path`, e.g. `transformer/config.json`.
pub fn file(path: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|file| file.path == path).map(|file| file.bytes)
}

/// All files of the checkpoint, which `QwenImagePipeline.from_pretrained` can load too.
pub static FILES: &[File] = &[
    embed!("latentd.json"),
    embed!("model_index.json"),
    embed!("scheduler/scheduler_config.json"),
    embed!("text_encoder/config.json"),
    embed!("text_encoder/generation_config.json"),
    embed!("text_encoder/model.safetensors"),
    embed!("tokenizer/added_tokens.json"),
    embed!("tokenizer/chat_template.jinja"),
    embed!("tokenizer/merges.txt"),
    embed!("tokenizer/special_tokens_map.json"),
    embed!("tokenizer/tokenizer_config.json"),
    embed!("tokenizer/vocab.json"),
    embed!("transformer/config.json"),
    embed!("transformer/diffusion_pytorch_model.safetensors"),
    embed!("vae/config.json"),
    embed!("vae/diffusion_pytorch_model.safetensors"),
];

/// A wrapper that aligns an embedded file to 64 bytes without `unsafe`. `include_bytes!` promises no alignment, and
/// tensors are read in place. A safetensors header is padded to 8 bytes, so the tensors of an aligned file are aligned.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

macro_rules! embed {
    ($path:literal) => {{
        static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("../weights/", $path)));
        File { path: $path, bytes: &ALIGNED.0 }
    }};
}
use embed;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use safetensors::{Dtype, SafeTensors};

    use super::*;

    const MAX_TOTAL_BYTES: usize = 40 << 20;

    #[test]
    fn model_index_names_exactly_the_components_that_are_embedded() {
        let index: serde_json::Value = serde_json::from_slice(file("model_index.json").unwrap()).unwrap();
        assert_eq!(index["_class_name"], "QwenImagePipeline");
        let named: BTreeSet<&str> =
            index.as_object().unwrap().keys().map(String::as_str).filter(|key| !key.starts_with('_')).collect();
        let embedded: BTreeSet<&str> = FILES.iter().filter_map(|file| Some(file.path.split_once('/')?.0)).collect();
        assert_eq!(named, embedded);
    }

    #[test]
    fn every_file_of_the_weights_folder_is_embedded_under_its_own_path() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights");
        let mut on_disk = BTreeSet::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    on_disk.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/"));
                }
            }
        }
        let embedded: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(embedded, on_disk);
        assert_eq!(embedded.len(), FILES.len(), "a path is listed twice");
    }

    #[test]
    fn the_whole_stays_small_enough_to_embed() {
        let total: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(total < MAX_TOTAL_BYTES, "{total} bytes");
    }

    #[test]
    fn every_json_file_parses() {
        for file in FILES.iter().filter(|file| file.path.ends_with(".json")) {
            serde_json::from_slice::<serde_json::Value>(file.bytes).unwrap_or_else(|e| panic!("{}: {e}", file.path));
        }
    }

    #[test]
    fn every_weight_file_parses_and_is_bf16_and_aligned() {
        let weights: Vec<&File> = FILES.iter().filter(|file| file.path.ends_with(".safetensors")).collect();
        assert_eq!(weights.len(), 3);
        for file in weights {
            assert_eq!(file.bytes.as_ptr().addr() % 64, 0, "{}", file.path);
            let tensors = SafeTensors::deserialize(file.bytes).unwrap_or_else(|e| panic!("{}: {e}", file.path));
            assert!(!tensors.is_empty(), "{}", file.path);
            for (name, tensor) in tensors.tensors() {
                assert_eq!(tensor.dtype(), Dtype::BF16, "{}: {name}", file.path);
                assert_eq!(tensor.data().as_ptr().addr() % 2, 0, "{}: {name}", file.path);
            }
        }
    }

    #[test]
    fn an_unknown_path_is_none() {
        assert!(file("transformer").is_none());
        assert!(file("processor/tokenizer.json").is_none());
    }
}
