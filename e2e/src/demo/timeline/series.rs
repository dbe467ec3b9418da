//! The data of the timeline, taken from a journal.

use super::super::journal::{Event, Journal, Outcome, Phase, State};

/// Of one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    /// Requests of the trace.
    pub(super) requests: u32,
    /// How much faster than the trace they came.
    pub(super) speedup: u32,
    /// The most replicas of the service.
    pub(super) max_replicas: u32,
    /// Seconds from the beginning to the end.
    pub(super) end: f64,
    /// The cluster's state, by time.
    pub(super) states: Vec<(f64, State)>,
    /// All that happened, by time, without states.
    pub(super) events: Vec<(f64, Event)>,
    /// Beginning, end and name of each phase.
    pub(super) phases: Vec<(f64, f64, Phase)>,
    /// From when until when the budget was exhausted.
    pub(super) exhausted: Vec<(f64, f64)>,
    /// The totals, if the run came to its end.
    pub(super) outcome: Option<Outcome>,
}

impl Series {
    /// Takes a journal apart.
    pub(super) fn new(journal: &Journal) -> Self {
        let mut series = Self {
            end: journal.entries().last().map_or(0.0, |last| last.t),
            ..Self::default()
        };
        let mut phases = Vec::new();
        for entry in journal.entries() {
            match &entry.event {
                Event::Run {
                    requests,
                    speedup,
                    max_replicas,
                    ..
                } => {
                    series.requests = *requests;
                    series.speedup = *speedup;
                    series.max_replicas = *max_replicas;
                }
                Event::Sample(state) => series.states.push((entry.t, state.clone())),
                Event::Phase { name } => phases.push((entry.t, *name)),
                Event::Result(outcome) => series.outcome = Some(outcome.clone()),
                other => series.events.push((entry.t, other.clone())),
            }
        }
        let ends = phases
            .iter()
            .skip(1)
            .map(|(t, _)| *t)
            .chain(std::iter::once(series.end));
        series.phases = phases
            .iter()
            .zip(ends)
            .map(|((begin, name), end)| (*begin, end, *name))
            .collect();
        series.exhausted = exhausted(&series.events, series.end);
        series
    }

    /// One value of the states, by time. A value that is not known is a gap.
    pub(super) fn values(&self, value: impl Fn(&State) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        self.states
            .iter()
            .map(|(t, state)| (*t, value(state)))
            .collect()
    }

    /// Requests that came per second, in intervals of `width` seconds: each interval's beginning
    /// and rate.
    pub(super) fn arrivals(&self, width: f64) -> Vec<(f64, f64)> {
        let mut counts = vec![0.0; (self.end / width).ceil() as usize];
        let mut before = (0.0, 0);
        for (t, state) in &self.states {
            // they came at some time between two samples, and are spread over it
            let (begin, sent) = before;
            let new = state.sent.saturating_sub(sent) as f64;
            for (index, count) in counts.iter_mut().enumerate() {
                let low = (index as f64 * width).max(begin);
                let high = ((index + 1) as f64 * width).min(*t);
                if high > low {
                    *count += new * (high - low) / (t - begin);
                }
            }
            before = (*t, state.sent);
        }
        (0..)
            .zip(counts)
            .map(|(index, count): (u32, f64)| (f64::from(index) * width, count / width))
            .collect()
    }

    /// From when until when all workers of the training job were ready.
    pub(super) fn training(&self) -> Vec<(f64, f64)> {
        let most = self
            .states
            .iter()
            .map(|(_, state)| state.workers)
            .max()
            .unwrap_or_default();
        let mut spans: Vec<(f64, f64)> = Vec::new();
        let mut since = None;
        for (t, state) in &self.states {
            if state.workers == most && most > 0 {
                since = since.or(Some(*t));
            } else if let Some(begin) = since.take() {
                spans.push((begin, *t));
            }
        }
        spans.extend(since.map(|begin| (begin, self.end)));
        spans
    }

