//! Draws a run as one timeline of three lanes: requests, replicas and money. The same journal gives
//! the same bytes.
//!
//! | module | subject |
//! |---|---|
//! | `series` | what is shown, taken from the journal |
//! | `scale` | axes and ticks |
//! | `labels` | where the labels of marks have room |
//! | `style` | colours and type |
//! | `svg` | writes elements and numbers |

mod labels;
mod scale;
mod series;
mod style;
mod svg;

use std::fmt::Display;

use super::journal::{Event, Journal, Phase};
use labels::{Label, Mark, text_width};
use scale::{Scale, axis_end, clock, grouped, tick_label, ticks, time_ticks};
use series::Series;
use svg::{Number, Path, Svg};

const WIDTH: f64 = 920.0;
/// The axis of time.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 712.0;
/// The column of results.
const RESULT_LEFT: f64 = 742.0;
const RESULT_WIDTH: f64 = 156.0;
const PHASES_TOP: f64 = 76.0;
const PHASES_HEIGHT: f64 = 22.0;
/// From the top of a lane to its chart, without the rows of labels.
const HEADER: f64 = 30.0;
const ROW: f64 = 15.0;
const LANE_GAP: f64 = 30.0;
const SMALL: f64 = 11.0;
/// The most rows of labels.
const ROWS: usize = 3;
/// An arrival's bar is no narrower, in pixels.
const LEAST_BAR: f64 = 4.0;

/// Draws the journal as an SVG file.
pub(super) fn draw(journal: &Journal) -> String {
    let series = Series::new(journal);
    let drawing = Drawing {
        time: Scale::new((0.0, series.end), (LEFT, RIGHT)),
        series: &series,
    };
    drawing.document()
}

struct Drawing<'a> {
    series: &'a Series,
    time: Scale,
}

/// Where a lane lies.
struct Lane<'a> {
    title: &'a str,
    /// Heights of the lane's top, and of its chart.
    top: f64,
    chart_height: f64,
    marks: Vec<Mark>,
    labels: Vec<Label>,
}

impl<'a> Lane<'a> {
    fn new(title: &'a str, top: f64, chart_height: f64, marks: Vec<Mark>) -> Self {
        Self {
            title,
            top,
            chart_height,
            labels: labels::place(&marks, LEFT, RIGHT, ROWS),
            marks,
        }
    }

    fn chart_top(&self) -> f64 {
        self.top + HEADER + label_rows(&self.labels) as f64 * ROW
    }

    fn chart_bottom(&self) -> f64 {
        self.chart_top() + self.chart_height
    }
}

fn label_rows(labels: &[Label]) -> usize {
    labels.iter().map(|label| label.row + 1).max().unwrap_or(0)
}

