//! `--plot`: quality against cost as an SVG, one row per step count. The left panel is over the computed share, which
//! is the same on every machine; the right one is over the measured speedup.
//!
//! The orange line is the uncached model in fewer steps. A configuration on or below it gains nothing over fewer steps.
//! The grey line is the Pareto frontier of all points.

use std::ops::Range;

use plotters::element::DynElement;
use plotters::prelude::*;

use super::report::{CacheComparison, Configuration, StepCount};
use super::summary::Summary;
use super::{frontier, labels};
use crate::plot::{Area, COMPUTED, Drawn, GREY, LEFT, PLANNED, REUSED, TEXT, chart};

const WIDTH: u32 = 1500;
/// Width of the panels; the rest is the list of names.
const PANELS_WIDTH: u32 = 1180;
const HEADER_HEIGHT: u32 = 76;
const PANEL_HEIGHT: u32 = 520;
/// Pixels from one name to the next.
const NAME_HEIGHT: i32 = 21;
/// How far below the worst configuration uncached points are still shown, in dB.
const BELOW: f64 = 8.0;

/// The kind of a configuration, which sets its mark.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plan,
    /// A configuration of rules above the line of fewer steps.
    Better,
    /// A configuration of rules on or below that line.
    NoBetter,
}

/// A panel for one step count and one cost.
struct Panel {
    title: String,
    axis: &'static str,
    range: Range<f64>,
    /// The best uncached runs in fewer steps.
    line: Vec<(f64, f64)>,
    /// The other uncached runs.
    others: Vec<(f64, f64)>,
    frontier: Vec<(f64, f64)>,
    points: Vec<Point>,
}

/// One configuration. A configuration whose pictures are all identical to the reference has no point.
struct Point {
    /// The configuration's number in the list of names, from 1.
    number: usize,
    at: (f64, f64),
    kind: Kind,
}

/// The plot of everything measured.
pub(super) fn svg(report: &CacheComparison) -> String {
    let panels: Vec<_> = report.step_counts.iter().map(Panel::both).collect();
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
    /// The panels over the computed share and over the speedup.
    fn both(count: &StepCount) -> [Panel; 2] {
        let share = |summary: &Summary| summary.computed;
        let by_share = Panel::new(count, share, frontier::by_share);
        let by_time = Panel::new(count, |summary| summary.speedup, frontier::by_time);
        let fastest = by_time.shown().fold(1.0, |most: f64, (speedup, _)| most.max(speedup));
        [
            Panel { axis: "share of (pass, step) pairs that ran", range: 0.0..1.0, ..by_share },
            Panel { axis: "speedup of all steps, measured", range: 1.0..(fastest * 1.05).max(2.0), ..by_time },
        ]
    }

    fn new(count: &StepCount, cost: impl Fn(&Summary) -> f64, frontier: fn(&[Summary]) -> Vec<usize>) -> Panel {
        let at = |configuration: &Configuration| Some((cost(&configuration.summary), configuration.summary.psnr?));
        let fewer: Vec<_> = count.fewer_steps.iter().map(|fewer| fewer.summary).collect();
        let all: Vec<_> = count.configurations.iter().chain(&count.fewer_steps).collect();
        let summaries: Vec<_> = all.iter().map(|configuration| configuration.summary).collect();
        let best = frontier(&fewer);
        let is_other = |&(i, _): &(usize, &Configuration)| !best.contains(&i);
        let line_of_shares = count.fewer_steps_line();
        let points = count.configurations.iter().zip(1..).filter_map(|(configuration, number)| {
            let summary = &configuration.summary;
            let is_better = line_of_shares.at(summary.computed).is_none_or(|psnr| summary.psnr > Some(psnr));
            let kind = match is_better {
                _ if configuration.is_plan() => Kind::Plan,
                true => Kind::Better,
                false => Kind::NoBetter,
            };
            Some(Point { number, at: at(configuration)?, kind })
        });
        Panel {
            title: format!("{} steps", count.num_inference_steps),
            axis: "",
            range: 0.0..1.0,
            points: points.collect(),
            line: best.iter().filter_map(|&i| at(&count.fewer_steps[i])).collect(),
            others: count.fewer_steps.iter().enumerate().filter(is_other).filter_map(|(_, fewer)| at(fewer)).collect(),
            frontier: frontier(&summaries).into_iter().filter_map(|i| at(all[i])).collect(),
        }
    }

    /// The lowest PSNR shown, in dB. Samplers in one or two steps would compress the rest of the plot.
    fn floor(&self) -> f64 {
        let points = self.points.iter().map(|point| point.at.1);
        let least = points.fold(f64::INFINITY, f64::min);
        if least.is_finite() { least - BELOW } else { 0.0 }
    }

    fn shown(&self) -> impl Iterator<Item = (f64, f64)> {
        let floor = self.floor();
        let points = self.points.iter().map(|point| point.at);
        points.chain([&self.line, &self.others].into_iter().flatten().copied()).filter(move |at| at.1 >= floor)
    }

    /// The range of the PSNR axis: round numbers around all shown points.
    fn range_of_psnr(&self) -> (f64, f64) {
        let (low, high) = self.shown().fold((f64::INFINITY, 0.0), |(low, high), (_, y)| (y.min(low), y.max(high)));
        if low > high { (0.0, 10.0) } else { ((low / 5.0).floor() * 5.0, (high / 5.0).ceil() * 5.0 + 1.0) }
    }
}

