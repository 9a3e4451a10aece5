//! The server's own metrics, before and after the load.

use std::collections::BTreeMap;

/// The value of each series of `/metrics`, by its name and labels as written there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Parses Prometheus's text format. Values that are not numbers are left out.
    pub(super) fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Scrape(series.collect())
    }

    /// The increase of every series from this scrape to `later`.
    pub(super) fn until(&self, later: &Scrape) -> Scrape {
        let grown =
            |(series, value): (&String, &f64)| (series.clone(), value - self.0.get(series).copied().unwrap_or(0.0));
        Scrape(later.0.iter().map(grown).collect())
    }

    /// The sum of all series of `name` that have `label`; an empty `label` matches all.
    pub(super) fn sum(&self, name: &str, label: &str) -> f64 {
        let of_name = |series: &str| {
            let rest = series.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{')).then_some(rest.contains(label))
        };
        self.0.iter().filter(|(series, _)| of_name(series) == Some(true)).map(|(_, value)| value).sum()
    }

    /// The mean of a histogram; `None` if nothing was observed.
    pub(super) fn mean(&self, name: &str) -> Option<f64> {
        let count = self.sum(&format!("{name}_count"), "");
        (count > 0.0).then(|| self.sum(&format!("{name}_sum"), "") / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_counts() {
        let before = Scrape::parse("# HELP x_total y\nx_total{a=\"1\"} 3\nb_sum 4\nb_count 2\n");
        let after =
            Scrape::parse("x_total{a=\"1\"} 5\nx_total{a=\"2\"} 7\nx_total_more 9\nb_sum 10\nb_count 4\nbad NaN x\n");
        let grown = before.until(&after);
        assert_eq!((grown.sum("x_total", ""), grown.sum("x_total", "a=\"2\"")), (9.0, 7.0));
        assert_eq!((grown.mean("b"), grown.mean("c")), (Some(3.0), None));
    }
}