/// A swatch of a lane's legend.
enum Swatch {
    Area(&'static str),
    Line(&'static str),
}

impl Drawing<'_> {
    fn document(&self) -> String {
        let requests = Lane::new(
            "Requests",
            PHASES_TOP + PHASES_HEIGHT + 14.0,
            96.0,
            self.marks(|event| match event {
                Event::Refused { status, code } => {
                    Some((0, vec![format!("{status} {code}"), status.to_string()]))
                }
                _ => None,
            }),
        );
        let replicas = Lane::new(
            "Replicas",
            requests.chart_bottom() + LANE_GAP,
            84.0,
            self.replica_marks(),
        );
        let training = labels::place(&self.training_marks(), LEFT, RIGHT, 2);
        let training_top = replicas.chart_bottom() + 10.0;
        let training_bottom = training_top + 12.0 + label_rows(&training) as f64 * ROW;
        let money = Lane::new(
            "Money",
            training_bottom + LANE_GAP - 6.0,
            112.0,
            self.money_marks(),
        );
        let height = money.chart_bottom() + 54.0;

        let mut svg = Svg::default();
        let view_box = format!("0 0 {} {}", Number(WIDTH), Number(height));
        svg.group(
            "svg",
            &[
                ("xmlns", &"http://www.w3.org/2000/svg"),
                ("viewBox", &view_box),
                ("width", &Number(WIDTH)),
                ("height", &Number(height)),
                ("role", &"img"),
                ("aria-labelledby", &"title description"),
            ],
            |svg| {
                svg.with_text("title", &[("id", &"title")], &self.title());
                svg.with_text("desc", &[("id", &"description")], &self.description());
                svg.with_text("style", &[], &style::sheet());
                svg.empty(
                    "rect",
                    &[
                        ("class", &"ground"),
                        ("x", &"0.5"),
                        ("y", &"0.5"),
                        ("width", &Number(WIDTH - 1.0)),
                        ("height", &Number(height - 1.0)),
                        ("rx", &"10"),
                    ],
                );
                text(svg, "title ink", 24.0, 36.0, &self.title());
                text(svg, "small muted", 24.0, 56.0, &self.subtitle());
                self.background(svg, &[&requests, &replicas, &money]);
                self.request_lane(svg, &requests);
                self.replica_lane(svg, &replicas);
                self.training_lane(svg, training_top, &training);
                self.money_lane(svg, &money);
                self.time_axis(svg, money.chart_bottom());
                self.results(svg, &requests, &replicas, &money);
            },
        );
        svg.into_text()
    }

    fn title(&self) -> String {
        "One run of cargo demo: queue depth and money decide together".to_owned()
    }

    fn subtitle(&self) -> String {
        let Series {
            requests,
            speedup,
            max_replicas,
            ..
        } = self.series;
        format!(
            "{} requests of the Azure conversation trace, {speedup} times as fast as recorded. One chat service of up to {max_replicas} \
             replicas, one training job, one budget.",
            grouped(u64::from(*requests))
        )
    }

    /// A description in words, for readers who do not see the picture.
    fn description(&self) -> String {
        let mut sentences = vec![format!(
            "A timeline of {} minutes with three lanes: requests and queue depth, ready replicas of the service, and money spent under the \
             budget's limit.",
            clock(self.series.end)
        )];
        for (t, event) in &self.series.events {
            let what = match event {
                Event::Idle {} => "the service is idle and goes to zero replicas".to_owned(),
                Event::Woken { milliseconds } => {
                    format!("a request wakes the service within {milliseconds} ms")
                }
                Event::Refused { status, code } => {
                    format!("a request is refused with {status} {code}")
                }
                Event::Limit { limit } => format!("the budget's limit becomes {limit:.2}"),
                Event::Exhausted {} => "the budget is exhausted".to_owned(),
                Event::Suspended { step } => format!("training is suspended at step {step}"),
                Event::Resumed { step } => format!("training resumes at step {step}"),
                Event::Run { .. } | Event::Phase { .. } | Event::Sample(_) | Event::Result(_) => {
                    continue;
                }
            };
            sentences.push(format!("At {} {what}.", clock(*t)));
        }
        sentences.extend(
            self.saving()
                .map(|(figure, words)| format!("{figure}: {words}.")),
        );
        sentences.join(" ")
    }

    /// Marks of the events that `label` names, with a rank and texts for each.
    fn marks(&self, label: impl Fn(&Event) -> Option<(u32, Vec<String>)>) -> Vec<Mark> {
        self.series
            .events
            .iter()
            .filter_map(|(t, event)| {
                let (rank, texts) = label(event)?;
                Some(Mark {
                    x: self.time.at(*t),
                    texts,
                    rank,
                })
            })
            .collect()
    }

    fn replica_marks(&self) -> Vec<Mark> {
        let mut is_first_idle = true;
        let mut is_first_wake_up = true;
        let events = self.series.events.iter();
        events
            .filter_map(|(t, event)| {
                let (rank, texts) = match event {
                    Event::Idle {} if std::mem::take(&mut is_first_idle) => {
                        (0, vec!["idle: at 0".to_owned(), "at 0".to_owned()])
                    }
                    Event::Woken { milliseconds } => {
                        let first = std::mem::take(&mut is_first_wake_up);
                        let short = format!("{milliseconds} ms");
                        let long = format!("woken after {milliseconds} ms");
                        if first {
                            (1, vec![long, short])
                        } else {
                            (2, vec![short])
                        }
                    }
                    _ => return None,
                };
                Some(Mark {
                    x: self.time.at(*t),
                    texts,
                    rank,
                })
            })
            .collect()
    }

    fn training_marks(&self) -> Vec<Mark> {
        self.marks(|event| match event {
            Event::Suspended { step } => Some((
                0,
                vec![
                    format!("suspended at step {}", grouped(*step)),
                    "suspended".to_owned(),
                ],
            )),
            Event::Resumed { .. } => Some((0, vec!["resumed".to_owned()])),
            _ => None,
        })
    }

    fn money_marks(&self) -> Vec<Mark> {
        let mut limit = self.series.states.iter().find_map(|(_, state)| state.limit);
        let events = self.series.events.iter();
        events
            .filter_map(|(t, event)| {
                let texts = match event {
                    Event::Limit { limit: new } => {
                        let verb = match limit.replace(*new) {
                            Some(old) if old > *new => "lowered to",
                            _ => "raised to",
                        };
                        vec![format!("limit {verb} {new:.2}"), format!("{new:.2}")]
                    }
                    Event::Exhausted {} => vec!["exhausted".to_owned()],
                    _ => return None,
                };
                Some(Mark {
                    x: self.time.at(*t),
                    texts,
                    rank: 0,
                })
            })
            .collect()
    }

    /// Phases, the time in which the budget was exhausted, and vertical grid lines.
    fn background(&self, svg: &mut Svg, lanes: &[&Lane<'_>; 3]) {
        let charts = lanes.map(|lane| (lane.chart_top(), lane.chart_bottom()));
        for (begin, end) in &self.series.exhausted {
            let across = (self.time.at(*begin), self.time.at(*end));
            for chart in charts {
                rect(svg, "exhausted", across, chart);
            }
        }
        for t in time_ticks(self.series.end, 10) {
            let x = self.time.at(t);
            for (top, bottom) in charts {
                line(svg, "grid", (x, top), (x, bottom));
            }
        }
        for (index, (begin, end, phase)) in self.series.phases.iter().enumerate() {
            let (left, right) = (self.time.at(*begin), self.time.at(*end));
            if index > 0 {
                for (top, bottom) in charts {
                    line(svg, "phase", (left, top), (left, bottom));
                }
            }
            svg.empty(
                "rect",
                &[
                    ("class", &"phase-band"),
                    ("x", &Number(left + 1.0)),
                    ("y", &Number(PHASES_TOP)),
                    ("width", &Number((right - left - 2.0).max(1.0))),
                    ("height", &Number(PHASES_HEIGHT)),
                    ("rx", &"4"),
                ],
            );
            let fits = |name: &&&str| text_width(name, SMALL) + 6.0 <= right - left;
            if let Some(name) = phase_names(*phase).iter().find(fits) {
                let (x, y) = ((left + right) / 2.0, PHASES_TOP + 15.0);
                text(svg, "small muted middle", x, y, name);
            }
        }
    }

    fn request_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
        let queue = self
            .series
            .values(|state| state.queue.map(|depth| depth as f64));
        let held = self.series.values(|state| Some(state.held as f64));
        let arrivals = self.series.arrivals(self.bar_seconds());
        let highest =
            maximum(&queue).max(arrivals.iter().map(|(_, rate)| *rate).fold(0.0, f64::max));
        let scale = lane_scale(lane, axis_end(highest.max(4.0), 4, true));
        self.header(
            svg,
            lane,
            &[
                (Swatch::Area("arrivals"), "arriving per second"),
                (Swatch::Line("queue"), "queue: waiting, running, held"),
                (Swatch::Area("held"), "held until a replica is ready"),
            ],
        );
        self.value_axis(svg, &scale, true);
        let width = self.bar_seconds();
        for (begin, rate) in arrivals.iter().filter(|(_, rate)| *rate > 0.0) {
            let (left, right) = (self.time.at(*begin), self.time.at(begin + width));
            rect(
                svg,
                "arrivals",
                (left + 0.5, right - 0.5),
                (scale.at(*rate), scale.at(0.0)),
            );
        }
        self.area(svg, "queue-area", &scale, &queue);
        self.area(svg, "held", &scale, &held);
        self.curve(svg, "queue", &scale, &queue);
        self.base(svg, lane);
        self.leaders(svg, lane, "alarm");
        for mark in &lane.marks {
            circle(svg, "alarm", mark.x, lane.chart_bottom(), 3.5);
        }
    }

    fn replica_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
        let most = f64::from(self.series.max_replicas);
        let ready = self.series.values(|state| Some(state.ready as f64));
        let highest = most.max(maximum(&ready));
        let scale = lane_scale(lane, (highest * 1.1).max(1.0));
        let always_on = format!("always on: {}", self.series.max_replicas);
        self.header(
            svg,
            lane,
            &[
                (Swatch::Area("ready-area"), "ready"),
                (Swatch::Line("always-on"), &always_on),
            ],
        );
        self.value_axis(svg, &scale, true);
        let steps = stepped(&ready, self.series.end);
        self.area(svg, "ready-area", &scale, &steps);
        self.curve(svg, "ready", &scale, &steps);
        let y = scale.at(most);
        line(svg, "always-on", (LEFT, y), (RIGHT, y));
        self.base(svg, lane);
        self.leaders(svg, lane, "ink");
        let bottom = lane.chart_bottom();
        for (t, event) in &self.series.events {
            let x = self.time.at(*t);
            match event {
                // a wake-up that follows at once would cover it
                Event::Idle {} if !self.is_woken_within(*t, x + 9.0) => {
                    svg.empty(
                        "circle",
                        &[
                            ("class", &"hollow"),
                            ("cx", &Number(x)),
                            ("cy", &Number(bottom)),
                            ("r", &"3"),
                        ],
                    );
                }
                Event::Woken { .. } => {
                    let mut path = Path::default();
                    path.move_to(x - 4.0, bottom + 3.0);
                    path.line_to(x, bottom - 5.0);
                    path.line_to(x + 4.0, bottom + 3.0);
                    path.close();
                    svg.empty("path", &[("class", &"good"), ("d", &path)]);
                }
                _ => {}
            }
        }
    }

