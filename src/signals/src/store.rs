//! What was read of each pod: its last sample, and what it has done.

use std::collections::BTreeMap;

use bursar_core::ledger::EngineCounters;
use bursar_core::model::event::Counting;
use jiff::{SignedDuration, Timestamp};

use crate::engine_metrics::Sample;

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
}

impl Readings {
    /// Takes a pod's sample. Returns whether its counters differ from the last ones, or there were
    /// none: what came before a first look is not known.
    pub fn sample(&mut self, uid: &str, mut sample: Sample, now: Timestamp) -> bool {
        let reading = self.pods.entry(uid.to_owned()).or_default();
        let last = reading.last.take();
        // a page without them does not take back what was done
        if let Some((_, last)) = last.as_ref().filter(|_| !sample.has_counters) {
            sample.done = last.done;
        }
        let moved = (last.as_ref()).is_none_or(|(_, last)| last.done != sample.done);
        if let Some((at, last)) = last {
            // nor does a request that goes on show where they are known by their time
            let is_known = sample.request_micros.is_none();
            let is_idle = is_known && !moved && last.busy == 0 && sample.busy == 0;
            // longer gaps hide what came and went
            if is_idle && now.duration_since(at) < FRESH {
                reading.idle += now.duration_since(at);
            }
        }
        reading.last = Some((now, sample));
        reading.error = None;
        moved
    }

    /// Takes that a pod could not be read.
    pub fn failure(&mut self, uid: &str, error: String) {
        self.pods.entry(uid.to_owned()).or_default().error = Some(error);
    }

    /// Forgets a pod.
    pub fn forget(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// Whether nothing is known of any pod.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Whether reading this pod was tried.
    pub fn knows(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// What each pod has done by its own counters, and for how many seconds it had nothing to do since it was first read here.
    pub fn done(&self) -> impl Iterator<Item = (&String, EngineCounters, i64)> {
        let read =
            |reading: &Reading| Some((reading.last.as_ref()?.1.done, reading.idle.as_secs()));
        self.pods.iter().filter_map(move |(uid, reading)| {
            let (done, idle) = read(reading)?;
            Some((uid, done, idle))
        })
    }

    /// What one pod has done by its own counters, as last read.
    pub fn last_done(&self, uid: &str) -> Option<EngineCounters> {
        let (_, sample) = self.pods.get(uid)?.last.as_ref()?;
        Some(sample.done)
    }

    /// Requests on one pod; `None` if not known.
    pub fn busy(&self, uid: &str, now: Timestamp) -> Option<u64> {
        let (at, sample) = self.pods.get(uid)?.last.as_ref()?;
        (now.duration_since(*at) < FRESH).then_some(sample.busy)
    }

    /// How soon the page of one pod shows what it does.
    pub fn counting(&self, uid: &str) -> Counting {
        let last = self.pods.get(uid).and_then(|reading| reading.last.as_ref());
        last.map_or_else(Counting::default, |(_, sample)| sample.counting)
    }

    /// Whether the last page of a pod had any counter.
    pub fn has_counters(&self, uid: &str) -> bool {
        let last = self.pods.get(uid).and_then(|reading| reading.last.as_ref());
        last.is_some_and(|(_, sample)| sample.has_counters)
    }

    /// Why a pod could not be read the last time; `None` if it could.
    pub fn error(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid)?.error.as_deref()
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
        Sample {
            busy,
            request_micros: None,
            counting: Counting::EachStep,
            done,
            has_counters: true,
            measures: None,
        }
    }

    #[test]
    fn a_failed_read_does_not_undo_a_fresh_sample_and_says_why_there_is_no_newer_one() {
        let mut readings = Readings::default();
        assert_eq!(readings.busy("a", at(0)), None);
        readings.sample("a", sample(3, 1), at(0));
        readings.failure("a", "Connection refused".into());
        assert_eq!(readings.busy("a", at(9)), Some(3));
        assert_eq!(readings.busy("a", at(10)), None);
        assert_eq!(readings.error("a"), Some("Connection refused"));
        readings.sample("a", sample(3, 1), at(10));
        assert_eq!(
            (readings.busy("a", at(10)), readings.error("a")),
            (Some(3), None)
        );
    }

    #[test]
    fn counters_move_between_two_reads_and_at_the_first() {
        let mut readings = Readings::default();
        let mut moved =
            |busy, requests, second| readings.sample("a", sample(busy, requests), at(second));
        assert!(moved(0, 5, 0), "what came before is not known");
        assert!(!moved(0, 5, 5));
        assert!(moved(0, 6, 10), "while both gauges were zero");
        assert!(!moved(1, 6, 15), "a gauge is no counter");
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
