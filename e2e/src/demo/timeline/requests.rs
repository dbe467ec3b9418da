//! The lane of requests: arrivals, queue depth, and refusals.

use super::{
    Drawing, LEFT, RIGHT,
    curve::maximum,
    lane::{Lane, Swatch, lane_scale},
    scale::axis_end,
    shapes::{circle, rect},
    svg::Svg,
};

/// An arrival's bar is no narrower, in pixels.
pub(super) const LEAST_BAR: f64 = 4.0;

impl Drawing<'_> {
    pub(super) fn request_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
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

    /// Seconds of an arrival's bar: as few as give it the least width.
    pub(super) fn bar_seconds(&self) -> f64 {
        const STEPS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0];
        let least = self.series.end * LEAST_BAR / (RIGHT - LEFT);
        STEPS
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or(least)
    }
}
