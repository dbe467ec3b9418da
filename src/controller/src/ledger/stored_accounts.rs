//! What is on record of one namespace, by workload and month: records of workloads' own, and sections of folded ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bursar_api::SpendRecord;
use bursar_api::quantities::FieldError;
use bursar_api::spend::{RecordPrecedence, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::ledger::Account;
use kube::ResourceExt;
use kube::runtime::reflector::Store;

use super::{Accounts, Error};
use crate::lock::lock;

/// What is on record of one namespace. Made once for all its workloads: a cluster has many records.
#[derive(Default)]
pub(crate) struct StoredAccounts(BTreeMap<WorkloadRef, WorkloadAccounts>);

/// What is on record of one workload.
#[derive(Default)]
struct WorkloadAccounts {
    own: BTreeMap<Month, Arc<SpendRecord>>,
    folded: BTreeMap<Month, Section>,
}

/// A section of a folded record, read.
#[derive(Clone)]
pub(super) struct Section {
    workload: WorkloadRef,
    month: Month,
    precedence: RecordPrecedence,
    /// The folded record's name.
    of: String,
    pub(super) time_zone: String,
    pub(super) currency: String,
    account: Result<Arc<Account>, FieldError>,
}

impl StoredAccounts {
    /// What the cache has of a namespace.
    pub(crate) fn of(
        store: &Store<SpendRecord>,
        folded: &ConsolidatedCache,
        namespace: &str,
    ) -> Self {
        let mut all = Self::default();
        for record in store.state() {
            if record.spec.namespace != namespace {
                continue;
            }
            if record.is_consolidated() {
                for section in folded.sections(&record).iter() {
                    all.file(section);
                }
            } else if let Ok(month) = record.month() {
                let workload = record.workload();
                // nobody finds a record by another name
                if record.name_any() == workload.record_name(month) {
                    let shelf = all.0.entry(workload).or_default();
                    shelf.own.insert(month, record);
                }
            }
        }
        all
    }

    /// Takes in a section, unless a newer one of the workload and month is there.
    fn file(&mut self, section: &Section) {
        let shelf = self.0.entry(section.workload.clone()).or_default();
        let known = shelf.folded.get(&section.month);
        if known.is_none_or(|known| known.precedence < section.precedence) {
            shelf.folded.insert(section.month, section.clone());
        }
    }

    /// All workloads that are on record.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &WorkloadRef> {
        self.0.keys()
    }

    /// The pods whose charges are open.
    pub(crate) fn open(&self) -> impl Iterator<Item = &str> {
        let own = self.0.values().flat_map(|shelf| shelf.own.values());
        let statuses = own.filter_map(|record| record.status.as_ref());
        statuses.flat_map(|status| status.open.iter().map(|charge| charge.uid.as_str()))
    }

    /// The months that a workload has a record of its own of.
    pub(super) fn months(&self, workload: &WorkloadRef) -> impl Iterator<Item = Month> {
        let shelf = self.0.get(workload).into_iter();
        shelf.flat_map(|shelf| shelf.own.keys().copied())
    }

    /// The workload's own record of a month.
    pub(super) fn own(&self, workload: &WorkloadRef, month: Month) -> Option<&SpendRecord> {
        self.0.get(workload)?.own.get(&month).map(AsRef::as_ref)
    }

    /// What of the workload is folded of a month.
    pub(super) fn section(&self, workload: &WorkloadRef, month: Month) -> Option<&Section> {
        self.0.get(workload)?.folded.get(&month)
    }

    /// All that is folded of the workload.
    pub(super) fn closed(&self, workload: &WorkloadRef) -> Result<Accounts, Error> {
        let shelf = self.0.get(workload).into_iter();
        let sections = shelf.flat_map(|shelf| shelf.folded.iter());
        sections
            .map(|(month, section)| Ok((*month, section.account()?)))
            .collect()
    }

    /// All accounts of the workload.
    ///
    /// # Errors
    /// The first record that cannot be read.
    pub(crate) fn accounts(&self, workload: &WorkloadRef) -> Result<Accounts, Error> {
        let mut accounts = self.closed(workload)?;
        for month in self.months(workload) {
            let written = |record: &&SpendRecord| record.status.is_some();
            if let Some(record) = self.own(workload, month).filter(written) {
                accounts.insert(month, Arc::new(read(record)?));
            }
        }
        Ok(accounts)
    }
}

impl Section {
    pub(super) fn account(&self) -> Result<Arc<Account>, Error> {
        let unreadable = |source: &FieldError| Error::Record {
            name: self.of.clone(),
            source: source.clone(),
        };
        self.account.as_ref().map(Arc::clone).map_err(unreadable)
    }
}

/// The account of a record.
pub(super) fn read(record: &SpendRecord) -> Result<Account, Error> {
    record.to_account().map_err(|source| Error::Record {
        name: record.name_any(),
        source,
    })
}

/// What these folded records of one month hold of a workload; an empty account if nothing.
pub(super) fn in_sections(
    folded: &[SpendRecord],
    workload: &WorkloadRef,
    month: Month,
) -> Result<Arc<Account>, Error> {
    let mut records = StoredAccounts::default();
    for section in folded.iter().flat_map(sections) {
        records.file(&section);
    }
    let section = records.section(workload, month);
    section.map_or_else(|| Ok(Arc::new(Account::new(month))), Section::account)
}

fn sections(record: &SpendRecord) -> Vec<Section> {
    let Ok(month) = record.month() else {
        return Vec::new();
    };
    let section = |section: &bursar_api::spend::ConsolidatedAccount| Section {
        workload: section.workload(&record.spec.namespace),
        month,
        precedence: section.precedence(),
        of: record.name_any(),
        time_zone: record.spec.time_zone.clone(),
        currency: record.spec.currency.clone(),
        account: section.to_account(month).map(Arc::new),
    };
    record.sections().iter().map(section).collect()
}

/// Folded records as they were last read: they have many lines, and hardly ever change.
#[derive(Default)]
pub(crate) struct ConsolidatedCache(Mutex<HashMap<String, Read>>);

struct Read {
    version: Option<String>,
    sections: Arc<[Section]>,
}

impl ConsolidatedCache {
    fn sections(&self, record: &SpendRecord) -> Arc<[Section]> {
        let (name, version) = (record.name_any(), record.resource_version());
        if let Some(read) = lock(&self.0).get(&name)
            && read.version == version
        {
            return Arc::clone(&read.sections);
        }
        let sections: Arc<[Section]> = sections(record).into();
        let read = Read {
            version,
            sections: Arc::clone(&sections),
        };
        lock(&self.0).insert(name, read);
        sections
    }

    /// Forgets a record that is gone.
    pub(super) fn forget(&self, name: &str) {
        lock(&self.0).remove(name);
    }
}
