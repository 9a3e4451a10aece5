//! The requests of a load and their arrival times. Both are derived from a seed, so that a run can be repeated.

use std::path::Path;
use std::time::Duration;

use latentd::Error;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The kinds of requests of a load, each with its weight.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    request: Vec<Kind>,
}

/// A kind of request and its relative frequency.
#[derive(Debug, Deserialize)]
pub(super) struct Kind {
    #[serde(default = "one")]
    weight: f64,
    /// The body of the request.
    #[serde(flatten)]
    pub(super) body: Map<String, Value>,
}

fn one() -> f64 {
    1.0
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrivals {
    /// At random, at a fixed mean rate.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// From this many clients, each of which waits for its answer before it sends again.
    Clients(usize),
}

/// When no more requests are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Requests(usize),
    Duration(Duration),
}

impl Default for Load {
    fn default() -> Self {
        let body = Map::from_iter([("prompt".to_owned(), Value::from("a cup of coffee on a brown background"))]);
        Load { request: vec![Kind { weight: 1.0, body }] }
    }
}

impl Load {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            action: "read",
            path: name.to_string(),
            source,
        })?;
        let load: Load = toml::from_str(&text).map_err(|err| Error::Flag(format!("`{name}`: {err}")))?;
        load.check().map_err(|complaint| Error::Flag(format!("`{name}`: {complaint}")))?;
        Ok(load)
    }

    fn check(&self) -> Result<(), String> {
        if self.request.is_empty() {
            return Err("`request` must name at least one. Given: none".into());
        }
        for Kind { weight, body } in &self.request {
            if !(weight.is_finite() && *weight > 0.0) {
                return Err(format!("`weight` must be above 0. Given: {weight}"));
            }
            if !body.contains_key("prompt") {
                return Err(format!("every request must have a `prompt`. Given: {}", Value::Object(body.clone())));
            }
        }
        Ok(())
    }

    /// An endless sequence of bodies to send. Request `i` makes the picture of seed `seed + i`.
    pub(super) fn bodies(&self, seed: u64) -> impl Iterator<Item = (usize, Value)> {
        let weights = WeightedIndex::new(self.request.iter().map(|kind| kind.weight));
        let weights = weights.expect("weights were checked. This is a bug.");
        let mut random = StdRng::seed_from_u64(seed);
        (0_u64..).map(move |i| {
            let kind = weights.sample(&mut random);
            let mut body = json!({"seed": (seed + i) as i64, "return_cache_stats": true});
            if let Value::Object(fields) = &mut body {
                fields.extend(self.request[kind].body.clone());
            }
            (kind, body)
        })
    }
}

/// An endless sequence of arrival times at `rate` per second.
pub(super) fn poisson(rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5EED);
    let mut at = 0.0;
    std::iter::repeat_with(move || {
        // The gaps of a Poisson process are exponential. `1 - u` is never 0.
        at -= (1.0 - random.random::<f64>()).ln() / rate;
        Duration::from_secs_f64(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Load, String> {
        let load: Load = toml::from_str(text).map_err(|err| err.to_string())?;
        load.check().map(|()| load)
    }

    #[test]
    fn weights_are_shares_and_the_rest_is_the_body() {
        let text = "[[request]]\nweight = 3\nprompt = \"a\"\nsize = \"64x64\"\n[[request]]\nprompt = \"b\"\nseed = 7";
        let load = load(text).unwrap();
        let bodies: Vec<_> = load.bodies(100).take(4000).collect();
        let first = bodies.iter().filter(|(kind, _)| *kind == 0).count();
        assert!((2900..3100).contains(&first), "{first} of 4000");
        for (i, (kind, body)) in bodies.iter().enumerate() {
            assert_eq!(body["prompt"], ["a", "b"][*kind]);
            assert_eq!(body["seed"], if *kind == 0 { 100 + i } else { 7 });
            assert_eq!(body.get("weight"), None);
        }
        assert!(load.bodies(100).take(4000).eq(bodies), "a seed is a load");
    }

    #[test]
    fn a_load_that_cannot_be_sent_is_refused() {
        for (text, complaint) in [
            ("", "missing field `request`"),
            ("request = []", "at least one"),
            ("[[request]]\nsize = \"64x64\"", "`prompt`"),
            ("[[request]]\nweight = 0\nprompt = \"a\"", "`weight` must be above 0"),
            ("rate = 3\n[[request]]\nprompt = \"a\"", "unknown field `rate`"),
        ] {
            let given = load(text).unwrap_err();
            assert!(given.contains(complaint), "{text}: {given}");
        }
    }

    #[test]
    fn arrivals_are_random_at_the_rate() {
        let moments: Vec<_> = poisson(10.0, 1).take(10_000).collect();
        assert!(moments.is_sorted());
        let seconds = moments.last().unwrap().as_secs_f64();
        assert!((970.0..1030.0).contains(&seconds), "10,000 at 10 a second in {seconds} s");
        // Of exponential gaps, one in e is longer than the mean.
        let long = moments.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(100)).count();
        assert!((3500..3860).contains(&long), "{long}");
    }
}