fn draw(root: &Area, title: &str, panels: &[[Panel; 2]], names: &[&str]) -> Drawn {
    root.fill(&WHITE)?;
    let (header, body) = root.split_vertically(HEADER_HEIGHT);
    header.draw(&Text::new(title.to_owned(), (LEFT, 14), ("sans-serif", 18).into_font().color(&TEXT)))?;
    draw_legend(&header)?;
    let (charts, list) = body.split_horizontally(PANELS_WIDTH);
    draw_names(&list, names)?;
    for (i, of_count) in panels.iter().enumerate() {
        let area = charts.margin(PANEL_HEIGHT as i32 * i as i32, 0, 0, 0);
        let (area, _) = area.split_vertically(PANEL_HEIGHT);
        let (left, right) = area.split_horizontally(PANELS_WIDTH / 2);
        draw_panel(&left, &of_count[0])?;
        draw_panel(&right, &of_count[1])?;
    }
    root.present()?;
    Ok(())
}

fn draw_legend(header: &Area) -> Drawn {
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    let line =
        |x: i32, colour: RGBAColor| PathElement::new([(LEFT + x - 10, 54), (LEFT + x + 6, 54)], colour.stroke_width(3));
    let marks: [(i32, _, DynElement<_, _>); 6] = [
        (6, "plan", marker((LEFT + 6, 54), Kind::Plan)),
        (76, "rules, above the line of fewer steps", marker((LEFT + 76, 54), Kind::Better)),
        (346, "rules, on it or below", marker((LEFT + 346, 54), Kind::NoBetter)),
        (516, "uncached, fewer steps, the best sampler", line(516, COMPUTED.mix(0.7)).into_dyn()),
        (806, "another", Circle::new((LEFT + 806, 54), 2, GREY.filled()).into_dyn()),
        (896, "frontier", line(896, FRONTIER.mix(1.0)).into_dyn()),
    ];
    for (x, name, mark) in marks {
        header.draw(&mark)?;
        header.draw(&Text::new(name, (LEFT + x + 12, 47), font.clone()))?;
    }
    Ok(())
}

/// Colour of the frontier, a wide pale line under all points.
const FRONTIER: RGBColor = RGBColor(200, 200, 200);

/// Draws the list of names that the points' numbers refer to.
fn draw_names(area: &Area, names: &[&str]) -> Drawn {
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    for ((name, number), row) in names.iter().zip(1..).zip(0..) {
        area.draw(&Text::new(format!("{number}  {name}"), (16, 28 + NAME_HEIGHT * row), font.clone()))?;
    }
    Ok(())
}

