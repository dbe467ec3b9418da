//! The journal of a run: one JSON object a line, the first of which gives the size of the run. The
//! timeline is drawn from it.
//!
//! | `type` | when |
//! |---|---|
//! | `run` | first: the format's version and the size of the run |
//! | `phase` | a phase of the demo begins |
//! | `sample` | the cluster's state, twice a second |
//! | `idle`, `woken`, `refused`, `limit`, `exhausted`, `suspended`, `resumed` | that happens |
//! | `result` | last, in a run that came to its end |
//!
//! `t` is in seconds since the service was applied. Money is in the currency that `result` names. A
//! value that was not known is absent.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::While};

/// Of the format; a reader refuses others.
pub(super) const VERSION: u32 = 1;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Seconds since the service was applied.
    pub(super) t: f64,
    /// The observation or the event.
    #[serde(flatten)]
    pub(super) event: Event,
}

/// An observation of the cluster, or an event of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(super) enum Event {
    /// The run begins.
    Run {
        /// [`VERSION`] of the writer.
        version: u32,
        /// Requests of the trace.
        requests: u32,
        /// How much faster than the trace they come.
        speedup: u32,
        /// The most replicas of the service.
        max_replicas: u32,
    },
    /// A phase begins.
    Phase {
        /// Which.
        name: Phase,
    },
    /// The cluster's state.
    Sample(State),
    /// The service has no pods any more, because nothing was asked of it.
    Idle {},
    /// The leader scaled the service up from zero for a held request.
    Woken {
        /// From the first held request to the Deployment's patch.
        milliseconds: u64,
    },
    /// A request was answered with an error of the budget's.
    Refused {
        /// HTTP status.
        status: u16,
        /// OpenAI's code.
        code: String,
    },
    /// The budget's limit became another.
    Limit {
        /// The new one.
        limit: f64,
    },
    /// The budget is exhausted.
    Exhausted {},
    /// The training job is suspended; its workers stop.
    Suspended {
        /// Steps that every worker has done so far. Those that end during the grace period are in
        /// the next `Resumed`.
        step: u64,
    },
    /// The training job's workers run again.
    Resumed {
        /// The step with which they go on.
        step: u64,
    },
    /// The run has come to its end.
    Result(Outcome),
}

/// A phase of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Phase {
    /// The trace is replayed.
    Traffic,
    /// Nothing comes.
    Idle,
    /// Single requests come when the service is at zero.
    WakeUps,
    /// The budget's limit is lowered and reached.
    Exhaustion,
    /// The limit is raised.
    MoreMoney,
}

/// The cluster's state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    /// Requests sent so far.
    pub(super) sent: u64,
    /// Those that were answered with 200.
    pub(super) served: u64,
    /// Requests waiting, running and held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<u64>,
    /// Of those, held by gateways.
    pub(super) held: u64,
    /// Replicas of the service that the Deployment asks for, that the demand asks for, that the
    /// budget leaves, and that are ready.
    pub(super) replicas: u64,
    /// See `replicas`.
    pub(super) desired: u64,
    /// See `replicas`.
    pub(super) allowed: u64,
    /// See `replicas`.
    pub(super) ready: u64,
    /// Workers of the training job that are ready.
    pub(super) workers: u64,
    /// Money that is spent.
    pub(super) spent: f64,
    /// Money that stopping everything would cost.
    pub(super) reserve: f64,
    /// The budget's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<f64>,
}

/// The totals of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    /// ISO 4217 code.
    pub(super) currency: String,
    /// Requests.
    pub(super) sent: u64,
    /// Those that were answered with 200.
    pub(super) served: u64,
    /// Those without a whole answer.
    pub(super) lost: u64,
    /// Those that were answered with 5xx.
    pub(super) server_errors: u64,
    /// Money that the service cost.
    pub(super) service_cost: f64,
    /// Money that `max_replicas` would have cost from the beginning to the end.
    pub(super) always_on_cost: f64,
}

/// The journal of one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Journal {
    entries: Vec<Entry>,
    /// When the last state was seen again, if it was.
    seen_again: Option<f64>,
}

impl Journal {
    /// Of a run that begins.
    pub(super) fn new(requests: u32, speedup: u32, max_replicas: u32) -> Self {
        let mut journal = Self::default();
        journal.push(
            0.0,
            Event::Run {
                version: VERSION,
                requests,
                speedup,
                max_replicas,
            },
        );
        journal
    }

    /// Adds an event `t` seconds after the service was applied. Of a state that stays the same, the
    /// first and the last time are kept.
    pub(super) fn push(&mut self, t: f64, event: Event) {
        let t = rounded(t, 1e2);
        let event = rounded_money(event);
        let is_state = |entry: &&Entry| matches!(entry.event, Event::Sample(_));
        let last_state = self.entries.iter().rev().find(is_state).cloned();
        match (&event, last_state) {
            (Event::Sample(_), Some(last)) if last.event == event => {
                self.seen_again = Some(t);
                return;
            }
            (Event::Sample(_) | Event::Result(_), Some(last)) => {
                let seen_again = self.seen_again.take();
                self.entries.extend(seen_again.map(|t| Entry { t, ..last }));
            }
            _ => {}
        }
        self.entries.push(Entry { t, event });
    }

    /// All of it. Events and states are each in order of time.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One JSON object a line.
    pub(super) fn to_json_lines(&self) -> Result<String> {
        let mut text = String::new();
        for entry in &self.entries {
            text += &serde_json::to_string(entry).map_err(|error| malformed(&error))?;
            text.push('\n');
        }
        Ok(text)
    }

