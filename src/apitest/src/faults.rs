//! Faults of a client: its process crashes at a chosen write, another client writes first, or
//! writes to a kind are slow, refused or changed by a webhook.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

/// The point at which a process crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Before the write reaches the server.
    Before,
    /// After the write, before the client gets the response.
    After,
}

/// What befalls all writes to a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// Each takes this long.
    Slow(Duration),
    /// Each is refused with 403.
    Refused,
    /// Each is refused with 409, as by a quota that another write is counted in at the same time.
    Contended,
}

/// The writes to a kind that have begun and not ended.
#[derive(Debug, Clone, Copy, Default)]
struct InFlight {
    now: usize,
    most: usize,
}

#[derive(Default)]
struct State {
    write_faults: HashMap<String, WriteFault>,
    webhooks: HashMap<String, Value>,
    in_flight: HashMap<String, InFlight>,
    writes: usize,
    crash: Option<(usize, CrashPoint)>,
    competing_write: Option<(usize, BoxFuture<'static, ()>)>,
    dead: bool,
}

/// The faults of one client, and the number of its writes.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
}

impl Faults {
    /// The process crashes at write number `write`, counted from 0: that request and all later ones
    /// fail.
    pub fn crash(write: usize, point: CrashPoint) -> Self {
        let faults = Self::default();
        faults.state().crash = Some((write, point));
        faults
    }

    /// Another client acts just before write number `write`.
    pub fn competing_write(
        write: usize,
        action: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let faults = Self::default();
        faults.state().competing_write = Some((write, action.boxed()));
        faults
    }

    /// From now on this befalls the writes to the kind of this plural, or to one object of it, as `plural/name`;
    /// nothing if `None`.
    pub fn set_write_fault(&self, plural: &str, fault: Option<WriteFault>) {
        let faults = &mut self.state().write_faults;
        match fault {
            Some(fault) => faults.insert(plural.to_owned(), fault),
            None => faults.remove(plural),
        };
    }

    /// From now on a webhook sets these fields in each write to the kind of this plural.
    pub fn set_webhook(&self, plural: &str, fields: Value) {
        self.state().webhooks.insert(plural.to_owned(), fields);
    }

    /// What a webhook sets in each write to the kind of this plural.
    pub(crate) fn webhook(&self, plural: &str) -> Option<Value> {
        self.state().webhooks.get(plural).cloned()
    }

    /// The most writes to the kind of this plural that were under way at a time.
    pub fn most_in_flight(&self, plural: &str) -> usize {
        let state = self.state();
        state.in_flight.get(plural).map_or(0, |writes| writes.most)
    }

    /// The number of writes that were sent.
    pub fn writes(&self) -> usize {
        self.state().writes
    }

    /// True if the process has crashed.
    pub fn has_crashed(&self) -> bool {
        self.state().dead
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when a write arrives. It is under way until what is returned is dropped.
    ///
    /// # Errors
    /// The fault by which it is refused.
    pub(crate) async fn begin_write(
        &self,
        plural: &str,
        name: Option<&str>,
    ) -> Result<WriteInFlight<'_>, WriteFault> {
        let fault = {
            let faults = &self.state().write_faults;
            let of_object = name.and_then(|name| faults.get(&format!("{plural}/{name}")));
            faults.get(plural).or(of_object).copied()
        };
        if let Some(refusal @ (WriteFault::Refused | WriteFault::Contended)) = fault {
            return Err(refusal);
        }
        self.count_begin(plural);
        let in_flight = WriteInFlight {
            faults: self,
            plural: plural.to_owned(),
        };
        if let Some(WriteFault::Slow(duration)) = fault {
            tokio::time::sleep(duration).await;
        }
        Ok(in_flight)
    }

    fn count_begin(&self, plural: &str) {
        let mut state = self.state();
        let writes = state.in_flight.entry(plural.to_owned()).or_default();
        writes.now += 1;
        writes.most = writes.most.max(writes.now);
    }

    /// Called before a write; true if it may reach the server.
    pub(crate) async fn before(&self) -> bool {
        let competing_write = {
            let mut state = self.state();
            let write = state.writes;
            state.dead |= state.crash == Some((write, CrashPoint::Before));
            state.competing_write.take_if(|(at, _)| *at == write)
        };
        if let Some((_, action)) = competing_write {
            action.await;
        }
        !self.has_crashed()
    }

    /// Called after a write; true if the response may reach the client.
    pub(crate) fn after(&self) -> bool {
        let mut state = self.state();
        state.dead |= state.crash == Some((state.writes, CrashPoint::After));
        state.writes += 1;
        !state.dead
    }
}

/// A write that has begun.
pub(crate) struct WriteInFlight<'a> {
    faults: &'a Faults,
    plural: String,
}

impl Drop for WriteInFlight<'_> {
    fn drop(&mut self) {
        if let Some(writes) = self.faults.state().in_flight.get_mut(&self.plural) {
            writes.now -= 1;
        }
    }
}
