//! What was last read of signals: for statuses, and to tell what the model has to know.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bursar_core::model::event::Measurement;
use bursar_core::model::{Key, Name};
use bursar_core::scaling::Milli;
use jiff::{SignedDuration, Timestamp};

use crate::lock::lock;

/// The last value counts for so long after the first read that fails: one that is lost, of a signal that is
/// read seldom too, holds no replicas that would go.
const GRACE: SignedDuration = SignedDuration::from_secs(15);

/// A signal as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalReading {
    /// The last value, and when it was read.
    pub(crate) value: Option<(Milli, Timestamp)>,
    /// Why it cannot be read now.
    pub(crate) error: Option<String>,
    /// Since when no read has given a value.
    failing_since: Option<Timestamp>,
    /// What the model was told last.
    told: Option<Measurement>,
}

/// What a read changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadingChange {
    /// The model is told this.
    pub(super) measurement: Option<Measurement>,
    /// The status has another error, or none any more.
    pub(super) status: bool,
}

impl SignalReading {
    /// Takes a value in thousandths, or why there is none.
    fn record(&mut self, result: Result<u64, String>, now: Timestamp) -> ReadingChange {
        let error = result.as_ref().err().cloned();
        let status = self.error != error;
        self.error = error;
        let measurement = match result {
            Ok(milli) => {
                self.failing_since = None;
                self.value = Some((Milli(milli), now));
                Measurement::Value(Milli(milli))
            }
            Err(why) => {
                let since = *self.failing_since.get_or_insert(now);
                if self.value.is_some() && now.duration_since(since) < GRACE {
                    return ReadingChange {
                        measurement: None,
                        status,
                    };
                }
                Measurement::Failed(why.into())
            }
        };
        let is_new = self.told.as_ref() != Some(&measurement);
        self.told = Some(measurement.clone());
        ReadingChange {
            measurement: Some(measurement).filter(|_| is_new),
            status,
        }
    }
}

/// Signals as last read, by service and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct SignalReadings(Arc<Mutex<HashMap<Key, BTreeMap<Name, SignalReading>>>>);

impl SignalReadings {
    /// Keeps a value in thousandths, or why there is none. Returns what that changes.
    pub(super) fn record(
        &self,
        service: &Key,
        signal: &Name,
        result: Result<u64, String>,
        now: Timestamp,
    ) -> ReadingChange {
        let mut all = lock(&self.0);
        let signals = all.entry(service.clone()).or_default();
        let reading = signals.entry(signal.clone()).or_default();
        reading.record(result, now)
    }

    /// Forgets a signal.
    pub(super) fn forget(&self, service: &Key, signal: &Name) {
        let mut all = lock(&self.0);
        if let Some(signals) = all.get_mut(service) {
            signals.remove(signal);
            if signals.is_empty() {
                all.remove(service);
            }
        }
    }

    /// What is known of a signal; nothing before its first read.
    pub(crate) fn get(&self, service: &Key, signal: &str) -> SignalReading {
        let all = lock(&self.0);
        let reading = all.get(service).and_then(|signals| signals.get(signal));
        reading.cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn told(change: &ReadingChange) -> (Option<Measurement>, bool) {
        (change.measurement.clone(), change.status)
    }

    #[test]
    fn a_read_that_is_lost_shows_in_the_status_and_changes_no_decision() {
        let mut reading = SignalReading::default();
        let value = |milli| Some(Measurement::Value(Milli(milli)));
        let lost = || Err("refused".to_owned());
        assert_eq!(
            told(&reading.record(Ok(5_000), at(0))),
            (value(5_000), false)
        );
        assert_eq!(told(&reading.record(lost(), at(5))), (None, true));
        assert_eq!(told(&reading.record(lost(), at(10))), (None, false));
        assert_eq!(told(&reading.record(Ok(5_000), at(14))), (None, true));
        let failed = Some(Measurement::Failed("refused".into()));
        assert_eq!(told(&reading.record(lost(), at(19))), (None, true));
        assert_eq!(told(&reading.record(lost(), at(33))), (None, false));
        assert_eq!(told(&reading.record(lost(), at(34))), (failed, false));
        assert_eq!(
            reading.value,
            Some((Milli(5_000), at(14))),
            "it stays in the status"
        );
        assert_eq!(told(&reading.record(Ok(0), at(39))), (value(0), true));
    }

    #[test]
    fn one_lost_read_of_a_signal_that_is_read_seldom_changes_no_decision() {
        let mut reading = SignalReading::default();
        reading.record(Ok(5_000), at(0));
        let lost = || Err("refused".to_owned());
        assert_eq!(told(&reading.record(lost(), at(60))), (None, true));
        assert_eq!(told(&reading.record(Ok(5_000), at(120))), (None, true));
        assert_eq!(told(&reading.record(lost(), at(180))), (None, true));
        let failed = Some(Measurement::Failed("refused".into()));
        assert_eq!(told(&reading.record(lost(), at(240))), (failed, false));
    }

    #[test]
    fn a_signal_that_was_never_read_is_unknown_at_once() {
        let mut reading = SignalReading::default();
        let failed = Some(Measurement::Failed("refused".into()));
        let change = reading.record(Err("refused".to_owned()), at(0));
        assert_eq!(told(&change), (failed, true));
    }
}
