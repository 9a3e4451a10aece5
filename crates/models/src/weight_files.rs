//! Finds the weight files of a component by the names in its folder.

use crate::error::LoadError;

/// File name stems of diffusers and of transformers.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
/// Variants in order of preference, for folders without variant-free files.
const VARIANTS: [&str; 3] = ["bf16", "fp16", "fp32"];

/// The weight files of a component, by name within its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightFiles {
    /// A single file.
    Single(String),
    /// The index of a sharded component.
    Sharded(String),
}

impl WeightFiles {
    /// Finds the weight files among `names`, the files in the folder `component` of the checkpoint in `folder`. Files
    /// without a variant come first, then those of one variant.
    ///
    /// # Errors
    /// There are no safetensors files; the message says what was found and what to do.
    pub(crate) fn find(component: &str, folder: &str, names: &[String]) -> Result<Self, LoadError> {
        let has = |name: &str| names.iter().any(|other| other == name);
        for variant in std::iter::once(None).chain(variants(names).into_iter().map(Some)) {
            for stem in STEMS {
                let (index, single) = match variant {
                    None => (format!("{stem}.safetensors.index.json"), format!("{stem}.safetensors")),
                    Some(variant) => {
                        (format!("{stem}.safetensors.index.{variant}.json"), format!("{stem}.{variant}.safetensors"))
                    }
                };
                if has(&index) {
                    return Ok(WeightFiles::Sharded(index));
                }
                if has(&single) {
                    return Ok(WeightFiles::Single(single));
                }
            }
        }
        Err(none(component, folder, names))
    }
}

/// Returns the variants found, in the order in which they are tried.
fn variants(names: &[String]) -> Vec<&str> {
    let found = names.iter().filter_map(|name| variant(name));
    let mut found: Vec<_> = found.collect();
    let rank = |variant: &str| VARIANTS.iter().position(|known| *known == variant).unwrap_or(VARIANTS.len());
    found.sort_by_key(|variant| (rank(variant), *variant));
    found.dedup();
    found
}

/// Returns the variant of a file or index: `fp16` for `model.fp16.safetensors`.
fn variant(name: &str) -> Option<&str> {
    let rest = STEMS.iter().find_map(|stem| name.strip_prefix(stem))?;
    let variant = match rest.strip_prefix(".safetensors.index.") {
        Some(rest) => rest.strip_suffix(".json")?,
        None => rest.strip_prefix('.')?.strip_suffix(".safetensors")?,
    };
    (!variant.is_empty() && !variant.contains('.')).then_some(variant)
}

/// Returns the error for a component without readable weights.
fn none(component: &str, folder: &str, names: &[String]) -> LoadError {
    let missing = |file: String| LoadError::MissingFile { file, folder: folder.into() };
    let with = |ending: &str| names.iter().find(|name| name.ends_with(ending)).cloned();
    let found =
        |name: String, hint: &'static str| LoadError::OtherWeights { file: format!("{component}/{name}"), hint };
    let pickles = [".bin", ".pt", ".pth", ".ckpt"];
    if let Some(shard) = names.iter().find(|name| name.contains("-00001-of-") && name.ends_with(".safetensors")) {
        let stem = shard.split("-00001-of-").next().unwrap_or_default();
        let stem = STEMS.into_iter().find(|known| stem.starts_with(known)).unwrap_or(stem);
        return missing(format!("{component}/{stem}.safetensors.index.json"));
    }
    if let Some(name) = with(".safetensors") {
        return found(
            name,
            "not a file name of the diffusers layout: rename it to diffusion_pytorch_model.safetensors",
        );
    }
    if let Some(name) = with(".gguf") {
        return found(name, "weights in the GGUF format, which latentd does not read: take the model's safetensors");
    }
    if let Some(name) = pickles.into_iter().find_map(with) {
        return found(
            name,
            "weights pickled by torch, which latentd does not read: load the model in diffusers and write it with \
             save_pretrained, which makes safetensors",
        );
    }
    missing(format!("{component}/*.safetensors"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(names: &[&str]) -> Result<WeightFiles, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        WeightFiles::find("vae", "m", &names).map_err(|err| err.to_string())
    }

    #[test]
    fn files_without_a_variant_come_first_and_lone_variants_are_taken() {
        let single = |name: &str| Ok(WeightFiles::Single(name.into()));
        let sharded = |name: &str| Ok(WeightFiles::Sharded(name.into()));
        assert_eq!(find(&["model.fp16.safetensors", "model.safetensors"]), single("model.safetensors"));
        assert_eq!(find(&["config.json", "model.fp16.safetensors"]), single("model.fp16.safetensors"));
        assert_eq!(
            find(&["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors"]),
            single("diffusion_pytorch_model.bf16.safetensors")
        );
        assert_eq!(find(&["model.non_ema.safetensors"]), single("model.non_ema.safetensors"));
        let index = "diffusion_pytorch_model.safetensors.index.fp16.json";
        assert_eq!(find(&[index, "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"]), sharded(index));
    }

    #[test]
    fn what_is_there_instead_is_named() {
        for (names, expected) in [
            (&["diffusion_pytorch_model.bin", "config.json"][..], "`vae/diffusion_pytorch_model.bin`: weights pickled"),
            (&["qwen-Q4_K.gguf"], "`vae/qwen-Q4_K.gguf`: weights in the GGUF format"),
            (&["ae.safetensors"], "`vae/ae.safetensors`: not a file name of the diffusers layout"),
            (
                &["diffusion_pytorch_model-00001-of-00002.safetensors"],
                "`vae/diffusion_pytorch_model.safetensors.index.json` is missing",
            ),
            (&["config.json"], "`vae/*.safetensors` is missing"),
        ] {
            let message = find(names).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
