//! The log: its format, its filter, and the export of spans.

#[cfg(feature = "otlp")]
mod otlp;
#[cfg(all(test, feature = "otlp"))]
mod tests;

use std::ffi::OsStr;
use std::io::IsTerminal;

use crate::error::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

/// The flags of a server's log.
#[derive(Default, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogFlags {
    /// Format of the log's lines; LATENTD_LOG filters them, e.g. warn
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, env = "LATENTD_LOG_FORMAT")]
    log_format: LogFormat,
    /// OpenTelemetry collector's http/protobuf endpoint to send spans to, e.g. http://localhost:4318. Needs a build
    /// with the feature `otlp`
    #[arg(long, value_name = "URL", env = "LATENTD_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Service name of this server in its spans
    #[arg(long, value_name = "NAME", default_value = "latentd", env = "LATENTD_OTLP_SERVICE_NAME")]
    otlp_service_name: String,
}

/// The format of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFlags {
    /// Checks the flags.
    ///
    /// # Errors
    /// The endpoint is not a URL, or this build has no OTLP.
    pub fn check(&self) -> Result<(), Error> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(()) };
        if !cfg!(feature = "otlp") {
            let message = "`--otlp-endpoint` needs a build with OTLP: cargo build --release --features otlp";
            return Err(Error::Flag(message.into()));
        }
        let is_url = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        let refused =
            || Error::Flag(format!("`--otlp-endpoint` must begin with http:// or https://. Given: {endpoint}"));
        is_url.then_some(()).ok_or_else(refused)
    }
}

/// Starts a text log, for a command that runs at a terminal.
pub fn init_text() {
    registry().with(lines(LogFormat::Text)).init();
}

/// Starts the log in the format of the flags, and the export of spans. The returned exporter sends the last spans when
/// it is dropped.
///
/// # Errors
/// The collector's address is invalid.
#[cfg(feature = "otlp")]
pub fn init(flags: &LogFlags) -> Result<Option<otlp::Exporter>, Error> {
    let exporter = flags.otlp_endpoint.as_ref().map(|url| otlp::Exporter::new(url, &flags.otlp_service_name));
    let exporter = exporter.transpose()?;
    registry().with(lines(flags.log_format)).with(exporter.as_ref().map(otlp::Exporter::layer)).init();
    Ok(exporter)
}

/// Starts the log in the format of the flags. Without OTLP no spans are exported.
///
/// # Errors
/// None in a build without OTLP.
#[cfg(not(feature = "otlp"))]
pub fn init(flags: &LogFlags) -> Result<Option<std::convert::Infallible>, Error> {
    registry().with(lines(flags.log_format)).init();
    Ok(None)
}

/// The filter that `said` describes. A blank or malformed text gives the default, `info`.
fn filter(said: Option<&str>) -> EnvFilter {
    let said = said.filter(|said| !said.trim().is_empty()).and_then(|said| EnvFilter::try_new(said).ok());
    said.unwrap_or_else(|| EnvFilter::new("info"))
}

/// Whether lines are coloured: only on a terminal, because files and container logs must not contain escape codes.
/// <https://no-color.org>
fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

fn lines<S>(format: LogFormat) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let filter = filter(std::env::var("LATENTD_LOG").ok().as_deref());
    let is_coloured = is_coloured(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    // Errors of writing the log are dropped: reporting them would panic.
    let lines =
        fmt::layer().with_writer(std::io::stderr).log_internal_errors(false).with_ansi(is_coloured).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    lines.with_filter(filter)
}

#[cfg(test)]
mod colour {
    use super::*;

    #[test]
    fn only_a_terminal_has_colours() {
        for (is_terminal, no_color, expected) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)]
        {
            assert_eq!(is_coloured(is_terminal, no_color.map(OsStr::new)), expected, "{is_terminal} {no_color:?}");
        }
    }
}