    /// Whether the service is woken after `t` and before this position.
    fn is_woken_within(&self, t: f64, x: f64) -> bool {
        self.series.events.iter().any(|(woken, event)| {
            matches!(event, Event::Woken { .. }) && *woken >= t && self.time.at(*woken) < x
        })
    }

    /// When the training job ran, below the replicas.
    fn training_lane(&self, svg: &mut Svg, top: f64, labels: &[Label]) {
        text(svg, "small muted end", LEFT - 8.0, top + 9.5, "training");
        line(svg, "grid", (LEFT, top + 6.0), (RIGHT, top + 6.0));
        for (begin, end) in self.series.training() {
            svg.empty(
                "rect",
                &[
                    ("class", &"training"),
                    ("x", &Number(self.time.at(begin))),
                    ("y", &Number(top)),
                    ("width", &Number(self.time.at(end) - self.time.at(begin))),
                    ("height", &"12"),
                    ("rx", &"3"),
                ],
            );
        }
        let marks = self.training_marks();
        for label in labels {
            let y = top + 12.0 + ROW * (label.row + 1) as f64;
            let x = marks[label.mark].x;
            line(svg, "leader", (x, top), (x, y - 10.0));
            text(svg, "small ink", label.left, y, &label.text);
        }
    }

    fn money_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
        let spent = self.series.values(|state| Some(state.spent));
        let with_reserve = self
            .series
            .values(|state| Some(state.spent + state.reserve));
        let limit = self.series.values(|state| state.limit);
        let highest = maximum(&with_reserve);
        // a limit far above all that is spent would make the rest flat
        let near = |limit: &f64| *limit <= highest * 1.35;
        let highest = limit
            .iter()
            .filter_map(|(_, limit)| *limit)
            .filter(near)
            .fold(highest, f64::max);
        let scale = lane_scale(lane, axis_end(highest.max(0.01), 4, false));
        let spent_label = match &self.series.outcome {
            Some(outcome) => format!("spent, {}", outcome.currency),
            None => "spent".to_owned(),
        };
        self.header(
            svg,
            lane,
            &[
                (Swatch::Line("spent"), &spent_label),
                (
                    Swatch::Area("reserve"),
                    "reserve: what stopping everything costs",
                ),
                (Swatch::Line("limit"), "limit"),
            ],
        );
        self.value_axis(svg, &scale, false);
        self.area(svg, "spent-area", &scale, &spent);
        self.band(svg, "reserve", &scale, &spent, &with_reserve);
        self.curve(svg, "spent", &scale, &spent);
        self.limits(svg, lane, &scale, &limit);
        self.base(svg, lane);
        self.leaders(svg, lane, "alarm");
    }

    /// The limit where the axis reaches it; a dotted line at the top and its value where it is
    /// higher.
    fn limits(&self, svg: &mut Svg, lane: &Lane<'_>, scale: &Scale, limit: &[(f64, Option<f64>)]) {
        for (begin, end, value) in constant_spans(limit, self.series.end) {
            let (left, right) = (self.time.at(begin), self.time.at(end));
            if value <= scale.high() {
                let y = scale.at(value);
                line(svg, "limit", (left, y), (right, y));
                continue;
            }
            let top = lane.chart_top();
            line(svg, "limit above", (left, top), (right, top));
            // a mark at the beginning names the value already
            let is_named = |label: &Label| (lane.marks[label.mark].x - left).abs() < 4.0;
            if lane.labels.iter().any(is_named) {
                continue;
            }
            let words = [
                format!("↑ limit {value:.2}, above this axis"),
                format!("↑ limit {value:.2}"),
                format!("↑ {value:.2}"),
            ];
            let fits = |words: &&String| text_width(words, SMALL) + 10.0 <= right - left;
            if let Some(words) = words.iter().find(fits) {
                text(svg, "small alarm", left + 5.0, top + 14.0, words);
            }
        }
    }

    fn time_axis(&self, svg: &mut Svg, bottom: f64) {
        for t in time_ticks(self.series.end, 10) {
            text(
                svg,
                "small muted middle",
                self.time.at(t),
                bottom + 17.0,
                &clock(t),
            );
        }
        text(
            svg,
            "small muted middle",
            (LEFT + RIGHT) / 2.0,
            bottom + 36.0,
            "minutes and seconds since the service was applied",
        );
    }

    /// The totals of the run, each figure next to its lane.
    fn results(&self, svg: &mut Svg, requests: &Lane<'_>, replicas: &Lane<'_>, money: &Lane<'_>) {
        if let Some(outcome) = &self.series.outcome {
            let class = if outcome.lost == 0 { "good" } else { "alarm" };
            let words = if outcome.served == outcome.sent {
                format!("{} requests, all answered with 200", grouped(outcome.sent))
            } else {
                format!(
                    "{} requests, {} answered with 200, {} with 5xx",
                    grouped(outcome.sent),
                    grouped(outcome.served),
                    grouped(outcome.server_errors)
                )
            };
            result(
                svg,
                requests,
                class,
                &format!("{} lost", grouped(outcome.lost)),
                &words,
            );
        }
        let wake_ups = self.series.wake_ups();
        if let Some(median) = median(&wake_ups) {
            let words = format!(
                "wake-up: from the first held request to the scale-up, median of {}",
                wake_ups.len()
            );
            result(svg, replicas, "good", &format!("{median} ms"), &words);
        }
        if let Some((figure, words)) = self.saving() {
            let class = if figure.starts_with('+') {
                "ink"
            } else {
                "good"
            };
            result(svg, money, class, &figure, &words);
        }
    }

    /// The service's saving against replicas that are always on: figure and words.
    fn saving(&self) -> Option<(String, String)> {
        let outcome = self.series.outcome.as_ref()?;
        if outcome.always_on_cost <= 0.0 {
            return None;
        }
        let percent = (1.0 - outcome.service_cost / outcome.always_on_cost) * 100.0;
        let sign = if percent >= 0.0 { '−' } else { '+' };
        let currency = &outcome.currency;
        Some((
            format!("{sign}{:.0} %", percent.abs()),
            format!(
                "the service cost {:.2} {currency} instead of {:.2} {currency} for {} replicas always on",
                outcome.service_cost, outcome.always_on_cost, self.series.max_replicas
            ),
        ))
    }

    fn header(&self, svg: &mut Svg, lane: &Lane<'_>, legend: &[(Swatch, &str)]) {
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

    fn value_axis(&self, svg: &mut Svg, scale: &Scale, whole: bool) {
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

    fn base(&self, svg: &mut Svg, lane: &Lane<'_>) {
        let bottom = lane.chart_bottom();
        line(svg, "base", (LEFT, bottom), (RIGHT, bottom));
    }

    /// Labels of a lane's marks, and lines from them to the chart's bottom.
    fn leaders(&self, svg: &mut Svg, lane: &Lane<'_>, class: &str) {
        for label in &lane.labels {
            let x = lane.marks[label.mark].x;
            let y = lane.chart_top() - 6.0 - ROW * label.row as f64;
            line(svg, "leader", (x, y + 3.0), (x, lane.chart_bottom()));
            text(svg, &format!("small {class}"), label.left, y, &label.text);
        }
    }

    fn curve(&self, svg: &mut Svg, class: &str, scale: &Scale, values: &[(f64, Option<f64>)]) {
        let mut path = Path::default();
        for run in self.runs(scale, values) {
            for (index, (x, y)) in run.iter().enumerate() {
                if index == 0 {
                    path.move_to(*x, *y);
                } else {
                    path.line_to(*x, *y);
                }
            }
        }
        if !path.is_empty() {
            svg.empty("path", &[("class", &class), ("d", &path)]);
        }
    }

    fn area(&self, svg: &mut Svg, class: &str, scale: &Scale, values: &[(f64, Option<f64>)]) {
        let zero: Vec<(f64, Option<f64>)> = values
            .iter()
            .map(|(t, value)| (*t, value.map(|_| 0.0)))
            .collect();
        self.band(svg, class, scale, &zero, values);
    }

    /// The area between two series of the same times.
    fn band(
        &self,
        svg: &mut Svg,
        class: &str,
        scale: &Scale,
        low: &[(f64, Option<f64>)],
        high: &[(f64, Option<f64>)],
    ) {
        let mut path = Path::default();
        let runs = self
            .runs(scale, low)
            .into_iter()
            .zip(self.runs(scale, high));
        for (low, high) in
            runs.filter(|(low, high)| low.iter().chain(high).any(|(_, y)| *y != low[0].1))
        {
            for (index, (x, y)) in high.iter().chain(low.iter().rev()).enumerate() {
                if index == 0 {
                    path.move_to(*x, *y);
                } else {
                    path.line_to(*x, *y);
                }
            }
            path.close();
        }
        if !path.is_empty() {
            svg.empty("path", &[("class", &class), ("d", &path)]);
        }
    }

    /// Points of a series, in one list for each stretch without a gap. Where several share a
    /// position, the highest and the last remain.
    fn runs(&self, scale: &Scale, values: &[(f64, Option<f64>)]) -> Vec<Vec<(f64, f64)>> {
        let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        for (t, value) in values {
            match value {
                Some(value) => {
                    let point = (self.time.at(*t), scale.at(*value));
                    if let Some(run) = runs.last_mut() {
                        run.push(point);
                    }
                }
                None => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| run.len() > 1);
        runs.iter().map(|run| straightened(run)).collect()
    }

    /// Seconds of an arrival's bar: as few as give it the least width.
    fn bar_seconds(&self) -> f64 {
        const STEPS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0];
        let least = self.series.end * LEAST_BAR / (RIGHT - LEFT);
        STEPS
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or(least)
    }
}

fn lane_scale(lane: &Lane<'_>, high: f64) -> Scale {
    Scale::new((0.0, high), (lane.chart_bottom(), lane.chart_top()))
}

fn phase_names(phase: Phase) -> &'static [&'static str] {
    match phase {
        Phase::Traffic => &["replayed traffic", "traffic"],
        Phase::Idle => &["idle"],
        Phase::WakeUps => &["wake-ups from zero", "wake-ups"],
        Phase::Exhaustion => &["the budget runs out", "budget runs out", "budget"],
        Phase::MoreMoney => &["money added", "money"],
    }
}

