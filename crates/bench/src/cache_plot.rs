//! `--cache-plot`: draws the residual diff of each step against the threshold, as an SVG.

use latentd::{CachePlotData, Error, terminal};
use plotters::element::DynElement;
use plotters::prelude::*;

use crate::plot::{Area, COMPUTED, Drawn, GREY, LEFT, REUSED, TEXT, chart};

const WIDTH: u32 = 960;
const HEADER_HEIGHT: u32 = 76;
const PANEL_HEIGHT: u32 = 272;

/// The panel of one branch in one segment.
struct Panel {
    title: String,
    threshold: f64,
    points: Vec<Point>,
}

struct Point {
    step: usize,
    diff: Option<f64>,
    reused: bool,
}

/// The mark of a step. A step that needed no diff is drawn on the axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Reused,
    Computed,
    ComputedUnmeasured,
    ReusedUnmeasured,
}

const LEGEND: [(Mark, &str); 4] = [
    (Mark::Reused, "reused"),
    (Mark::Computed, "computed"),
    (Mark::ComputedUnmeasured, "computed, no diff needed"),
    (Mark::ReusedUnmeasured, "reused, no diff needed"),
];

/// Draw `--cache-plot` of `latentd generate` and `edit`: JSON from stdin, SVG to stdout
#[derive(clap::Args)]
#[command(hide = true)]
pub(crate) struct CachePlot {}

impl CachePlot {
    pub(crate) fn run(self) -> Result<(), Error> {
        let data = serde_json::from_reader(std::io::stdin().lock());
        let data = data.map_err(|err| Error::Flag(format!("stdin holds no steps to draw: {err}")))?;
        terminal::print(&svg(&data));
        Ok(())
    }
}

/// The plot of one picture's steps, with a panel for each branch in each segment.
fn svg(data: &CachePlotData) -> String {
    let panels = panels(data);
    let mut svg = String::new();
    {
        let height = HEADER_HEIGHT + PANEL_HEIGHT * panels.len() as u32;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&root, &data.title, &panels).expect("a plot in memory has nothing that can fail. This is a bug.");
    }
    svg
}

fn panels(data: &CachePlotData) -> Vec<Panel> {
    let mut runs: Vec<(&str, &str)> = Vec::new();
    for entry in &data.trace {
        let run = (entry.branch.as_str(), entry.segment.as_str());
        if !runs.contains(&run) {
            runs.push(run);
        }
    }
    let segments = data.segments();
    let panel = |(branch, segment): (&str, &str)| {
        let idx = segments.iter().position(|&other| other == segment).unwrap_or(0);
        let threshold = data.thresholds.get(idx).copied().unwrap_or(0.0);
        let entries =
            data.trace.iter().filter(|entry| (entry.branch.as_str(), entry.segment.as_str()) == (branch, segment));
        let points = entries.map(|entry| Point {
            step: entry.step,
            diff: entry.diff.map(f64::from),
            reused: entry.decision == "reuse",
        });
        let title = format!("{branch}, {segment}: threshold {}", rounded(threshold));
        Panel { title, threshold, points: points.collect() }
    };
    runs.into_iter().map(panel).collect()
}

/// Rounds away the last digits of a product of two decimal fractions.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn draw(root: &Area, title: &str, panels: &[Panel]) -> Drawn {
    root.fill(&WHITE)?;
    let (header, body) = root.split_vertically(HEADER_HEIGHT);
    header.draw(&Text::new(title.to_owned(), (LEFT, 14), ("sans-serif", 18).into_font().color(&TEXT)))?;
    draw_legend(&header, panels)?;
    // All panels have the same scale, so that branches can be compared.
    let top = panels.iter().map(Panel::top).fold(0.0, f64::max) * 1.1;
    for (area, panel) in body.split_evenly((panels.len(), 1)).iter().zip(panels) {
        draw_panel(area, panel, top)?;
    }
    root.present()?;
    Ok(())
}

/// Draws the legend: the marks that occur, and the threshold.
fn draw_legend(header: &Area, panels: &[Panel]) -> Drawn {
    let (mut x, y) = (LEFT + 6, 54);
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    let occurs = |mark| panels.iter().flat_map(|panel| &panel.points).any(|point| point.mark() == mark);
    for (mark, name) in LEGEND.into_iter().filter(|&(mark, _)| occurs(mark)) {
        header.draw(&mark.element((x, y), 5))?;
        header.draw(&Text::new(name, (x + 12, y - 7), font.clone()))?;
        // The SVG backend does not measure text. 6.5 px per character is enough at this font size.
        x += 40 + 13 * name.len() as i32 / 2;
    }
    for dash in 0..3 {
        let from = x - 6 + 9 * dash;
        header.draw(&PathElement::new([(from, y), (from + 6, y)], GREY.stroke_width(2)))?;
    }
    header.draw(&Text::new("threshold: reused below", (x + 26, y - 7), font))?;
    Ok(())
}

