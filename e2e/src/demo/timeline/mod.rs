//! Draws a run as one timeline of three lanes: requests, replicas and money. The same journal gives
//! the same bytes.
//!
//! | module | subject |
//! |---|---|
//! | `series` | what is shown, taken from the journal |
//! | `requests`, `replicas`, `money` | the lanes, and `lane`, what they share |
//! | `results` | the totals next to the lanes |
//! | `curve`, `shapes` | curves over time, and texts and lines |
//! | `scale` | axes and ticks |
//! | `labels` | where the labels of marks have room |
//! | `style` | colours and type |
//! | `svg` | writes elements and numbers |

mod curve;
mod labels;
mod lane;
mod money;
mod replicas;
mod requests;
mod results;
mod scale;
mod series;
mod shapes;
mod style;
mod svg;

use super::journal::{Event, Journal, Phase};
use labels::{Mark, text_width};
use lane::{Lane, label_rows};
use scale::{Scale, clock, grouped, time_ticks};
use series::Series;
use shapes::{line, rect, text};
use svg::{Number, Svg};

const WIDTH: f64 = 920.0;
/// The axis of time.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 712.0;
const PHASES_TOP: f64 = 76.0;
const PHASES_HEIGHT: f64 = 22.0;
const ROW: f64 = 15.0;
const LANE_GAP: f64 = 30.0;
const SMALL: f64 = 11.0;

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

impl Drawing<'_> {
    fn document(&self) -> String {
        let requests = Lane::new(
            "Requests",
            PHASES_TOP + PHASES_HEIGHT + 14.0,
            96.0,
            self.marks(|_, event| match event {
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
                Event::Suspended { step } => {
                    let step = self.series.suspension_step(*t, *step);
                    format!("training is suspended at step {step}")
                }
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

    /// Marks of the events that `label` names, given each with its time, with a rank and texts.
    fn marks(&self, mut label: impl FnMut(f64, &Event) -> Option<(u32, Vec<String>)>) -> Vec<Mark> {
        self.series
            .events
            .iter()
            .filter_map(|(t, event)| {
                let (rank, texts) = label(*t, event)?;
                Some(Mark {
                    x: self.time.at(*t),
                    texts,
                    rank,
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