/// A figure and words next to a lane.
fn result(svg: &mut Svg, lane: &Lane<'_>, class: &str, figure: &str, words: &str) {
    let lines = wrapped(words, RESULT_WIDTH);
    let height = 26.0 + 15.0 * lines.len() as f64;
    let middle = (lane.chart_top() + lane.chart_bottom()) / 2.0;
    let mut y = middle - height / 2.0 + 22.0;
    text(svg, &format!("figure {class}"), RESULT_LEFT, y, figure);
    y += 5.0;
    for words in lines {
        y += 15.0;
        text(svg, "small muted", RESULT_LEFT, y, &words);
    }
}

/// Lines of a text no wider than `width`.
fn wrapped(words: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split(' ') {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), SMALL) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Median of sorted numbers.
fn median(sorted: &[u64]) -> Option<u64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2)
}

fn maximum(values: &[(f64, Option<f64>)]) -> f64 {
    values
        .iter()
        .filter_map(|(_, value)| *value)
        .fold(0.0, f64::max)
}

/// A value that holds until the next one.
fn stepped(values: &[(f64, Option<f64>)], end: f64) -> Vec<(f64, Option<f64>)> {
    let mut steps: Vec<(f64, Option<f64>)> = Vec::new();
    for (t, value) in values {
        if let Some((_, before)) = steps.last().copied() {
            if before == *value {
                continue;
            }
            steps.push((*t, before));
        }
        steps.push((*t, *value));
    }
    if let Some((_, last)) = steps.last().copied() {
        steps.push((end, last));
    }
    steps
}