fn draw_panel(area: &Area, panel: &Panel, top: f64) -> Drawn {
    let title_font = ("sans-serif", 15).into_font().color(&TEXT);
    area.draw(&Text::new(panel.title.clone(), (LEFT, 4), title_font))?;
    let steps = panel.points.len();
    let (left, right) = (-0.5, steps as f64 - 0.5);
    let mut chart = chart(area, 28).build_cartesian_2d(left..right, 0.0..top)?;
    let font = ("sans-serif", 13).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(GREY)
        .x_labels(15)
        .y_labels(6)
        .x_label_formatter(&whole)
        .label_style(font.clone())
        .axis_desc_style(font)
        .x_desc("step")
        .y_desc("diff")
        .draw()?;
    let below = Rectangle::new([(left, 0.0), (right, panel.threshold.min(top))], REUSED.mix(0.06).filled());
    chart.draw_series([below])?;
    let threshold = [(left, panel.threshold), (right, panel.threshold)];
    chart.draw_series(DashedLineSeries::new(threshold, 8, 5, GREY.stroke_width(2)))?;
    for run in panel.points.chunk_by(|one, next| one.diff.is_some() && next.diff.is_some()) {
        chart.draw_series(LineSeries::new(run.iter().map(|point| point.at(top)), GREY.mix(0.6)))?;
    }
    let size = if steps > 100 { 2 } else { 5 };
    chart.draw_series(panel.points.iter().map(|point| point.mark().element(point.at(top), size)))?;
    Ok(())
}

/// Labels whole steps only.
fn whole(step: &f64) -> String {
    if step.fract() == 0.0 { step.to_string() } else { String::new() }
}

impl Panel {
    /// The largest of the threshold and the finite diffs.
    fn top(&self) -> f64 {
        let diffs = self.points.iter().filter_map(|point| point.diff).filter(|diff| diff.is_finite());
        diffs.fold(self.threshold.max(1e-3), f64::max)
    }
}

impl Point {
    fn at(&self, top: f64) -> (f64, f64) {
        (self.step as f64, self.diff.unwrap_or(0.0).min(top))
    }

    fn mark(&self) -> Mark {
        match (self.reused, self.diff) {
            (true, Some(_)) => Mark::Reused,
            (false, Some(_)) => Mark::Computed,
            (false, None) => Mark::ComputedUnmeasured,
            (true, None) => Mark::ReusedUnmeasured,
        }
    }
}

impl Mark {
    fn element<'a, C: Clone + 'static>(self, at: C, size: i32) -> DynElement<'static, SVGBackend<'a>, C> {
        match self {
            Mark::Reused => Circle::new(at, size, REUSED.stroke_width(2)).into_dyn(),
            Mark::Computed => Circle::new(at, size, COMPUTED.filled()).into_dyn(),
            Mark::ComputedUnmeasured => TriangleMarker::new(at, size, COMPUTED.filled()).into_dyn(),
            Mark::ReusedUnmeasured => TriangleMarker::new(at, size, REUSED.filled()).into_dyn(),
        }
    }
}

#[cfg(test)]
mod tests {
    use cache::CacheConfig;
    use diffusion::testing::steps;

    use super::*;

    fn count(svg: &str, start: &str, part: &str) -> usize {
        svg.lines().filter(|line| line.starts_with(start) && line.contains(part)).count()
    }

    #[test]
    fn every_step_of_every_branch_is_marked() {
        let steps = steps("WWssLds", "WWssssd");
        let svg = svg(&CachePlotData::new("a title".into(), &steps, &CacheConfig::default()));
        // The legend adds one mark of each kind.
        assert_eq!(count(&svg, "<circle", "#0072B2"), 7 + 1, "reused");
        assert_eq!(count(&svg, "<circle", "#D55E00"), 2 + 1, "computed");
        assert_eq!(count(&svg, "<polygon", "#D55E00"), 5 + 1, "computed without a diff");
        assert_eq!(count(&svg, "<polygon", "#0072B2"), 0, "nothing was reused without a diff");
        for text in
            ["a title", "cond, transformer_blocks: threshold 0.24", "uncond, transformer_blocks", "computed, no diff"]
        {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn odd_values_are_drawn_too() {
        let mut odd = steps("d", "s");
        odd[0].runs[0].residual_diff = Some(f32::INFINITY);
        odd[0].runs[1].residual_diff = Some(f32::NAN);
        let config = CacheConfig { residual_diff_threshold: 0.0, ..CacheConfig::default() };
        let svg = svg(&CachePlotData::new(String::new(), &odd, &config));
        assert_eq!((count(&svg, "<polygon", "#D55E00"), count(&svg, "<polygon", "#0072B2")), (2, 2));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
