//! The lane of money: what is spent, the reserve, and the budget's limit.

use super::super::journal::Event;
use super::{
    Drawing, SMALL,
    curve::{constant_spans, maximum},
    labels::{Label, Mark, text_width},
    lane::{Lane, Swatch, lane_scale},
    scale::{Scale, axis_end},
    shapes::{line, text},
    svg::Svg,
};

impl Drawing<'_> {
    pub(super) fn money_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
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

    pub(super) fn money_marks(&self) -> Vec<Mark> {
        let mut limit = self.series.states.iter().find_map(|(_, state)| state.limit);
        self.marks(|_, event| {
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
            Some((0, texts))
        })
    }

    /// The limit where the axis reaches it; a dotted line at the top and its value where it is
    /// higher.
    pub(super) fn limits(
        &self,
        svg: &mut Svg,
        lane: &Lane<'_>,
        scale: &Scale,
        limit: &[(f64, Option<f64>)],
    ) {
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
}