/// From when until when a series has the same known value.
fn constant_spans(values: &[(f64, Option<f64>)], end: f64) -> Vec<(f64, f64, f64)> {
    let mut spans: Vec<(f64, f64, f64)> = Vec::new();
    let mut before = None;
    for (t, value) in values {
        if *value != before {
            if before.is_some()
                && let Some(last) = spans.last_mut()
            {
                last.1 = *t;
            }
            spans.extend(value.map(|value| (*t, end, value)));
            before = *value;
        }
    }
    spans
}

/// A line without the points that lie on the straight between their neighbours.
fn straightened(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for (index, point) in points.iter().enumerate() {
        if let (Some(before), Some(after)) = (kept.last(), points.get(index + 1)) {
            let (dx, dy) = (after.0 - before.0, after.1 - before.1);
            let height = (point.0 - before.0) * dy - (point.1 - before.1) * dx;
            let between = (before.0..=after.0).contains(&point.0)
                && point.1 >= before.1.min(after.1)
                && point.1 <= before.1.max(after.1);
            // less than a tenth of a pixel
            if between && height.abs() <= 0.1 * dx.abs().max(dy.abs()) {
                continue;
            }
        }
        kept.push(*point);
    }
    kept
}

fn text(svg: &mut Svg, class: &str, x: f64, y: f64, words: &str) {
    svg.with_text(
        "text",
        &[("class", &class), ("x", &Number(x)), ("y", &Number(y))],
        words,
    );
}

