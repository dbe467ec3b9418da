//! All samples of a workload as one signal.

use std::collections::BTreeMap;

use bursar_core::ledger::EngineCounters;
use bursar_core::scaling::Signal;
use jiff::{SignedDuration, Timestamp};

use crate::engine::Sample;

/// A sample counts for this long.
pub const FRESH: SignedDuration = SignedDuration::from_secs(10);

/// What is known of one pod.
#[derive(Debug, Clone, Default)]
struct Reading {
    last: Option<(Timestamp, Sample)>,
    /// How long it had nothing to do, from read to read.
    idle: SignedDuration,
    error: Option<String>,
}

/// What is known of one workload's pods, by UID.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    pods: BTreeMap<String, Reading>,
    active_at: Option<Timestamp>,
}

impl Readings {
    /// Takes a pod's sample. Requests, and counters that differ from the last ones, are activity at `now`; so is a first look,
    /// because what came before it is not known.
    pub fn sample(&mut self, uid: &str, sample: Sample, now: Timestamp) {
        let reading = self.pods.entry(uid.to_owned()).or_default();
        let unchanged = reading
            .last
            .filter(|(_, last)| last.done == sample.done && sample.busy == 0);
        match unchanged {
            None => self.active_at = Some(now),
            // longer gaps hide what came and went
            Some((at, last)) if last.busy == 0 && now.duration_since(at) < FRESH => {
                reading.idle += now.duration_since(at);
            }
            Some(_) => {}
        }
        reading.last = Some((now, sample));
        reading.error = None;
    }

    /// Takes that a pod could not be read.
    pub fn failure(&mut self, uid: &str, error: String) {
        self.pods.entry(uid.to_owned()).or_default().error = Some(error);
    }

    /// Something happened that no engine saw, such as a held request.
    pub fn touch(&mut self, now: Timestamp) {
        self.active_at = Some(now);
    }

    /// Forgets a pod.
    pub fn forget(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// Whether nothing is known of any pod.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// When something last happened; `None` before the first look.
    pub fn active_at(&self) -> Option<Timestamp> {
        self.active_at
    }

    /// Whether reading this pod was tried.
    pub fn knows(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// What each pod has done by its own counters, and for how many seconds it had nothing to do since it was first read here.
    pub fn done(&self) -> impl Iterator<Item = (&String, EngineCounters, i64)> {
        let read = |reading: &Reading| Some((reading.last?.1.done, reading.idle.as_secs()));
        self.pods.iter().filter_map(move |(uid, reading)| {
            let (done, idle) = read(reading)?;
            Some((uid, done, idle))
        })
    }

    /// Requests on one pod; `None` if not known.
    pub fn busy(&self, uid: &str, now: Timestamp) -> Option<u64> {
        let (at, sample) = self.pods.get(uid)?.last?;
        (now.duration_since(at) < FRESH).then_some(sample.busy)
    }

    /// Requests on these pods, named by UID and name. Unknown as soon as one of them is: a sum without it would be too small.
    pub fn signal<'a>(
        &self,
        pods: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: Timestamp,
    ) -> Signal {
        let mut sum = None;
        for (uid, name) in pods {
            let Some(busy) = self.busy(uid, now) else {
                let error = self
                    .pods
                    .get(uid)
                    .and_then(|reading| reading.error.as_deref());
                return Signal::Unknown(format!("pod {name}: {}", error.unwrap_or("not read yet")));
            };
            sum = Some(sum.unwrap_or(0) + busy);
        }
        sum.map_or(Signal::Absent, Signal::Known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn sample(busy: u64, requests: u64) -> Sample {
        let done = EngineCounters {
            requests,
            ..EngineCounters::default()
        };
        Sample { busy, done }
    }

    #[test]
    fn one_pod_that_cannot_be_read_makes_the_signal_unknown() {
        let mut readings = Readings::default();
        let pods = [("a", "chat-a"), ("b", "chat-b")];
        readings.sample("a", sample(3, 1), at(0));
        assert_eq!(
            readings.signal(pods, at(0)),
            Signal::Unknown("pod chat-b: not read yet".into())
        );
        readings.sample("b", sample(4, 1), at(0));
        assert_eq!(readings.signal(pods, at(9)), Signal::Known(7));
        readings.failure("b", "Connection refused".into());
        assert_eq!(
            readings.signal(pods, at(9)),
            Signal::Known(7),
            "one failed read does not undo a fresh sample"
        );
        readings.sample("a", sample(3, 1), at(10));
        assert_eq!(
            readings.signal(pods, at(10)),
            Signal::Unknown("pod chat-b: Connection refused".into())
        );
        assert_eq!(readings.signal([], at(10)), Signal::Absent);
    }

    #[test]
    fn what_comes_and_goes_between_two_reads_is_activity() {
        let mut readings = Readings::default();
        assert_eq!(readings.active_at(), None);
        readings.sample("a", sample(0, 5), at(0));
        readings.sample("a", sample(0, 5), at(5));
        assert_eq!(readings.active_at(), Some(at(0)));
        readings.sample("a", sample(0, 6), at(10));
        assert_eq!(
            readings.active_at(),
            Some(at(10)),
            "a counter moved while both gauges were zero"
        );
        readings.sample("a", sample(1, 6), at(15));
        assert_eq!(readings.active_at(), Some(at(15)));
    }

    #[test]
    fn pods_that_are_gone_are_forgotten() {
        let mut readings = Readings::default();
        readings.sample("a", sample(1, 0), at(0));
        assert!(!readings.is_empty());
        readings.forget("a");
        assert!(readings.is_empty());
        assert_eq!(readings.busy("a", at(0)), None);
    }

    #[test]
    fn idle_time_is_counted_between_reads_that_saw_nothing() {
        let mut readings = Readings::default();
        for (second, busy, requests) in [
            (0, 0, 5),
            (5, 0, 5),
            (8, 2, 5),
            (9, 0, 6),
            (12, 0, 6),
            (60, 0, 6),
        ] {
            readings.sample("a", sample(busy, requests), at(second));
        }
        let done: Vec<_> = readings
            .done()
            .map(|(_, done, idle)| (done.requests, idle))
            .collect();
        assert_eq!(done, [(6, 5 + 3)], "a gap that hides much is not idle time");
    }
}
