//! `--plot`: speed against quality as an SVG, a panel a step count.
//!
//! The line is what the same model does uncached in fewer steps. A configuration on or below it buys
//! nothing that asking for fewer steps would not have bought.

use plotters::element::DynElement;
use plotters::prelude::*;

use super::report::{Report, StepCount};
use super::summary::FewerSteps;
use crate::plot::{Area, COMPUTED, Drawn, GREY, LEFT, REUSED, TEXT, chart};

const WIDTH: u32 = 1040;
/// Of the panels; the rest is the list of names.
const PANEL_WIDTH: u32 = 720;
const HEADER_HEIGHT: u32 = 76;
const PANEL_HEIGHT: u32 = 400;
/// Pixels from one name to the next.
const NAME_HEIGHT: i32 = 21;

/// One step count.
struct Panel {
    title: String,
    line: FewerSteps,
    points: Vec<Point>,
}

/// One configuration. One whose pictures are all identical has no place.
struct Point {
    /// Its number in the list of names, from 1.
    number: usize,
    at: (f64, f64),
    /// Whether it lies above the line.
    better: bool,
}

/// The plot of everything measured.
pub(super) fn svg(report: &Report) -> String {
    let panels: Vec<_> = report.step_counts.iter().map(Panel::new).collect();
    let mut names: Vec<&str> = Vec::new();
    for configuration in report.step_counts.iter().flat_map(|count| &count.configurations) {
        if !names.contains(&configuration.name.as_str()) {
            names.push(&configuration.name);
        }
    }
    let mut svg = String::new();
    {
        let listed = (NAME_HEIGHT * names.len() as i32) as u32 + 40;
        let height = HEADER_HEIGHT + (PANEL_HEIGHT * panels.len() as u32).max(listed);
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&root, &report.title(), &panels, &names)
            .expect("a plot in memory has nothing that can fail. This is a bug.");
    }
    svg
}

impl Panel {
    fn new(count: &StepCount) -> Self {
        let line = count.fewer_steps_line();
        let points = count.configurations.iter().zip(1..).filter_map(|(configuration, number)| {
            let at = (configuration.summary.computed, configuration.summary.psnr?);
            Some(Point { number, at, better: line.at(at.0).is_none_or(|psnr| at.1 > psnr) })
        });
        Panel { title: format!("{} steps", count.num_inference_steps), points: points.collect(), line }
    }

    /// Round numbers of dB around all points.
    fn range(&self) -> (f64, f64) {
        let all = || self.line.points().iter().copied().chain(self.points.iter().map(|point| point.at));
        let (low, high) = all().fold((f64::INFINITY, 0.0), |(low, high), (_, y)| (y.min(low), y.max(high)));
        if low > high { (0.0, 10.0) } else { ((low / 5.0).floor() * 5.0, (high / 5.0).ceil() * 5.0 + 1.0) }
    }
}

fn draw(root: &Area, title: &str, panels: &[Panel], names: &[&str]) -> Drawn {
    root.fill(&WHITE)?;
    let (header, body) = root.split_vertically(HEADER_HEIGHT);
    header.draw(&Text::new(title.to_owned(), (LEFT, 14), ("sans-serif", 18).into_font().color(&TEXT)))?;
    draw_legend(&header)?;
    let (charts, list) = body.split_horizontally(PANEL_WIDTH);
    draw_names(&list, names)?;
    for (i, panel) in panels.iter().enumerate() {
        let area = charts.margin(PANEL_HEIGHT as i32 * i as i32, 0, 0, 0);
        let (area, _) = area.split_vertically(PANEL_HEIGHT);
        draw_panel(&area, panel)?;
    }
    root.present()?;
    Ok(())
}

fn draw_legend(header: &Area) -> Drawn {
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    let marks: [(_, DynElement<_, _>); 3] = [
        ("above the line of fewer steps", marker((LEFT + 6, 54), true)),
        ("on it or below", marker((LEFT + 266, 54), false)),
        ("uncached, fewer steps", Circle::new((LEFT + 416, 54), 3, COMPUTED.filled()).into_dyn()),
    ];
    for ((name, mark), x) in marks.into_iter().zip([6, 266, 416]) {
        header.draw(&mark)?;
        header.draw(&Text::new(name, (LEFT + x + 12, 47), font.clone()))?;
    }
    Ok(())
}

/// What the points' numbers stand for.
fn draw_names(area: &Area, names: &[&str]) -> Drawn {
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    for ((name, number), row) in names.iter().zip(1..).zip(0..) {
        area.draw(&Text::new(format!("{number}  {name}"), (16, 28 + NAME_HEIGHT * row), font.clone()))?;
    }
    Ok(())
}

fn draw_panel(area: &Area, panel: &Panel) -> Drawn {
    area.draw(&Text::new(panel.title.clone(), (LEFT, 4), ("sans-serif", 15).into_font().color(&TEXT)))?;
    let (low, high) = panel.range();
    let mut chart = chart(area, 28).build_cartesian_2d(0.0..1.0, low..high)?;
    let font = ("sans-serif", 13).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .axis_style(GREY)
        .x_labels(11)
        .y_labels(8)
        .label_style(font.clone())
        .axis_desc_style(font.clone())
        .x_desc("share of (pass, step) pairs whose middle blocks ran")
        .y_desc("PSNR against the uncached picture (dB)")
        .draw()?;
    let line = panel.line.points().iter().copied();
    chart.draw_series(LineSeries::new(line.clone(), COMPUTED.mix(0.7).stroke_width(2)))?;
    chart.draw_series(line.map(|at| Circle::new(at, 3, COMPUTED.filled())))?;
    chart.draw_series(panel.points.iter().map(|point| marker(point.at, point.better)))?;
    chart.draw_series(
        panel
            .points
            .iter()
            .map(|point| EmptyElement::at(point.at) + Text::new(point.number.to_string(), (6, -13), font.clone())),
    )?;
    Ok(())
}

fn marker<'a, C: Clone + 'static>(at: C, better: bool) -> DynElement<'static, SVGBackend<'a>, C> {
    if better {
        Circle::new(at, 5, REUSED.filled()).into_dyn()
    } else {
        Circle::new(at, 5, REUSED.stroke_width(2)).into_dyn()
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn points_are_marked_by_their_side_of_the_line() {
        let svg = svg(&report());
        let circles = |part: &str| svg.lines().filter(|l| l.starts_with("<circle") && l.contains(part)).count();
        // A panel has one configuration above the line, one below and one without a place; the legend one each.
        assert_eq!(circles(r##"fill="#0072B2""##), 1 + 1, "above\n{svg}");
        assert_eq!(circles(r##"stroke="#0072B2""##), 1 + 1, "below");
        assert_eq!(circles(r##"fill="#D55E00""##), 2 + 1, "fewer steps");
        for text in ["20 steps", "1  good", "2  bad", "3  lossless", "a-model"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
