//! Line charts over time as SVG.

use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// How values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero on.
    Linear,
    /// By powers of ten.
    Logarithmic,
}

/// Values over time.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What it is.
    pub(crate) label: String,
    /// Seconds since the start and a value; `None` where there is none.
    pub(crate) points: Vec<(f64, Option<f64>)>,
    /// Its line is dashed.
    pub(crate) dashed: bool,
}

/// A chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) scale: Scale,
    /// Values hold until the next one.
    pub(crate) steps: bool,
    pub(crate) series: Vec<Series>,
}

/// A step of 1, 2 or 5 times a power of ten with which `most` has at most five of them.
fn nice_step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

/// Seconds between two marks of the time axis: at most twelve of them.
fn time_step(length: f64) -> f64 {
    let steps = [
        60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0,
    ];
    let fits = |step: &f64| length / step <= 12.0;
    steps.into_iter().find(fits).unwrap_or(length)
}

/// `1:30` hours and minutes.
fn clock(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as i64;
    format!("{}:{:02}", minutes / 60, minutes % 60)
}

/// A number without zeros at its end.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Where values and times are on the picture.
struct Frame {
    length: f64,
    scale: Scale,
    /// The lowest and the highest value; of a logarithmic scale, their logarithms.
    low: f64,
    high: f64,
    marks: Vec<f64>,
}

impl Frame {
    fn new(chart: &Chart) -> Self {
        let points = chart.series.iter().flat_map(|series| &series.points);
        let length = points.clone().map(|(at, _)| *at).fold(1.0, f64::max);
        let values = points.filter_map(|(_, value)| *value);
        match chart.scale {
            Scale::Linear => {
                let most = values.fold(0.0, f64::max);
                let most = if most > 0.0 { most } else { 1.0 };
                let step = nice_step(most);
                let count = (most / step).ceil() as u32;
                let marks = (0..=count).map(|mark| f64::from(mark) * step).collect();
                Self {
                    length,
                    scale: chart.scale,
                    low: 0.0,
                    high: f64::from(count) * step,
                    marks,
                }
            }
            Scale::Logarithmic => {
                let positive = values.filter(|value| *value > 0.0);
                let (least, most) = positive.fold((f64::MAX, 0.0f64), |(least, most), value| {
                    (least.min(value), most.max(value))
                });
                let (least, most) = if most > 0.0 {
                    (least, most)
                } else {
                    (0.1, 1.0)
                };
                let low = least.log10().floor();
                let high = most.log10().ceil().max(low + 1.0);
                let marks = (low as i32..=high as i32).map(|power| 10f64.powi(power));
                Self {
                    length,
                    scale: chart.scale,
                    low,
                    high,
                    marks: marks.collect(),
                }
            }
        }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.length
    }

    fn y(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10().max(self.low),
        };
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    }

    /// The line of a series, in parts where values are missing.
    fn path(&self, series: &Series, steps: bool) -> String {
        let mut path = String::new();
        let mut before: Option<f64> = None;
        for (at, value) in &series.points {
            let Some(value) = value else {
                before = None;
                continue;
            };
            let (x, y) = (self.x(*at), self.y(*value));
            // writing into a string cannot fail
            let _ = match before {
                None => write!(path, "M{x:.1} {y:.1}h.1"),
                Some(last) if steps && (last - y).abs() > 0.05 => {
                    write!(path, "H{x:.1}V{y:.1}")
                }
                Some(_) if steps => write!(path, "H{x:.1}"),
                Some(_) => write!(path, "L{x:.1} {y:.1}"),
            };
            before = Some(y);
        }
        path
    }
}

impl Chart {
    /// The chart with its title and legend.
    pub(crate) fn figure(&self) -> String {
        let frame = Frame::new(self);
        let title = escape(&self.title);
        let mut text = String::new();
        // writing into a string cannot fail
        let _ = write!(text, "<h2>{title}</h2>\n<figure>\n<div class=\"legend\">");
        for (place, series) in self.series.iter().enumerate() {
            let class = class(place, series);
            let _ = write!(
                text,
                "<span><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\"><path class=\"{class}\" \
                 d=\"M0 5H28\"/></svg>{}</span>",
                escape(&series.label)
            );
        }
        let _ = write!(
            text,
            "<span>{}; time in hours since the start</span></div>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\">\n",
            escape(&self.unit)
        );
        for mark in &frame.marks {
            let y = frame.y(*mark);
            let _ = writeln!(
                text,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                number(*mark)
            );
        }
        let step = time_step(frame.length);
        let marks = (frame.length / step).floor() as u32;
        for mark in 0..=marks {
            let seconds = f64::from(mark) * step;
            let x = frame.x(seconds);
            let bottom = HEIGHT - BOTTOM;
            let _ = writeln!(
                text,
                "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v5\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                bottom + 19.0,
                clock(seconds)
            );
        }
        for (place, series) in self.series.iter().enumerate() {
            let class = class(place, series);
            let path = frame.path(series, self.steps);
            let _ = writeln!(text, "<path class=\"{class}\" d=\"{path}\"/>");
        }
        text += "</svg>\n</figure>\n";
        text
    }
}

fn class(place: usize, series: &Series) -> String {
    let dashed = if series.dashed { " dashed" } else { "" };
    format!("line s{}{dashed}", place % 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, values: &[Option<f64>]) -> Chart {
        let points = values.iter().enumerate();
        let points = points
            .map(|(at, value)| (at as f64 * 600.0, *value))
            .collect();
        Chart {
            title: "a < b".to_owned(),
            unit: "replicas".to_owned(),
            scale,
            steps: true,
            series: vec![Series {
                label: "ready".to_owned(),
                points,
                dashed: false,
            }],
        }
    }

    #[test]
    fn values_lie_within_the_frame_and_marks_are_round_numbers() {
        let chart = chart(Scale::Linear, &[Some(0.0), Some(37.0), Some(5.0)]);
        let frame = Frame::new(&chart);
        assert_eq!(frame.marks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!((frame.y(0.0), frame.y(40.0)), (HEIGHT - BOTTOM, TOP));
        assert_eq!((frame.x(0.0), frame.x(1200.0)), (LEFT, WIDTH - RIGHT));
        let figure = chart.figure();
        assert!(
            figure.contains("a &lt; b") && !figure.contains("NaN"),
            "{figure}"
        );
    }

    #[test]
    fn a_logarithmic_scale_has_powers_of_ten() {
        let chart = chart(Scale::Logarithmic, &[Some(0.05), Some(12.0), None]);
        let frame = Frame::new(&chart);
        assert_eq!(frame.marks.len(), 5);
        assert_eq!(
            (number(frame.marks[0]), number(frame.marks[4])),
            ("0.01".into(), "100".into())
        );
        assert!(frame.y(0.0) <= HEIGHT - BOTTOM);
    }

    #[test]
    fn a_line_breaks_where_nothing_is_known_and_nothing_at_all_is_no_fault() {
        let chart = chart(Scale::Linear, &[Some(1.0), None, Some(2.0)]);
        let path = Frame::new(&chart).path(&chart.series[0], true);
        assert_eq!(path.matches('M').count(), 2, "{path}");
        let empty = Chart {
            series: vec![],
            ..chart
        };
        assert!(!empty.figure().contains("NaN"));
    }
}