    /// The step at which training stopped when it was suspended at `t`, after `step` steps were
    /// seen: workers end their step during the grace period, so the step with which they go on is
    /// exact.
    pub(super) fn suspension_step(&self, t: f64, step: u64) -> u64 {
        let later = self.events.iter().filter(|(later, _)| *later > t);
        let mut resumed = later.filter_map(|(_, event)| match event {
            Event::Resumed { step } => Some(*step),
            _ => None,
        });
        resumed.next().unwrap_or(step)
    }

    /// Milliseconds of the wake-ups, in ascending order.
    pub(super) fn wake_ups(&self) -> Vec<u64> {
        let milliseconds = |(_, event): &(f64, Event)| match event {
            Event::Woken { milliseconds } => Some(*milliseconds),
            _ => None,
        };
        let mut sorted: Vec<u64> = self.events.iter().filter_map(milliseconds).collect();
        sorted.sort_unstable();
        sorted
    }
}

/// An exhausted budget has money again when its limit changes.
fn exhausted(events: &[(f64, Event)], end: f64) -> Vec<(f64, f64)> {
    let mut spans = Vec::new();
    let mut since = None;
    for (t, event) in events {
        match event {
            Event::Exhausted {} => since = since.or(Some(*t)),
            Event::Limit { .. } => spans.extend(since.take().map(|begin| (begin, *t))),
            _ => {}
        }
    }
    spans.extend(since.map(|begin| (begin, end)));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sent: u64, workers: u64) -> Event {
        Event::Sample(State {
            sent,
            workers,
            ..State::default()
        })
    }

    #[test]
    fn arrivals_are_spread_over_the_time_between_samples_and_none_is_lost() {
        let mut journal = Journal::new(10, 1, 4);
        journal.push(1.0, state(4, 0));
        journal.push(3.0, state(10, 0));
        let series = Series::new(&journal);
        assert_eq!(series.arrivals(1.0), [(0.0, 4.0), (1.0, 3.0), (2.0, 3.0)]);
        let sum: f64 = series
            .arrivals(2.0)
            .iter()
            .map(|(_, rate)| rate * 2.0)
            .sum();
        assert!((sum - 10.0).abs() < 1e-9);
    }

    #[test]
    fn training_runs_while_all_workers_are_ready() {
        let mut journal = Journal::new(10, 1, 4);
        for (t, workers) in [
            (0.0, 0),
            (1.0, 1),
            (2.0, 2),
            (5.0, 1),
            (6.0, 0),
            (8.0, 2),
            (9.0, 2),
        ] {
            // no two states are the same: a repetition is left out
            journal.push(t, state(t as u64, workers));
        }
        journal.push(10.0, Event::Idle {});
        assert_eq!(Series::new(&journal).training(), [(2.0, 5.0), (8.0, 10.0)]);
    }

    #[test]
    fn training_stops_at_the_step_with_which_it_goes_on() {
        let mut journal = Journal::new(10, 1, 4);
        journal.push(1.0, Event::Suspended { step: 5 });
        journal.push(2.0, Event::Resumed { step: 7 });
        journal.push(3.0, Event::Suspended { step: 9 });
        let series = Series::new(&journal);
        assert_eq!(series.suspension_step(1.0, 5), 7);
        assert_eq!(series.suspension_step(3.0, 9), 9);
    }

    #[test]
    fn a_budget_is_exhausted_until_its_limit_changes_or_the_run_ends() {
        let mut journal = Journal::new(10, 1, 4);
        journal.push(1.0, Event::Limit { limit: 1.0 });
        journal.push(2.0, Event::Exhausted {});
        journal.push(4.0, Event::Limit { limit: 2.0 });
        journal.push(6.0, Event::Exhausted {});
        journal.push(7.0, Event::Idle {});
        assert_eq!(Series::new(&journal).exhausted, [(2.0, 4.0), (6.0, 7.0)]);
    }
}
