//! The lane of replicas, with idle times and wake-ups, and the training job below it.

use super::super::journal::Event;
use super::{
    Drawing, LEFT, RIGHT, ROW,
    curve::{maximum, stepped},
    labels::{Label, Mark},
    lane::{Lane, Swatch, lane_scale},
    scale::grouped,
    shapes::{line, text},
    svg::{Number, Path, Svg},
};

impl Drawing<'_> {
    pub(super) fn replica_lane(&self, svg: &mut Svg, lane: &Lane<'_>) {
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

    pub(super) fn replica_marks(&self) -> Vec<Mark> {
        let mut is_first_idle = true;
        let mut is_first_wake_up = true;
        self.marks(|_, event| {
            Some(match event {
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
            })
        })
    }

    /// Whether the service is woken after `t` and before this position.
    pub(super) fn is_woken_within(&self, t: f64, x: f64) -> bool {
        self.series.events.iter().any(|(woken, event)| {
            matches!(event, Event::Woken { .. }) && *woken >= t && self.time.at(*woken) < x
        })
    }

    /// When the training job ran, below the replicas.
    pub(super) fn training_lane(&self, svg: &mut Svg, top: f64, labels: &[Label]) {
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

    pub(super) fn training_marks(&self) -> Vec<Mark> {
        self.marks(|t, event| {
            let texts = match event {
                Event::Suspended { step } => {
                    let step = grouped(self.series.suspension_step(t, *step));
                    vec![format!("suspended at step {step}"), "suspended".to_owned()]
                }
                Event::Resumed { .. } => vec!["resumed".to_owned()],
                _ => return None,
            };
            Some((0, texts))
        })
    }
}
