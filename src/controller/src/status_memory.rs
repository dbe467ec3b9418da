//! What is remembered of the writes of statuses.

use jiff::{SignedDuration, Timestamp};

use crate::status_pacing::StatusPacing;

/// A cache shows a status within this long of its write.
const UNSEEN: SignedDuration = SignedDuration::from_secs(5);

/// What is remembered of the writes of one status.
#[derive(Debug, Default)]
pub(crate) struct StatusMemory {
    pub(crate) pacing: StatusPacing,
    /// The version of the object that the last write replaced, and when.
    replaced: Option<(String, Timestamp)>,
}

impl StatusMemory {
    /// Until when the cache may not show the last write yet; later than `now`.
    pub(crate) fn unseen_until(&self, version: Option<&str>, now: Timestamp) -> Option<Timestamp> {
        let (replaced, at) = self.replaced.as_ref()?;
        let is_old = Some(replaced.as_str()) == version;
        // after the clock was set back, a write lies in the future, and nobody waits for it
        let until = at.checked_add(UNSEEN).ok();
        until.filter(|until| is_old && now < *until && *at <= now)
    }

    /// Notes a write that replaced this version of the object.
    pub(crate) fn note_write(&mut self, version: Option<String>, now: Timestamp) {
        self.replaced = version.map(|version| (version, now));
    }

    /// Whether the last write was at `at`.
    pub(crate) fn is_written_at(&self, at: Timestamp) -> bool {
        let written = self.replaced.as_ref();
        written.is_some_and(|(_, last)| *last == at)
    }
}
