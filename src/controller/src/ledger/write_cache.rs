//! The records that this process wrote last, and when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use bursar_api::SpendRecord;
use bursar_core::ledger::Uid;
use jiff::Timestamp;
use kube::ResourceExt;

use crate::lock::lock;

/// The records that were last written, so that a cache which lags behind does not make the next
/// write fail.
#[derive(Debug, Default)]
pub(crate) struct WriteCache {
    records: Mutex<HashMap<String, Entry>>,
    /// The idle seconds of each pod that this process counted and that are in the pod's record.
    idle: Mutex<HashMap<Uid, i64>>,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    /// `None` once the cache has caught up.
    record: Option<SpendRecord>,
}

impl WriteCache {
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

    /// Forgets a record that somebody deleted.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        lock(&self.records)
    }

    /// Notes that so many of a pod's idle seconds are written.
    pub(super) fn note_idle(&self, uid: &str, seconds: i64) {
        lock(&self.idle).insert(uid.to_owned(), seconds);
    }

    /// How many of a pod's idle seconds are written.
    pub(super) fn idle(&self, uid: &str) -> i64 {
        lock(&self.idle).get(uid).copied().unwrap_or(0)
    }

    /// Forgets pods that are gone.
    pub(super) fn forget_pod(&self, uid: &str) {
        lock(&self.idle).remove(uid);
    }
}
