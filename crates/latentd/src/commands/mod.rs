//! The commands of the binary, one file each.

mod bench;
mod cache;
mod cache_reports;
mod edit;
mod generate;
mod healthcheck;
mod host;
mod memory;
mod models;
mod picture_flags;
mod prompts;
mod scheduling;
mod serve;

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};
use latentd::{
    CacheFlags, DeviceName, DtypeName, EditPositionsName, Error, OffloadName, Omni, OmniBuilder, QuantizationName,
    SamplerName, VaeTilingName,
};

use crate::{build, logging};

/// Serve and generate pictures with diffusion transformers
#[derive(clap::Parser)]
#[command(
    name = "latentd",
    version = build::line(),
    after_help = "Start here:\n  latentd generate \"a fox on a green background\" -o fox.png\n  latentd serve --port 8091"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Generate(generate::Generate),
    #[command(alias = "image-edit")]
    Edit(edit::Edit),
    Serve(serve::Typed),
    Bench(bench::Bench),
    Cache(cache::Cache),
    Models(models::Models),
    Healthcheck(healthcheck::Healthcheck),
}

impl Cli {
    /// What these arguments and this environment ask for; the program ends here where they ask for help, or for what
    /// there is not.
    pub(crate) fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let command = without_blank(Cli::command(), &|name| std::env::var_os(name));
        Cli::from_arg_matches(&command.get_matches_from(arguments)).unwrap_or_else(|err| err.exit())
    }

    /// Does what was asked.
    pub(crate) fn run(self) -> Result<(), Error> {
        // A server's settings say how it logs.
        if !matches!(self.command, Command::Serve(_)) {
            logging::init_text();
        }
        match self.command {
            Command::Generate(generate) => generate.run(),
            Command::Edit(edit) => edit.run(),
            Command::Serve(typed) => typed.run(),
            Command::Bench(bench) => bench.run(),
            Command::Cache(cache) => cache.run(),
            Command::Models(models) => models.run(),
            Command::Healthcheck(healthcheck) => healthcheck.run(),
        }
    }
}

/// The same command, for which a variable that says nothing (`LATENTD_PORT=` in a file of them) is not set. One that is to
/// hold a key is: no server is open because its secret is empty.
fn without_blank(command: clap::Command, variable: &dyn Fn(&OsStr) -> Option<OsString>) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(variable);
        let is_blank = value.is_some_and(|value| serve::trimmed(&value).is_empty());
        if is_blank && arg.get_id() != "api_key" { arg.env(Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(|command| without_blank(command, variable))
}

/// How a model is loaded, and on what: the same flags for every command, but that a server may
/// have several devices.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Model")]
struct ModelFlags<D: clap::Args = OneDevice> {
    /// Branch, tag or commit of a Hub model
    #[arg(long, env = "LATENTD_REVISION")]
    revision: Option<String>,
    /// What the weights are kept in; without it bf16 on a GPU, and on a CPU that multiplies it faster where the checkpoint is in
    /// bf16 too, else f32
    #[arg(long, value_enum, env = "LATENTD_DTYPE")]
    dtype: Option<DtypeName>,
    /// What the products of the transformer's blocks are rounded to: a byte a weight. On a CPU int8 is several times as
    /// fast as f32 with AVX-512 VNNI or AMX; fp8 is for GPUs
    #[arg(long, value_enum, env = "LATENTD_QUANTIZATION")]
    quantization: Option<QuantizationName>,
    /// What of the weights stays in host memory and is carried to the GPU when its turn comes. `encoder` costs a moment
    /// for each new prompt; `block` costs every step the time of the copy, where that is longer than the step, and lets
    /// Qwen-Image run on 24 GB; `auto` is the first that fits
    #[arg(long, value_enum, default_value_t, value_name = "WHAT", env = "LATENTD_OFFLOAD")]
    offload: OffloadName,
    /// How Qwen-Image-Edit's text encoder counts the tokens of a picture: by row and column, or one after another as
    /// diffusers up to 0.42 does
    #[arg(long, value_enum, default_value_t, value_name = "POSITIONS", env = "LATENTD_QWEN_EDIT_POSITIONS")]
    qwen_edit_positions: EditPositionsName,
    /// When the VAE decodes in overlapping tiles of bounded memory (256x256 pixels for Qwen-Image, 1024x1024 for FLUX.2):
    /// on is diffusers' `vae.enable_tiling()`; auto is on a GPU, where the whole would take over an eighth of its memory
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", env = "LATENTD_VAE_TILING")]
    vae_tiling: VaeTilingName,
    /// How a picture gets from noise level to noise level, unless a request says other; `euler` without it
    #[arg(long, value_enum, value_name = "SAMPLER", env = "LATENTD_SAMPLER")]
    sampler: Option<SamplerName>,
    #[command(flatten)]
    on: D,
    #[command(flatten)]
    cache: CacheFlags,
}

/// The device of a command that runs its model itself.
#[derive(Clone, clap::Args)]
struct OneDevice {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "LATENTD_DEVICE")]
    device: DeviceName,
}

/// The devices of a command that has a worker on each.
#[derive(Clone, clap::Args)]
struct Devices {
    /// auto, cpu, cuda or cuda:N; several, as in cuda:0,cuda:1, are one worker each
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', default_value = "auto", env = "LATENTD_DEVICE")]
    device: Vec<DeviceName>,
}

impl ModelFlags {
    fn builder(&self, model: Option<&str>) -> OmniBuilder {
        self.builder_on(self.on.device, model)
    }
}

impl<D: clap::Args> ModelFlags<D> {
    fn builder_on(&self, device: DeviceName, model: Option<&str>) -> OmniBuilder {
        let builder = Omni::builder().device(device).cache_flags(self.cache.clone());
        let builder = builder.qwen_edit_positions(self.qwen_edit_positions).offload(self.offload);
        let mut builder = builder.vae_tiling(self.vae_tiling);
        if let Some(model) = model {
            builder = builder.model(model);
        }
        if let Some(revision) = &self.revision {
            builder = builder.revision(revision);
        }
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype);
        }
        if let Some(sampler) = self.sampler {
            builder = builder.sampler(sampler);
        }
        match self.quantization {
            Some(quantization) => builder.quantization(quantization),
            None => builder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_variable_is_not_set_unless_it_is_to_hold_a_key() {
        let of = |command: &clap::Command, path: &[&str]| {
            let command = path.iter().fold(command, |command, name| command.find_subcommand(name).unwrap());
            let named = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
            named.collect::<Vec<_>>()
        };
        let (all, none) = (Cli::command(), without_blank(Cli::command(), &|_| Some(" \n".into())));
        let set = without_blank(Cli::command(), &|_| Some("x".into()));
        for path in [&["serve"][..], &["generate"], &["edit"], &["bench", "serve"]] {
            assert_eq!(of(&set, path), of(&all, path), "{path:?}");
            let kept = if path == ["serve"] { vec!["LATENTD_API_KEY"] } else { Vec::new() };
            assert_eq!(of(&none, path), kept, "{path:?}");
        }
        assert!(of(&all, &["serve"]).contains(&"LATENTD_PORT".into()));
    }
}
