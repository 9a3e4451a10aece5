//! `latentd models`: lists the supported models, and which are on this machine.

use std::borrow::Cow;
use std::fmt::Write;

use bytesize::ByteSize;
use diffusion::MAX_FITTED_PIXELS;
use latentd::Error;
use models::{FAMILIES, Facts, Makes, PublishedModel};
use omni::{InHubCache, ModelSource, in_hub_cache};
use serde::{Deserialize, Serialize};

use latentd::terminal;

/// List the models that can be run: defaults, sizes, licences, and which are in the Hub's cache
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd models\n  latentd models --json\n  latentd serve Qwen/Qwen-Image-Edit-2511"
)]
pub(super) struct Models {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model as JSON.
#[derive(Serialize)]
struct Row {
    family: &'static str,
    id: &'static str,
    pipeline: &'static str,
    makes: &'static str,
    max_input_images: usize,
    default_num_inference_steps: usize,
    default_guidance: Cow<'static, str>,
    default_size: String,
    /// Maximum pixels of a picture, unless `--max-generated-image-size` is set.
    max_pixels: usize,
    segments: Vec<ListedSegment>,
    licence: &'static str,
    disk_bytes: u64,
    memory_bytes: u64,
    /// Whether it is part of this program.
    built_in: bool,
    /// Whether the Hub's cache has all of it.
    in_hub_cache: bool,
    /// What is wrong with the files in the Hub's cache.
    hub_cache_fault: Option<String>,
}

#[derive(Serialize)]
struct ListedSegment {
    name: &'static str,
    num_blocks: usize,
}

impl Models {
    pub(super) fn run(self) -> Result<(), Error> {
        let published = FAMILIES.iter().flat_map(|family| family.models.iter().map(move |model| (family.name, model)));
        let published = published.map(|(family, model)| Row::new(family, model, in_hub_cache(model.id)));
        let rows: Vec<Row> = std::iter::once(Row::built_in()?).chain(published).collect();
        if self.json {
            terminal::line(&serde_json::to_string(&rows).expect("strings and numbers make JSON. This is a bug."));
        } else {
            terminal::print(&text(&rows));
        }
        Ok(())
    }
}

/// The part of the built-in model's transformer config that the list needs.
#[derive(Deserialize)]
struct Layers {
    num_layers: usize,
}

impl Row {
    /// The row of the built-in model, read from its files.
    fn built_in() -> Result<Self, Error> {
        let checkpoint = ModelSource::Builtin.open(&())?;
        let facts = Facts::load(&checkpoint)?;
        let Layers { num_layers } = checkpoint.json("transformer/config.json")?;
        let bytes = demo::FILES.iter().map(|file| file.bytes.len() as u64).sum();
        Ok(Row {
            family: "Built-in",
            id: "builtin",
            pipeline: "QwenImagePipeline",
            makes: Makes::Text.name(),
            max_input_images: 0,
            default_num_inference_steps: facts.num_inference_steps.unwrap_or_default(),
            default_guidance: format!("true CFG {}", facts.guidance_scale.unwrap_or_default()).into(),
            default_size: facts.size.unwrap_or_default(),
            max_pixels: MAX_FITTED_PIXELS,
            segments: vec![ListedSegment { name: "blocks", num_blocks: num_layers }],
            licence: env!("CARGO_PKG_LICENSE"),
            disk_bytes: bytes,
            memory_bytes: bytes,
            built_in: true,
            in_hub_cache: false,
            hub_cache_fault: None,
        })
    }

    fn new(family: &'static str, model: &PublishedModel, cached: InHubCache) -> Self {
        let (width, height) = model.size;
        let segments = model.segments.iter().map(|&(name, num_blocks)| ListedSegment { name, num_blocks });
        Row {
            family,
            id: model.id,
            pipeline: model.class,
            makes: model.makes.name(),
            max_input_images: model.max_images,
            default_num_inference_steps: model.num_inference_steps,
            default_guidance: model.guidance.into(),
            default_size: format!("{width}x{height}"),
            max_pixels: model.max_pixels(),
            segments: segments.collect(),
            licence: model.licence,
            disk_bytes: model.disk_bytes,
            memory_bytes: model.memory_bytes,
            built_in: false,
            in_hub_cache: cached == InHubCache::Whole,
            hub_cache_fault: match cached {
                InHubCache::Faulty(fault) => Some(fault),
                InHubCache::Absent | InHubCache::Whole => None,
            },
        }
    }
}

/// One paragraph per model: a table would have too many columns for a terminal.
fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut family = "";
    for row in rows {
        if row.family != family {
            family = row.family;
            let separator = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{separator}{family}");
        }
        let pictures = match row.max_input_images {
            0 => String::new(),
            1 => " of 1 picture".into(),
            most => format!(" of up to {most} pictures"),
        };
        let place = match row {
            Row { built_in: true, .. } => ", in this program",
            Row { in_hub_cache: true, .. } => ", in the Hub's cache",
            _ => "",
        };
        let segments: Vec<_> =
            row.segments.iter().map(|segment| format!("{} {}", segment.num_blocks, segment.name)).collect();
        let size = |bytes| ByteSize::b(bytes).display().si();
        let _ = writeln!(out, "  {} ({}{pictures}){place}", row.id, row.makes);
        let _ = writeln!(
            out,
            "    {}: {} steps, guidance {}, {}, up to {} megapixels",
            row.pipeline,
            row.default_num_inference_steps,
            row.default_guidance,
            row.default_size,
            (row.max_pixels as f64 / 1e5).round() / 10.0,
        );
        let _ = writeln!(out, "    {}", segments.join(", "));
        if let Some(fault) = &row.hub_cache_fault {
            let _ = writeln!(out, "    in the Hub's cache, but {fault}");
        }
        let (disk, memory) = (size(row.disk_bytes), size(row.memory_bytes));
        let _ = writeln!(out, "    {disk} on disk, {memory} in memory as bf16; {}", row.licence);
    }
    out.push_str("\nAny other checkpoint of these pipelines runs too, from the Hub or from a folder.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_and_model_is_told_once() {
        let models = FAMILIES.iter().flat_map(|family| family.models.iter().map(move |model| (family, model)));
        let rows: Vec<_> =
            models.clone().map(|(family, model)| Row::new(family.name, model, InHubCache::Absent)).collect();
        let text = text(&rows);
        for (family, model) in models {
            assert_eq!(text.matches(&format!("  {} (", model.id)).count(), 1, "{text}");
            assert!(family.classes.contains(&model.class), "{}", model.id);
            assert!(model.memory_bytes <= model.disk_bytes, "{}", model.id);
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn the_built_in_model_is_told_as_its_files_have_it() {
        let text = text(&[Row::built_in().unwrap()]);
        for part in
            ["  builtin (text to image), in this program", "20 steps, guidance true CFG 3, 128x128,", "12 blocks"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn what_is_in_the_cache_is_marked() {
        let (family, model) = (&FAMILIES[0], &FAMILIES[0].models[0]);
        let text = |cached| text(&[Row::new(family.name, model, cached)]);
        let line = |cached| text(cached).lines().nth(1).unwrap().to_owned();
        assert!(line(InHubCache::Whole).ends_with(", in the Hub's cache"));
        assert!(!text(InHubCache::Absent).contains("cache"));
        let faulty = InHubCache::Faulty("`vae/config.json` is missing".into());
        assert!(text(faulty).contains("in the Hub's cache, but `vae/config.json` is missing"));
    }
}
