//! The colours and the layout that all plots share.
//!
//! plotters draws them. It is the only Rust plotting library that needs neither a browser nor fonts at build time, and
//! its SVG backend alone is small.

use plotters::coord::Shift;
use plotters::prelude::*;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Left edge of text and legend in pixels, aligned with the charts' axes.
pub(crate) const LEFT: i32 = 70;

// Okabe and Ito's colours, which colour-blind readers can distinguish.
pub(crate) const COMPUTED: RGBColor = RGBColor(213, 94, 0);
pub(crate) const REUSED: RGBColor = RGBColor(0, 114, 178);
pub(crate) const PLANNED: RGBColor = RGBColor(0, 158, 115);
pub(crate) const TEXT: RGBColor = RGBColor(40, 40, 40);
pub(crate) const GREY: RGBColor = RGBColor(130, 130, 130);

/// A chart that fills `area` except for `title_height` pixels at its top.
pub(crate) fn chart<'a, 'b>(area: &'a Area<'b>, title_height: u32) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart
        .margin_top(title_height)
        .margin_right(24)
        .margin_bottom(12)
        .margin_left(LEFT - 56)
        .x_label_area_size(40)
        .y_label_area_size(56);
    chart
}
