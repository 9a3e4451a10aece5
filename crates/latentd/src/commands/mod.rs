//! The commands of the binary, one file each.

mod bench;
mod cache;
mod cache_reports;
mod generate;
mod serve;

use latentd::{CacheFlags, DeviceName, DtypeName, Error, Omni, OmniBuilder};

/// Serve and generate pictures with diffusion transformers
#[derive(clap::Parser)]
#[command(
    name = "latentd",
    version,
    after_help = "Start here:\n  latentd generate \"a fox on a green background\" -o fox.png\n  latentd serve --port 8091"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Generate(generate::Generate),
    Serve(serve::Serve),
    Bench(bench::Bench),
    Cache(cache::Cache),
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn run(self) -> Result<(), Error> {
        match self.command {
            Command::Generate(generate) => generate.run(),
            Command::Serve(serve) => serve.run(),
            Command::Bench(bench) => bench.run(),
            Command::Cache(cache) => cache.run(),
        }
    }
}

/// How a model is loaded: the same flags for every command.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Model")]
struct ModelFlags {
    /// Branch, tag or commit of a Hub model
    #[arg(long, env = "LATENTD_REVISION")]
    revision: Option<String>,
    /// What the weights are kept in; f32 on a CPU and bf16 on a GPU without it
    #[arg(long, value_enum, env = "LATENTD_DTYPE")]
    dtype: Option<DtypeName>,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "LATENTD_DEVICE")]
    device: DeviceName,
    #[command(flatten)]
    cache: CacheFlags,
}

impl ModelFlags {
    fn builder(&self, model: Option<&str>) -> OmniBuilder {
        let mut builder = Omni::builder().device(self.device).cache_flags(self.cache.clone());
        if let Some(model) = model {
            builder = builder.model(model);
        }
        if let Some(revision) = &self.revision {
            builder = builder.revision(revision);
        }
        match self.dtype {
            Some(dtype) => builder.dtype(dtype),
            None => builder,
        }
    }
}
