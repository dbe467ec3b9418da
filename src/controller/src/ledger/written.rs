//! What this process wrote last, and when.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bursar_api::SpendRecord;
use jiff::Timestamp;
use kube::ResourceExt;

/// What was last written, so that a cache which lags behind does not make the next write fail.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    /// Until the cache has caught up.
    record: Option<SpendRecord>,
}

impl Written {
    pub(super) fn put(&self, record: SpendRecord, at: Timestamp) {
        let name = record.name_any();
        self.lock().insert(
            name,
            Entry {
                at,
                record: Some(record),
            },
        );
    }

    /// The newer one of the cached and the written record.
    pub(super) fn newer(&self, cached: Option<SpendRecord>, name: &str) -> Option<SpendRecord> {
        let mut written = self.lock();
        let Some(ours) = written.get_mut(name) else {
            return cached;
        };
        let version = |record: &SpendRecord| {
            record
                .resource_version()
                .and_then(|version| version.parse::<u64>().ok())
        };
        match (&ours.record, cached) {
            (Some(record), Some(cached)) if version(record) > version(&cached) => {
                Some(record.clone())
            }
            (_, Some(cached)) => {
                ours.record = None;
                Some(cached)
            }
            (record, None) => record.clone(),
        }
    }

    /// When the record was last written, or first asked about.
    pub(super) fn last(&self, name: &str, now: Timestamp) -> Timestamp {
        self.lock()
            .entry(name.to_owned())
            .or_insert(Entry {
                at: now,
                record: None,
            })
            .at
    }

    /// Forgets a record, after a write that somebody else forestalled.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