fn line(svg: &mut Svg, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ends: [&dyn Display; 4] = [
        &Number(from.0),
        &Number(from.1),
        &Number(to.0),
        &Number(to.1),
    ];
    svg.empty(
        "line",
        &[
            ("class", &class),
            ("x1", ends[0]),
            ("y1", ends[1]),
            ("x2", ends[2]),
            ("y2", ends[3]),
        ],
    );
}

fn rect(svg: &mut Svg, class: &str, across: (f64, f64), down: (f64, f64)) {
    svg.empty(
        "rect",
        &[
            ("class", &class),
            ("x", &Number(across.0)),
            ("y", &Number(down.0)),
            ("width", &Number((across.1 - across.0).max(0.0))),
            ("height", &Number((down.1 - down.0).max(0.0))),
        ],
    );
}

fn circle(svg: &mut Svg, class: &str, x: f64, y: f64, radius: f64) {
    svg.empty(
        "circle",
        &[
            ("class", &class),
            ("cx", &Number(x)),
            ("cy", &Number(y)),
            ("r", &Number(radius)),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::super::journal::{Outcome, State};
    use super::*;

    const RECORDED: &str = include_str!("../../../data/demo-run.jsonl");
    const KEPT: &str = include_str!("../../../../docs/demo.svg");

    #[test]
    fn the_recorded_run_is_drawn_as_it_is_kept() {
        let drawn = draw(&Journal::parse(RECORDED).unwrap());
        assert!(
            drawn == KEPT,
            "docs/demo.svg is not what the recorded run looks like; look at it after \
             `cargo demo --draw e2e/data/demo-run.jsonl --svg docs/demo.svg`"
        );
        // what the README's reader sees above the fold
        for words in [
            "0 lost",
            "429 insufficient_quota",
            "woken after",
            "idle: at 0",
            "suspended at step",
            "resumed",
            "exhausted",
            "replicas always on",
        ] {
            assert!(drawn.contains(words), "{words}");
        }
        assert!(RECORDED.len() < 200_000 && drawn.len() < 100_000);
    }

    /// Draws, and checks what holds for every drawing.
    fn checked(journal: &Journal) -> String {
        let drawn = draw(journal);
        assert!(
            !drawn.contains("NaN") && !drawn.contains("inf\""),
            "{drawn}"
        );
        let (mut open, mut depth) = (0, 0);
        for line in drawn.lines().map(str::trim) {
            open += usize::from(line.starts_with('<') && !line.starts_with("</"));
            if line.starts_with("</") {
                depth -= 1;
            } else if line.starts_with('<') && !line.ends_with("/>") && !line.contains("</") {
                depth += 1;
            }
        }
        assert!(open > 0);
        // the style sheet begins on one line and ends on another
        assert_eq!(depth, 0, "{drawn}");
        drawn
    }

    fn state(spent: f64, limit: Option<f64>) -> Event {
        Event::Sample(State {
            spent,
            limit,
            ..State::default()
        })
    }

    #[test]
    fn runs_without_some_or_all_events_are_drawn() {
        let mut journal = Journal::new(40, 4, 1);
        checked(&journal);
        journal.push(0.5, state(0.0, None));
        journal.push(1.0, state(0.001, None));
        let drawn = checked(&journal);
        assert!(
            !drawn.contains("exhausted</text>") && !drawn.contains("class=\"figure"),
            "{drawn}"
        );
        journal.push(1.5, state(0.002, Some(9.0)));
        journal.push(3.0, state(0.003, Some(9.0)));
        let drawn = checked(&journal);
        assert!(drawn.contains("↑ limit 9.00, above this axis"), "{drawn}");
        assert!(!drawn.contains("429"));
    }

    #[test]
    fn a_run_that_costs_more_than_always_on_says_so() {
        let mut journal = Journal::new(40, 4, 1);
        journal.push(
            9.0,
            Event::Result(Outcome {
                currency: "EUR".into(),
                sent: 40,
                served: 39,
                lost: 1,
                server_errors: 0,
                service_cost: 1.1,
                always_on_cost: 1.0,
            }),
        );
        let drawn = checked(&journal);
        assert!(
            drawn.contains(">+10 %<") && drawn.contains(">1 lost<"),
            "{drawn}"
        );
    }

    #[test]
    fn a_long_run_with_many_wake_ups_stays_legible_and_small() {
        let mut journal = Journal::new(5000, 4, 4);
        for second in 0..3600_u32 {
            let t = f64::from(second);
            journal.push(t, state(t / 1e3, Some(4.0)));
            if second % 70 == 60 {
                journal.push(t, Event::Woken { milliseconds: 20 });
                journal.push(t + 5.0, Event::Idle {});
            }
        }
        journal.push(
            3600.0,
            Event::Refused {
                status: 429,
                code: "<&>".into(),
            },
        );
        let drawn = checked(&journal);
        assert!(drawn.contains("429 &lt;&amp;&gt;"), "{drawn}");
        assert!(drawn.len() < 100_000, "{}", drawn.len());
        assert!(drawn.contains(">60:00<"), "{drawn}");
    }
}
