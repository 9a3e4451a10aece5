//! `latentd bench serve`: puts load on a running server, and measures latency and throughput.

mod client;
mod histogram;
mod load;
mod scrape;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use latentd::Error;
use omni::write_whole;

use client::Client;
use latentd::terminal;
use load::{Arrivals, Length, Load};
use summary::Summary;

/// Put load on a running server and measure latency, throughput, batches and reuse
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd bench serve --rate 2 --requests 100\n  latentd bench serve --clients 8 --duration-seconds 60 --load load.toml --plot latency.svg\n\nWith --rate, requests arrive at random (Poisson), however slow the server is, and latency counts\nfrom the arrival. With --clients, each of so many clients sends its next request when its last is answered.\n\nA load file names the requests and how often each is sent; what is not `weight` goes into the body:\n  [[request]]\n  weight = 3\n  prompt = \"a cup of coffee\"\n  size = \"1024x1024\"\n  num_inference_steps = 50"
)]
pub(super) struct Serve {
    /// URL of the server
    #[arg(long, default_value = "http://localhost:8091", env = "LATENTD_URL")]
    url: String,
    /// TOML file of the requests to send; by default one prompt at the server's defaults
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Requests per second, arriving at random
    #[arg(long, value_name = "N", conflicts_with = "clients")]
    rate: Option<f64>,
    /// Number of clients, each of which waits for its answer before it sends again; 1 without --rate
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Requests to send; 100 without --duration-seconds
    #[arg(long, value_name = "N", conflicts_with = "duration_seconds")]
    requests: Option<usize>,
    /// Time to send requests for
    #[arg(long, value_name = "SECONDS")]
    duration_seconds: Option<f64>,
    /// Seed of the arrivals, of the order of the requests and of their pictures
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Write all figures, including every request's, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the latencies as an SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Error> {
        let (arrivals, length) = (self.arrivals()?, self.length()?);
        let load = match &self.load {
            Some(path) => Load::read(path)?,
            None => Load::default(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|source| file("start", "the runtime", source))?;
        let summary = runtime.block_on(async {
            let client = Client::new(&self.url)?;
            let before = client.scrape().await?;
            let (samples, took) = client.send(&load, arrivals, length, self.seed).await;
            let after = client.scrape().await?;
            Ok::<_, Error>(Summary::new(samples, took, &before.until(&after)))
        })?;
        terminal::line(&summary.to_string());
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(&summary).expect("numbers make JSON. This is a bug.");
            write(path, &(json + "\n"))?;
        }
        if let Some(path) = &self.plot {
            write(path, &histogram::svg(&summary))?;
        }
        match summary.failed() {
            0 => Ok(()),
            failed => Err(Error::Flag(format!("{failed} of {} requests failed", summary.requests.len()))),
        }
    }

    fn arrivals(&self) -> Result<Arrivals, Error> {
        match (self.rate, self.clients) {
            (Some(rate), _) if rate.is_finite() && rate > 0.0 => Ok(Arrivals::Poisson { rate }),
            (Some(rate), _) => Err(Error::Flag(format!("`--rate` must be above 0. Given: {rate}"))),
            (None, Some(0)) => Err(Error::Flag("`--clients` must be at least 1. Given: 0".into())),
            (None, clients) => Ok(Arrivals::Clients(clients.unwrap_or(1))),
        }
    }

    fn length(&self) -> Result<Length, Error> {
        match (self.requests, self.duration_seconds) {
            (Some(0), _) => Err(Error::Flag("`--requests` must be at least 1. Given: 0".into())),
            (Some(requests), _) => Ok(Length::Requests(requests)),
            (None, None) => Ok(Length::Requests(100)),
            (None, Some(seconds)) => match Duration::try_from_secs_f64(seconds) {
                Ok(duration) if !duration.is_zero() => Ok(Length::Duration(duration)),
                _ => Err(Error::Flag(format!("`--duration-seconds` must be above 0. Given: {seconds}"))),
            },
        }
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Error> {
    write_whole(path, text.as_bytes()).map_err(|source| file("write", &path.display().to_string(), source))?;
    terminal::notice(&format!("wrote {}", path.display()));
    Ok(())
}

fn file(action: &'static str, path: &str, source: std::io::Error) -> Error {
    Error::File { action, path: path.to_owned(), source }
}
