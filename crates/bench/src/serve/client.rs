//! Sends the load and times the answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use latentd::Error;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use super::load::{Arrivals, Length, Load, poisson};
use super::scrape::Scrape;
use super::summary::Sample;

#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
}

/// The requests to send, each with its arrival time under Poisson load.
type Plan<'a> = Box<dyn Iterator<Item = (Option<Duration>, (usize, Value))> + Send + 'a>;

impl Client {
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let http = http_client::http_client().build().map_err(|err| Error::Flag(err.to_string()))?;
        Ok(Client { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// Reads the server's metrics; empty if it exposes none.
    pub(super) async fn scrape(&self) -> Result<Scrape, Error> {
        let unreachable = |err: reqwest::Error| Error::Flag(format!("no server at {}: {err}", self.url));
        let response = self.http.get(format!("{}/metrics", self.url)).send().await.map_err(unreachable)?;
        match response.status().is_success() {
            true => Ok(Scrape::parse(&response.text().await.map_err(unreachable)?)),
            false => Ok(Scrape::default()),
        }
    }

    /// Sends the load. Returns every request's sample and the total time.
    pub(super) async fn send(
        &self,
        load: &Load,
        arrivals: Arrivals,
        length: Length,
        seed: u64,
    ) -> (Vec<Sample>, Duration) {
        let bar = bar(length);
        let bodies = load.bodies(seed);
        let plan: Plan<'_> = match arrivals {
            Arrivals::Poisson { rate } => Box::new(poisson(rate, seed).map(Some).zip(bodies)),
            Arrivals::Clients(_) => Box::new(std::iter::repeat(None).zip(bodies)),
        };
        let plan: Plan<'_> = match length {
            Length::Requests(requests) => Box::new(plan.take(requests)),
            Length::Duration(_) => plan,
        };
        let started = Instant::now();
        let samples = self.play(plan, arrivals, length, started, &bar).await;
        bar.finish_and_clear();
        (samples, started.elapsed())
    }

    async fn play(
        &self,
        plan: Plan<'_>,
        arrivals: Arrivals,
        length: Length,
        started: Instant,
        bar: &ProgressBar,
    ) -> Vec<Sample> {
        let places = match arrivals {
            Arrivals::Poisson { .. } => Semaphore::MAX_PERMITS,
            Arrivals::Clients(clients) => clients,
        };
        let places = Arc::new(Semaphore::new(places));
        let (done, mut samples) = mpsc::unbounded_channel();
        let shown = bar.clone();
        let collector = tokio::spawn(async move {
            let mut collected = Vec::new();
            while let Some(sample) = samples.recv().await {
                show(&shown, length, started);
                collected.push(sample);
            }
            collected
        });
        for (at, (kind, body)) in plan {
            let place = places.clone().acquire_owned().await.expect("never closed. This is a bug.");
            if let Some(at) = at {
                tokio::time::sleep_until((started + at).into()).await;
            }
            if matches!(length, Length::Duration(duration) if started.elapsed() >= duration) {
                break;
            }
            // Latency counts from the planned arrival, even if this program was late to send.
            let arrived = at.map_or_else(Instant::now, |at| started + at);
            let (client, done) = (self.clone(), done.clone());
            tokio::spawn(async move {
                let _ = done.send(client.request(kind, body, arrived).await);
                drop(place);
            });
        }
        drop(done);
        collector.await.expect("the collector does not panic. This is a bug.")
    }

    async fn request(&self, kind: usize, body: Value, arrived: Instant) -> Sample {
        let url = format!("{}/v1/images/generations", self.url);
        let request = self.http.post(url).header("content-type", "application/json").body(body.to_string());
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let queue = response.headers().get("x-queue-ms").and_then(|value| value.to_str().ok()?.parse().ok());
            Ok::<_, reqwest::Error>((status, queue, response.bytes().await?))
        };
        let answer = answer.await;
        let seconds = arrived.elapsed().as_secs_f64();
        match answer {
            Ok((200, queue_ms, body)) => Sample::ok(kind, seconds, queue_ms, serde_json::from_slice(&body).ok()),
            Ok((status, ..)) => Sample::failed(kind, seconds, status.to_string()),
            Err(err) if err.is_timeout() => Sample::failed(kind, seconds, "timeout".into()),
            Err(_) => Sample::failed(kind, seconds, "connection".into()),
        }
    }
}

fn bar(length: Length) -> ProgressBar {
    let (total, unit) = match length {
        Length::Requests(requests) => (requests as u64, "requests"),
        Length::Duration(duration) => (duration.as_secs().max(1), "s"),
    };
    let template = format!("serving [{{bar:32}}] {{pos}}/{{len}} {unit}, {{elapsed}} (eta {{eta}})");
    let style = ProgressStyle::with_template(&template).expect("a valid template. This is a bug.");
    ProgressBar::new(total).with_style(style.progress_chars("=> "))
}

fn show(bar: &ProgressBar, length: Length, started: Instant) {
    match length {
        Length::Requests(_) => bar.inc(1),
        Length::Duration(_) => bar.set_position(started.elapsed().as_secs()),
    }
}
