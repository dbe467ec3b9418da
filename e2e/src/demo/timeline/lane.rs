//! What lanes share: where one lies, its title and legend, its axis, and the labels of its marks.

use super::{
    Drawing, LEFT, RIGHT, ROW, SMALL,
    labels::{self, Label, Mark, text_width},
    scale::{Scale, tick_label, ticks},
    shapes::{line, rect, text},
    svg::Svg,
};

/// From the top of a lane to its chart, without the rows of labels.
pub(super) const HEADER: f64 = 30.0;
/// The most rows of labels.
pub(super) const ROWS: usize = 3;

/// Where a lane lies.
pub(super) struct Lane<'a> {
    title: &'a str,
    /// Heights of the lane's top, and of its chart.
    top: f64,
    chart_height: f64,
    pub(super) marks: Vec<Mark>,
    pub(super) labels: Vec<Label>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(title: &'a str, top: f64, chart_height: f64, marks: Vec<Mark>) -> Self {
        Self {
            title,
            top,
            chart_height,
            labels: labels::place(&marks, LEFT, RIGHT, ROWS),
            marks,
        }
    }

    pub(super) fn chart_top(&self) -> f64 {
        self.top + HEADER + label_rows(&self.labels) as f64 * ROW
    }

    pub(super) fn chart_bottom(&self) -> f64 {
        self.chart_top() + self.chart_height
    }
}

pub(super) fn label_rows(labels: &[Label]) -> usize {
    labels.iter().map(|label| label.row + 1).max().unwrap_or(0)
}

/// A swatch of a lane's legend.
pub(super) enum Swatch {
    Area(&'static str),
    Line(&'static str),
}

pub(super) fn lane_scale(lane: &Lane<'_>, high: f64) -> Scale {
    Scale::new((0.0, high), (lane.chart_bottom(), lane.chart_top()))
}

impl Drawing<'_> {
    pub(super) fn header(&self, svg: &mut Svg, lane: &Lane<'_>, legend: &[(Swatch, &str)]) {
        let y = lane.top + 12.0;
        text(svg, "lane ink", LEFT, y, lane.title);
        let mut x = LEFT + text_width(lane.title, 13.0) + 20.0;
        for (swatch, words) in legend {
            match swatch {
                Swatch::Area(class) => rect(svg, class, (x, x + 14.0), (y - 9.0, y)),
                Swatch::Line(class) => line(svg, class, (x, y - 4.0), (x + 16.0, y - 4.0)),
            }
            text(svg, "small muted", x + 21.0, y, words);
            x += 21.0 + text_width(words, SMALL) + 18.0;
        }
    }

    pub(super) fn value_axis(&self, svg: &mut Svg, scale: &Scale, whole: bool) {
        let ticks = ticks(scale.high(), 4, whole);
        for tick in &ticks {
            let y = scale.at(*tick);
            if *tick > 0.0 {
                line(svg, "grid", (LEFT, y), (RIGHT, y));
            }
            text(
                svg,
                "small muted end",
                LEFT - 8.0,
                y + 4.0,
                &tick_label(*tick, &ticks),
            );
        }
    }

    pub(super) fn base(&self, svg: &mut Svg, lane: &Lane<'_>) {
        let bottom = lane.chart_bottom();
        line(svg, "base", (LEFT, bottom), (RIGHT, bottom));
    }

    /// Labels of a lane's marks, and lines from them to the chart's bottom.
    pub(super) fn leaders(&self, svg: &mut Svg, lane: &Lane<'_>, class: &str) {
        for label in &lane.labels {
            let x = lane.marks[label.mark].x;
            let y = lane.chart_top() - 6.0 - ROW * label.row as f64;
            line(svg, "leader", (x, y + 3.0), (x, lane.chart_bottom()));
            text(svg, &format!("small {class}"), label.left, y, &label.text);
        }
    }
}
