//! Recognises folders and repositories that are no checkpoint in the diffusers layout, by their file names.
//!
//! Models are distributed in many layouts. The error names the layout found and says what to give instead.

use crate::error::LoadError;

/// The general hint, for layouts without a more specific one.
const GIVE: &str =
    "give a folder in the diffusers layout (with a model_index.json), or a Hub id such as Qwen/Qwen-Image";

/// Returns the error for `place`, a folder or repository without a `model_index.json`. `names` are its files, with `/`
/// between folders.
pub fn not_diffusers(place: &str, names: &[String]) -> LoadError {
    let (what, hint) = match kind(place, names) {
        Some(found) => found,
        None => ("a folder without a model_index.json".into(), GIVE.into()),
    };
    LoadError::NotDiffusers { place: place.into(), what, hint }
}

/// Returns the error for `place`, which is a single file.
pub(crate) fn single_file(place: &str) -> LoadError {
    let what = match place.rsplit('.').next() {
        Some("safetensors") => "a single .safetensors file",
        Some("gguf") => "a GGUF file, whose weights are quantized",
        Some("bin" | "pt" | "pth" | "ckpt") => "a file that was pickled by torch",
        _ => "a file",
    };
    LoadError::NotDiffusers { place: place.into(), what: what.into(), hint: GIVE.into() }
}

fn kind(place: &str, names: &[String]) -> Option<(String, String)> {
    let top = |name: &str| names.iter().any(|file| file == name);
    let within = |folder: &str| names.iter().any(|file| file.starts_with(folder));
    let ends = |ending: &str| names.iter().find(|file| file.ends_with(ending));
    let say = |what: &str, hint: String| Some((what.to_owned(), hint));

    if let Some(id) = cached_repository(place, names) {
        return say(
            "a repository's folder in the Hub's cache",
            format!("name the repository, `{id}`, or a folder inside `{place}/snapshots`"),
        );
    }
    if names.iter().any(|file| file.starts_with("models--")) {
        return say("the Hub's cache", "name a repository of it, such as Qwen/Qwen-Image".into());
    }
    let inner = names.iter().filter_map(|file| file.strip_suffix("/model_index.json"));
    let inner: Vec<_> = inner.map(|folder| format!("`{place}/{folder}`")).collect();
    if !inner.is_empty() {
        return say("a folder of checkpoints", format!("name one of them: {}", inner.join(", ")));
    }
    if top("config.json") && names.iter().any(|file| file.starts_with("diffusion_pytorch_model")) {
        return say(
            "one component of a model",
            "name the folder of the whole model, which holds a model_index.json and this component".into(),
        );
    }
    let comfy = ["split_files/", "diffusion_models/", "checkpoints/", "custom_nodes/", "models/diffusion_models/"];
    if comfy.into_iter().any(within) || within("models/checkpoints/") {
        return say("made for ComfyUI, in single files", GIVE.into());
    }
    if ends(".gguf").is_some() {
        return say("made of GGUF files, whose weights are quantized", GIVE.into());
    }
    if top("config.json") || top("tokenizer.json") {
        return say("a transformers model, not an image pipeline", GIVE.into());
    }
    if within("transformer/") && within("vae/") {
        return say("a checkpoint without its model_index.json", "download it again, or add the file".into());
    }
    if let Some(file) = ends(".safetensors") {
        return say(&format!("made of single files (`{file}`)"), GIVE.into());
    }
    if let Some(file) = [".bin", ".pt", ".pth", ".ckpt"].into_iter().find_map(ends) {
        return say(&format!("made of files that were pickled by torch (`{file}`)"), GIVE.into());
    }
    names.is_empty().then(|| ("empty".into(), GIVE.into()))
}

/// Returns `owner/name` if `place` is a repository's folder in the Hub's cache, or a folder directly inside it.
fn cached_repository(place: &str, names: &[String]) -> Option<String> {
    let mut folders = place.split(['/', '\\']).filter(|folder| !folder.is_empty()).rev();
    let folder = match folders.next()? {
        "snapshots" | "blobs" | "refs" => folders.next()?,
        last => last,
    };
    let id = folder.strip_prefix("models--")?.replace("--", "/");
    let is_cache = place.ends_with("snapshots") || names.iter().any(|file| file.starts_with("snapshots/"));
    (is_cache || names.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_told_what_it_is() {
        for (place, names, expected) in [
            ("m", &["qwen-image-Q4_K_M.gguf", "README.md"][..], "made of GGUF files"),
            ("m", &["split_files/vae/ae.safetensors"], "made for ComfyUI"),
            ("ComfyUI/models", &["checkpoints/sdxl.safetensors", "vae/x.safetensors"], "made for ComfyUI"),
            ("m", &["config.json", "model.safetensors", "tokenizer.json"], "a transformers model"),
            ("m/vae", &["config.json", "diffusion_pytorch_model.safetensors"], "one component of a model"),
            ("m", &["qwen_image_bf16.safetensors"], "made of single files (`qwen_image_bf16.safetensors`)"),
            (
                "m",
                &["transformer/config.json", "transformer/model.safetensors", "vae/config.json"],
                "a checkpoint without its model_index.json: download it again",
            ),
            ("m", &["pytorch_model.bin"], "made of files that were pickled by torch (`pytorch_model.bin`)"),
            ("m", &["a/model_index.json", "b/x.txt"], "a folder of checkpoints: name one of them: `m/a`"),
            (
                "/c/models--Qwen--Qwen-Image",
                &["refs/main", "snapshots/0123/model_index.json"],
                "a repository's folder in the Hub's cache: name the repository, `Qwen/Qwen-Image`, or a folder inside \
                 `/c/models--Qwen--Qwen-Image/snapshots`",
            ),
            (
                "/c/models--Qwen--Qwen-Image/snapshots",
                &["0123/model_index.json"],
                "a repository's folder in the Hub's cache: name the repository, `Qwen/Qwen-Image`",
            ),
            ("/c/hub", &["models--a--b/refs"], "the Hub's cache"),
            ("m", &[], "empty: give a folder"),
            ("m", &["notes.txt"], "a folder without a model_index.json: give a folder"),
        ] {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let message = not_diffusers(place, &names).to_string();
            assert!(message.starts_with(&format!("`{place}` is {expected}")), "{message}");
        }
        let message = single_file("qwen.safetensors").to_string();
        assert!(message.starts_with("`qwen.safetensors` is a single .safetensors file: give a folder"), "{message}");
    }
}
