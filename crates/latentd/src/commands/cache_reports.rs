//! Reports of `latentd generate` and `edit` about the step cache: a trace, a plot, and one summary line per picture.

use std::path::{Path, PathBuf};

use cache::CacheConfig;
use diffusion::InvalidRequest;
use latentd::Error;
use omni::{GeneratedImage, write_whole};
use server::cache_summary;

use super::bench;
use latentd::terminal;
use latentd::{CachePlotData, PictureTrace, check_place, numbered};

/// The flags of the step cache's reports.
#[derive(clap::Args)]
#[command(next_help_heading = "Step cache")]
pub(super) struct CacheReports {
    /// Write what each step did and why, as JSON
    #[arg(long, value_name = "FILE.json")]
    cache_trace: Option<PathBuf>,
    /// Draw each step's diff against the threshold. With several pictures the second is NAME-2.svg
    #[arg(long, value_name = "FILE.svg")]
    cache_plot: Option<PathBuf>,
    /// Print a line per picture: steps computed and reused, decisions, speedup
    #[arg(long)]
    enable_cache_dit_summary: bool,
}

/// The model and cache that made the pictures.
pub(super) struct Setup<'a> {
    pub(super) model: String,
    pub(super) config: &'a CacheConfig,
    pub(super) num_blocks: Vec<usize>,
}

impl CacheReports {
    /// Checks the flags before the pictures are made, because that takes minutes.
    ///
    /// # Errors
    /// A report is requested and there is no cache, or its file cannot be written.
    pub(super) fn check(&self, config: Option<&CacheConfig>) -> Result<(), Error> {
        let asked = [
            ("--cache-trace", self.cache_trace.is_some()),
            ("--cache-plot", self.cache_plot.is_some()),
            ("--enable-cache-dit-summary", self.enable_cache_dit_summary),
        ];
        if let (None, Some((flag, _))) = (config, asked.iter().find(|(_, asked)| *asked)) {
            return Err(Error::Flag(format!("`{flag}` needs `--cache-backend cache_dit`")));
        }
        if let Some(path) = &self.cache_trace {
            check_place("cache-trace", path)?;
        }
        if let Some(path) = &self.cache_plot {
            if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("svg")) {
                return Err(InvalidRequest::new("--cache-plot", "end in .svg", path.display()).into());
            }
            check_place("cache-plot", path)?;
            bench::program()?;
        }
        Ok(())
    }

    /// Writes the requested reports. Paths go to stdout, the summary to stderr.
    pub(super) fn write(&self, images: &[GeneratedImage], setup: &Setup) -> Result<(), Error> {
        if let Some(path) = &self.cache_trace {
            let traces: Vec<_> =
                images.iter().map(|image| PictureTrace::new(&setup.model, image.seed, &image.steps)).collect();
            let json = serde_json::to_string_pretty(&traces).expect("strings and numbers make JSON. This is a bug.");
            write(path, &(json + "\n"))?;
        }
        for (i, image) in images.iter().enumerate() {
            let stats = cache_summary::stats(&image.steps, setup.config, &setup.num_blocks);
            if let Some(path) = &self.cache_plot {
                let title = format!("{}, seed {}: {}", setup.model, image.seed, cache_summary::counts(&stats));
                let plot = bench::cache_plot(&CachePlotData::new(title, &image.steps, setup.config))?;
                write(&numbered(path, i), &plot)?;
            }
            if self.enable_cache_dit_summary {
                terminal::notice(&format!("seed {}: {}", image.seed, cache_summary::line(&image.steps, &stats)));
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { action: "write", path: path.display().to_string(), source };
    write_whole(path, text.as_bytes()).map_err(failed)?;
    terminal::line(&path.display().to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reports: CacheReports, config: Option<&CacheConfig>) -> String {
        let err = reports.check(config).unwrap_err();
        assert_eq!(err.exit_code(), 2);
        err.to_string()
    }

    #[test]
    fn a_report_needs_a_cache() {
        let none = || CacheReports { cache_trace: None, cache_plot: None, enable_cache_dit_summary: false };
        none().check(None).unwrap();
        let trace = || CacheReports { cache_trace: Some("trace.json".into()), ..none() };
        let plot = || CacheReports { cache_plot: Some("plot.svg".into()), ..none() };
        let summary = || CacheReports { enable_cache_dit_summary: true, ..none() };
        assert_eq!(refusal(trace(), None), "`--cache-trace` needs `--cache-backend cache_dit`");
        assert_eq!(refusal(plot(), None), "`--cache-plot` needs `--cache-backend cache_dit`");
        assert_eq!(refusal(summary(), None), "`--enable-cache-dit-summary` needs `--cache-backend cache_dit`");
        for reports in [trace(), summary()] {
            reports.check(Some(&CacheConfig::default())).unwrap();
        }
        // A plot is drawn by another program, which need not be there.
        if let Err(err) = plot().check(Some(&CacheConfig::default())) {
            assert!(err.to_string().contains("latentd-bench"), "{err}");
        }
    }

    #[test]
    fn a_report_needs_a_place() {
        let config = CacheConfig::default();
        let to = |trace: Option<&str>, plot: Option<&str>| CacheReports {
            cache_trace: trace.map(PathBuf::from),
            cache_plot: plot.map(PathBuf::from),
            enable_cache_dit_summary: false,
        };
        assert_eq!(
            refusal(to(Some("/no/such/trace.json"), None), Some(&config)),
            "`--cache-trace`: there is no folder `/no/such`"
        );
        assert_eq!(refusal(to(Some("/"), None), Some(&config)), "`--cache-trace`: `/` is a folder");
        assert_eq!(
            refusal(to(None, Some("/no/such/plot.svg")), Some(&config)),
            "`--cache-plot`: there is no folder `/no/such`"
        );
        assert_eq!(
            refusal(to(None, Some("plot.png")), Some(&config)),
            "`--cache-plot` must end in .svg. Given: plot.png"
        );
    }
}
