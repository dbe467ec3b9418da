//! The cluster of a history: pods as the API server shows them at each time, and SpendRecords with versions.

use std::collections::BTreeMap;
use std::rc::Rc;

use bursar_core::calendar::Month;
use bursar_core::ledger::{Account, ChargeEnd};

use crate::prices::time;
use crate::rates::Look;

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The kubelet says when.
    Told,
    /// The phase alone says so; the end is when that was written.
    Collected,
    /// Its node fell silent for good, and somebody gave it up.
    GivenUp,
    /// Somebody took the finalizer away and deleted it.
    Vanished,
}

/// A pod's history.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) bound: i64,
    pub(crate) ready: Option<i64>,
    pub(crate) leaving: Option<i64>,
    pub(crate) ending: Ending,
    /// By its node's clock where the kubelet says it.
    pub(crate) end: i64,
    /// Since when the API server shows the end.
    pub(crate) shown: i64,
    /// When somebody deletes the object.
    pub(crate) deleted: i64,
    /// When its node was not heard of; the last time may be for good.
    pub(crate) silent: Vec<(i64, i64)>,
    /// When its node gets its labels.
    pub(crate) labelled: i64,
    pub(crate) units: u32,
    pub(crate) share: (u32, u32),
    /// Its cores and since when, one after the other; none before the first.
    pub(crate) cores: Vec<(i64, u32)>,
    /// Whether the admission policy gave it the finalizer.
    pub(crate) born_guarded: bool,
    /// When the controller put the finalizer on, and took it off.
    pub(crate) guarded: Option<i64>,
    pub(crate) released: Option<i64>,
}

/// What the API server shows of a pod and its node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) pod: usize,
    pub(crate) bound: i64,
    pub(crate) ready: Option<i64>,
    pub(crate) leaving: Option<i64>,
    pub(crate) end: Option<ChargeEnd>,
    pub(crate) silent: Option<i64>,
    pub(crate) labelled: bool,
    pub(crate) cores: u32,
    pub(crate) guarded: bool,
    pub(crate) deleting: bool,
}

impl Pod {
    /// What is shown at `at`; nothing before it is bound and after it is gone.
    pub(crate) fn view(&self, pod: usize, at: i64) -> Option<View> {
        let passed = |moment: i64| moment <= at;
        let guarded = (self.born_guarded || self.guarded.is_some_and(passed))
            && !self.released.is_some_and(passed)
            && !(self.ending == Ending::Vanished && passed(self.deleted));
        if !passed(self.bound) || (passed(self.deleted) && !guarded) {
            return None;
        }
        let end = ChargeEnd {
            at: time(self.end.max(self.bound)),
            estimated: self.ending != Ending::Told,
        };
        let ended = self.ending != Ending::Vanished && passed(self.shown);
        let silent = self
            .silent
            .iter()
            .find(|(from, to)| passed(*from) && at < *to);
        let cores = self.cores.iter().rev().find(|(from, _)| passed(*from));
        Some(View {
            pod,
            bound: self.bound,
            ready: self.ready.filter(|ready| passed(*ready)),
            leaving: self.leaving.filter(|leaving| passed(*leaving)),
            end: ended.then_some(end),
            silent: silent.map(|(from, _)| *from),
            labelled: passed(self.labelled),
            cores: cores.map_or(0, |(_, cores)| *cores),
            guarded,
            deleting: passed(self.deleted),
        })
    }
}

/// What the oracle must know of a charge beside the pod's history: when somebody looked at it, and which end was written where no
/// kubelet told one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ink {
    pub(crate) looks: Vec<Look>,
    pub(crate) labelled: bool,
    pub(crate) cores: u32,
    pub(crate) ready: bool,
    pub(crate) leaving: bool,
    pub(crate) end: Option<i64>,
}

/// A SpendRecord.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) version: u64,
    pub(crate) account: Account,
    pub(crate) ink: BTreeMap<usize, Ink>,
}

/// All records of the workload.
pub(crate) type Records = BTreeMap<Month, Rc<Record>>;

/// The API server's records, and as they were after every write: caches lag behind.
#[derive(Debug)]
pub(crate) struct Store {
    past: Vec<Records>,
    version: u64,
}

/// The write came too late: somebody else wrote first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            past: vec![Records::new()],
            version: 0,
        }
    }

    /// How often something was written.
    pub(crate) fn writes(&self) -> usize {
        self.past.len() - 1
    }

    /// The records after so many writes.
    pub(crate) fn after(&self, writes: usize) -> &Records {
        &self.past[writes]
    }

    /// The records as they are.
    pub(crate) fn current(&self) -> &Records {
        &self.past[self.writes()]
    }

    pub(crate) fn create(&mut self, month: Month) -> Result<Rc<Record>, Conflict> {
        if self.current().contains_key(&month) {
            return Err(Conflict);
        }
        Ok(self.put(month, Account::new(month), BTreeMap::new()))
    }

    /// Writes at the version that was read.
    pub(crate) fn replace(
        &mut self,
        read: &Record,
        account: &Account,
        ink: &BTreeMap<usize, Ink>,
    ) -> Result<Rc<Record>, Conflict> {
        let month = account.month();
        if self.current().get(&month).map(|record| record.version) != Some(read.version) {
            return Err(Conflict);
        }
        Ok(self.put(month, account.clone(), ink.clone()))
    }

    fn put(&mut self, month: Month, account: Account, ink: BTreeMap<usize, Ink>) -> Rc<Record> {
        self.version += 1;
        let record = Rc::new(Record {
            version: self.version,
            account,
            ink,
        });
        let mut records = self.current().clone();
        records.insert(month, Rc::clone(&record));
        self.past.push(records);
        record
    }
}