    /// Reads what [`Self::to_json_lines`] wrote.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let entry = serde_json::from_str(line)
                .map_err(|error| malformed(&format!("line {number}: {error}")))?;
            entries.push(entry);
        }
        match entries.first() {
            Some(Entry {
                event: Event::Run {
                    version: VERSION, ..
                },
                ..
            }) => Ok(Self {
                entries,
                seen_again: None,
            }),
            Some(Entry {
                event: Event::Run { version, .. },
                ..
            }) => Err(malformed(&format!(
                "is of version {version}, and this program reads version {VERSION}"
            ))),
            _ => Err(malformed(&"does not begin with a line of type `run`")),
        }
    }

    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).while_(|| format!("reading {}", path.display()))?;
        Self::parse(&text)
    }
}

fn malformed(why: &dyn std::fmt::Display) -> Error {
    Error::Malformed {
        what: "the run's journal".into(),
        why: why.to_string(),
    }
}

fn rounded_money(event: Event) -> Event {
    match event {
        Event::Sample(state) => Event::Sample(State {
            spent: rounded(state.spent, 1e4),
            reserve: rounded(state.reserve, 1e4),
            ..state
        }),
        Event::Result(outcome) => Event::Result(Outcome {
            service_cost: rounded(outcome.service_cost, 1e4),
            always_on_cost: rounded(outcome.always_on_cost, 1e4),
            ..outcome
        }),
        other => other,
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// The events between two observations.
pub(super) fn changes(before: &Observation, after: &Observation, steps: u64) -> Vec<Event> {
    let mut events = Vec::new();
    if before.limit.is_some() && after.limit != before.limit {
        events.extend(after.limit.map(|limit| Event::Limit { limit }));
    }
    if after.exhausted && !before.exhausted {
        events.push(Event::Exhausted {});
    }
    if after.pods == 0 && before.pods > 0 && !after.exhausted {
        events.push(Event::Idle {});
    }
    if after.suspended && !before.suspended {
        events.push(Event::Suspended { step: steps });
    }
    if before.suspended && !after.suspended {
        let (_, step) = after.attempt;
        events.push(Event::Resumed { step });
    }
    events
}

/// The part of a sample from which events are found.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Observation {
    /// The budget's limit, if it is known.
    pub(super) limit: Option<f64>,
    /// Whether the budget is exhausted.
    pub(super) exhausted: bool,
    /// Pods of the service.
    pub(super) pods: usize,
    /// Whether the training job was suspended and does not run again with all of its workers.
    pub(super) suspended: bool,
    /// Number and first step of the training job's latest attempt; while it is suspended, of the
    /// attempt that was stopped.
    pub(super) attempt: (u64, u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            currency: "USD".into(),
            sent: 1,
            served: 1,
            lost: 0,
            server_errors: 0,
            service_cost: 0.5,
            always_on_cost: 1.0,
        }
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let mut journal = Journal::new(40, 4, 4);
        journal.push(
            0.004,
            Event::Phase {
                name: Phase::Traffic,
            },
        );
        let state = State {
            queue: Some(3),
            spent: 0.123_44,
            limit: Some(9.0),
            ..State::default()
        };
        journal.push(1.0, Event::Sample(state.clone()));
        journal.push(1.5, Event::Woken { milliseconds: 21 });
        // nothing has changed since
        journal.push(2.0, Event::Sample(state.clone()));
        journal.push(2.5, Event::Sample(state.clone()));
        let busy = State { held: 1, ..state };
        journal.push(3.0, Event::Sample(busy.clone()));
        journal.push(3.5, Event::Idle {});
        journal.push(4.0, Event::Sample(busy));
        journal.push(4.5, Event::Result(outcome()));
        let text = journal.to_json_lines().unwrap();
        let times: Vec<f64> = journal.entries().iter().map(|entry| entry.t).collect();
        assert_eq!(times, [0.0, 0.0, 1.0, 1.5, 2.5, 3.0, 3.5, 4.0, 4.5]);
        assert!(text.contains(r#"{"t":1.5,"type":"woken","milliseconds":21}"#));
        assert!(text.contains(r#""spent":0.1234,"#));
        assert_eq!(Journal::parse(&text).unwrap(), journal);
    }

    #[test]
    fn a_journal_of_another_version_or_without_a_beginning_is_refused() {
        let refused = |text: &str| Journal::parse(text).unwrap_err().to_string();
        let later = r#"{"t":0,"type":"run","version":2,"requests":1,"speedup":1,"maxReplicas":1}"#;
        assert!(refused(later).contains("version 2"));
        assert!(refused("").contains("`run`"));
        assert!(refused(r#"{"t":0,"type":"idle"}"#).contains("`run`"));
        assert!(refused("{}").contains("line 1"));
    }

    #[test]
    fn events_are_found_in_what_changes_between_two_samples() {
        let calm = Observation {
            limit: Some(9.0),
            pods: 1,
            ..Observation::default()
        };
        assert_eq!(changes(&calm, &calm, 0), []);
        let idle = Observation { pods: 0, ..calm };
        assert_eq!(changes(&calm, &idle, 0), [Event::Idle {}]);
        let stopped = Observation {
            exhausted: true,
            suspended: true,
            ..idle
        };
        assert_eq!(
            changes(&calm, &stopped, 7),
            [Event::Exhausted {}, Event::Suspended { step: 7 }],
            "pods that the budget stops are not idle"
        );
        let raised = Observation {
            limit: Some(10.0),
            attempt: (2, 8),
            ..idle
        };
        assert_eq!(
            changes(&stopped, &raised, 11),
            [Event::Limit { limit: 10.0 }, Event::Resumed { step: 8 }]
        );
        assert_eq!(
            changes(&Observation::default(), &calm, 0),
            [],
            "a limit that becomes known has not changed"
        );
    }
}
