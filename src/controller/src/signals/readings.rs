//! What was last read of signals, for statuses.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bursar_core::model::{Key, Name};
use bursar_core::scaling::Milli;
use jiff::Timestamp;

use crate::lock::lock;

/// A signal as last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SignalReading {
    /// The last value, and when it was read.
    pub(crate) value: Option<(Milli, Timestamp)>,
    /// Why it cannot be read now.
    pub(crate) error: Option<String>,
}

/// Signals as last read, by service and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct SignalReadings(Arc<Mutex<HashMap<Key, BTreeMap<Name, SignalReading>>>>);

impl SignalReadings {
    /// Keeps a value in thousandths, or why there is none. The last value stays beside an error.
    pub(super) fn record(
        &self,
        service: &Key,
        signal: &Name,
        result: &Result<u64, String>,
        now: Timestamp,
    ) {
        let mut all = lock(&self.0);
        let signals = all.entry(service.clone()).or_default();
        let reading = signals.entry(signal.clone()).or_default();
        match result {
            Ok(milli) => {
                *reading = SignalReading {
                    value: Some((Milli(*milli), now)),
                    error: None,
                }
            }
            Err(why) => reading.error = Some(why.clone()),
        }
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