fn draw_panel(area: &Area, panel: &Panel) -> Drawn {
    area.draw(&Text::new(panel.title.clone(), (LEFT, 4), ("sans-serif", 15).into_font().color(&TEXT)))?;
    let (low, high) = panel.range_of_psnr();
    let mut chart = chart(area, 28).build_cartesian_2d(panel.range.clone(), low..high)?;
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
        .x_desc(panel.axis)
        .y_desc("PSNR against the uncached picture (dB)")
        .draw()?;
    let shown = |points: &[(f64, f64)]| points.iter().copied().filter(|at| at.1 >= low).collect::<Vec<_>>();
    chart.draw_series(LineSeries::new(shown(&panel.frontier), FRONTIER.stroke_width(7)))?;
    let line = shown(&panel.line);
    chart.draw_series(LineSeries::new(line.clone(), COMPUTED.mix(0.7).stroke_width(2)))?;
    chart.draw_series(line.into_iter().map(|at| Circle::new(at, 3, COMPUTED.filled())))?;
    chart.draw_series(shown(&panel.others).into_iter().map(|at| Circle::new(at, 2, GREY.filled())))?;
    chart.draw_series(panel.points.iter().map(|point| marker(point.at, point.kind)))?;
    let plotted = chart.plotting_area();
    let (width, height) = plotted.dim_in_pixel();
    let (left, top) = plotted.get_base_pixel();
    let pixel = |point: &Point| {
        let (x, y) = plotted.map_coordinate(&point.at);
        (point.number, (x - left, y - top))
    };
    let pixels: Vec<_> = panel.points.iter().map(pixel).collect();
    let places = labels::places(&pixels, (width as i32, height as i32));
    let (base_left, base_top) = area.get_base_pixel();
    let small = ("sans-serif", 11).into_font().color(&TEXT);
    for (point, place) in panel.points.iter().zip(places) {
        let at = (place.left + left - base_left, place.top + top - base_top);
        area.draw(&Text::new(point.number.to_string(), at, small.clone()))?;
    }
    Ok(())
}

fn marker<'a, C: Clone + 'static>(at: C, kind: Kind) -> DynElement<'static, SVGBackend<'a>, C> {
    match kind {
        Kind::Plan => TriangleMarker::new(at, 6, PLANNED.filled()).into_dyn(),
        Kind::Better => Circle::new(at, 4, REUSED.filled()).into_dyn(),
        Kind::NoBetter => Circle::new(at, 4, REUSED.stroke_width(2)).into_dyn(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn points_are_marked_by_what_they_are() {
        let svg = svg(&report());
        let marks = |start: &str, part: &str| svg.lines().filter(|l| l.starts_with(start) && l.contains(part)).count();
        // Each of the two panels has a plan, a configuration above the line, one below, and one without a point. The
        // legend has one mark of each.
        assert_eq!(marks("<polygon", r##"fill="#009E73""##), 2 + 1, "plan\n{svg}");
        assert_eq!(marks("<circle", r##"fill="#0072B2""##), 2 + 1, "above");
        assert_eq!(marks("<circle", r##"stroke="#0072B2""##), 2 + 1, "below");
        assert_eq!(marks("<circle", r##"fill="#D55E00""##), 4, "fewer steps");
        assert_eq!(marks("<circle", r##"fill="#828282""##), 2 + 1, "by another sampler");
        assert_eq!(marks("<polyline", r##"stroke="#C8C8C8""##), 2 + 1, "the frontier");
        for text in ["20 steps", "1  good", "2  bad", "3  lossless", "4  plan", "a-model"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn what_is_far_below_is_not_shown() {
        let mut report = report();
        report.step_counts[0].fewer_steps[2].summary.psnr = Some(29.0);
        let [by_share, by_time] = Panel::both(&report.step_counts[0]);
        assert_eq!(by_share.range_of_psnr(), (35.0, 51.0));
        assert!((by_time.range.end - 1.05 / 0.3).abs() < 1e-9, "{:?}", by_time.range);
    }

    #[test]
    fn the_frontier_goes_through_the_best_of_all() {
        let [by_share, by_time] = Panel::both(&report().step_counts[0]);
        let bests = [(0.2, 30.0), (0.3, 46.0), (0.8, 50.0)];
        assert_eq!(by_share.frontier, bests);
        assert_eq!(by_time.frontier, bests.map(|(share, psnr)| (1.0 / share, psnr)));
        assert_eq!((by_share.line, by_share.others), (vec![(0.2, 30.0), (0.8, 50.0)], vec![(0.8, 48.0)]));
        assert_eq!((by_share.range, by_time.range), (0.0..1.0, 1.0..5.25));
    }
}
