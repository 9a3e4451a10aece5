//! A histogram of the latencies, as an SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::summary::{Spread, Summary};
use crate::plot::{COMPUTED, Drawn, GREY, LEFT, REUSED, TEXT, chart};

const SIZE: (u32, u32) = (960, 420);
const BARS: usize = 40;

/// The histogram of latencies, with the median and the 99th percentile marked.
pub(super) fn svg(summary: &Summary) -> String {
    let mut svg = String::new();
    let Some(latency) = &summary.latency else { return svg };
    draw(&mut svg, summary, latency).expect("a plot in memory has nothing that can fail. This is a bug.");
    svg
}

fn draw(svg: &mut String, summary: &Summary, latency: &Spread) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!(
        "{} pictures, {:.2} a second: p50 {:.2} s, p99 {:.2} s",
        latency.count, summary.throughput, latency.p50, latency.p99
    );
    root.draw(&Text::new(title, (LEFT, 14), ("sans-serif", 18).into_font().color(&TEXT)))?;
    let width = (latency.max / BARS as f64).max(1e-6);
    let bars = counts(summary, width);
    let top = bars.iter().copied().max().unwrap_or(1) as f64 * 1.1;
    let mut chart = chart(&root, 48).build_cartesian_2d(0.0..width * BARS as f64, 0.0..top)?;
    let font = ("sans-serif", 13).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(GREY)
        .label_style(font.clone())
        .axis_desc_style(font.clone())
        .x_desc("seconds")
        .y_desc("pictures")
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(i, &count)| {
        let left = i as f64 * width;
        Rectangle::new([(left, 0.0), (left + 0.92 * width, count as f64)], REUSED.mix(0.75).filled())
    }))?;
    for (name, at) in [("p50", latency.p50), ("p99", latency.p99)] {
        chart.draw_series([PathElement::new([(at, 0.0), (at, top)], COMPUTED.stroke_width(2))])?;
        let left_of_it = font.clone().into_text_style(&root).pos(Pos::new(HPos::Right, VPos::Top));
        chart.draw_series([Text::new(format!("{name} "), (at, top), left_of_it)])?;
    }
    root.present()?;
    Ok(())
}

/// Number of pictures in each bar of `width` seconds.
fn counts(summary: &Summary, width: f64) -> [usize; BARS] {
    let mut counts = [0; BARS];
    for sample in summary.requests.iter().filter(|sample| sample.failure.is_none()) {
        counts[((sample.seconds / width) as usize).min(BARS - 1)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::scrape::Scrape;
    use super::super::summary::Sample;
    use super::*;

    #[test]
    fn every_picture_stands_in_one_bar() {
        let mut samples: Vec<_> = (1..=80).map(|i| Sample::ok(0, f64::from(i) / 10.0, None, None)).collect();
        samples.push(Sample::failed(0, 100.0, "429".into()));
        let summary = Summary::new(samples, Duration::from_secs(10), &Scrape::default());
        assert_eq!(counts(&summary, 0.2).iter().sum::<usize>(), 80);
        let svg = svg(&summary);
        assert!(svg.contains("80 pictures, 8.00 a second: p50 4.00 s, p99 8.00 s"));
        assert!(svg.matches("<rect").count() >= BARS, "a bar each");
        let nothing = Summary::new(Vec::new(), Duration::from_secs(1), &Scrape::default());
        assert_eq!(super::svg(&nothing), "");
    }
}
