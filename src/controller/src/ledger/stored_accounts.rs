//! The accounts on record in one namespace, by workload and month: workloads' own records, and
//! sections of consolidated records.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bursar_api::SpendRecord;
use bursar_api::quantities::FieldError;
use bursar_api::spend::{RecordPrecedence, WorkloadKind, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::ledger::{Account, Uid};
use kube::ResourceExt;

use super::accounts::Accounts;
use super::charge_holders::ChargeHolders;
use super::error::Error;
use crate::cache::UnreadableObjects;
use crate::gpu_allocation::charged_devices;
use crate::lock::lock;

/// The accounts on record in one namespace. Made once for all its workloads.
#[derive(Default)]
pub(crate) struct StoredAccounts {
    workloads: BTreeMap<WorkloadRef, WorkloadAccounts>,
    /// Records that cannot be read: their names, whose they are, and why.
    unreadable: Vec<(String, WorkloadRef, String)>,
}

/// The accounts on record of one workload.
#[derive(Default)]
struct WorkloadAccounts {
    own: BTreeMap<Month, Arc<SpendRecord>>,
    consolidated: BTreeMap<Month, StoredSection>,
}

/// A section of a consolidated record, as it was read.
#[derive(Clone)]
pub(super) struct StoredSection {
    workload: WorkloadRef,
    month: Month,
    precedence: RecordPrecedence,
    record_name: String,
    pub(super) time_zone: String,
    pub(super) currency: String,
    account: Result<Arc<Account>, FieldError>,
}

impl StoredAccounts {
    /// The accounts in these records of one namespace.
    pub(crate) fn load(
        records: impl IntoIterator<Item = Arc<SpendRecord>>,
        consolidated: &ConsolidatedCache,
    ) -> Self {
        let mut all = Self::default();
        for record in records {
            if record.is_consolidated() {
                for section in consolidated.sections(&record).iter() {
                    all.add_section(section);
                }
            } else if let Ok(month) = record.month() {
                let workload = record.workload();
                // nobody finds a record by another name
                if record.name_any() == workload.record_name(month) {
                    let accounts = all.workloads.entry(workload).or_default();
                    accounts.own.insert(month, record);
                }
            }
        }
        all
    }

    /// Notes which records of the namespace cannot be read.
    pub(crate) fn note_unreadable(&mut self, objects: &UnreadableObjects, namespace: &str) {
        for object in objects.all::<SpendRecord>() {
            let Some((workload, _)) = WorkloadRef::from_record_name(&object.name) else {
                continue;
            };
            if workload.namespace != namespace {
                continue;
            }
            if workload.kind != WorkloadKind::Folded {
                self.workloads.entry(workload.clone()).or_default();
            }
            self.unreadable
                .push((object.name.clone(), workload, object.why()));
        }
    }

    /// Whether all records can be read that the workload may have an account in.
    ///
    /// # Errors
    /// The first record that cannot be read.
    pub(super) fn check_readable(&self, workload: &WorkloadRef) -> Result<(), Error> {
        let affects = |(_, of, _): &&(String, WorkloadRef, String)| {
            of == workload || of.kind == WorkloadKind::Folded
        };
        match self.unreadable.iter().find(affects) {
            None => Ok(()),
            Some((name, _, why)) => Err(Error::Unreadable {
                name: name.clone(),
                why: why.clone(),
            }),
        }
    }

    /// Takes in a section, unless a newer one of the workload and month is there.
    fn add_section(&mut self, section: &StoredSection) {
        let accounts = self.workloads.entry(section.workload.clone()).or_default();
        let known = accounts.consolidated.get(&section.month);
        if known.is_none_or(|known| known.precedence < section.precedence) {
            accounts.consolidated.insert(section.month, section.clone());
        }
    }

    /// All workloads that are on record.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &WorkloadRef> {
        self.workloads.keys()
    }

    /// Whether the workload has a record, or a section of a consolidated one.
    pub(crate) fn contains(&self, workload: &WorkloadRef) -> bool {
        self.workloads.contains_key(workload)
    }

    /// The pods whose charges are open, and the devices that these have.
    pub(crate) fn open(&self) -> impl Iterator<Item = (Uid, BTreeMap<String, u32>)> {
        let own = self
            .workloads
            .values()
            .flat_map(|accounts| accounts.own.values());
        let statuses = own.filter_map(|record| record.status.as_ref());
        statuses.flat_map(|status| {
            let open = status.open.iter();
            open.map(|charge| {
                let units = charge.units(&status.terms);
                (charge.uid.clone(), charged_devices(units))
            })
        })
    }

    /// The accounts of each pod whose charge is open, or settled and not forgotten.
    pub(super) fn note_holders(&self, holders: &mut ChargeHolders) {
        for (workload, accounts) in &self.workloads {
            let records = accounts.own.values();
            for status in records.filter_map(|record| record.status.as_ref()) {
                for charge in &status.open {
                    holders.note(&charge.uid, workload, charge.booked.is_some());
                }
                for uid in &status.settling {
                    holders.note(uid, workload, true);
                }
            }
        }
    }

    /// The months for which a workload has a record of its own.
    pub(super) fn months(&self, workload: &WorkloadRef) -> impl Iterator<Item = Month> {
        let accounts = self.workloads.get(workload).into_iter();
        accounts.flat_map(|accounts| accounts.own.keys().copied())
    }

    /// The workload's own record of a month.
    pub(super) fn own(&self, workload: &WorkloadRef, month: Month) -> Option<&SpendRecord> {
        self.workloads
            .get(workload)?
            .own
            .get(&month)
            .map(AsRef::as_ref)
    }

    /// The workload's section of a month's consolidated record.
    pub(super) fn section(&self, workload: &WorkloadRef, month: Month) -> Option<&StoredSection> {
        self.workloads.get(workload)?.consolidated.get(&month)
    }

    /// The accounts of the workload in consolidated records.
    pub(super) fn consolidated(&self, workload: &WorkloadRef) -> Result<Accounts, Error> {
        let accounts = self.workloads.get(workload).into_iter();
        let sections = accounts.flat_map(|accounts| accounts.consolidated.iter());
        sections
            .map(|(month, section)| Ok((*month, section.account()?)))
            .collect()
    }

    /// All accounts of the workload.
    ///
    /// # Errors
    /// The first record that cannot be read.
    pub(crate) fn accounts(&self, workload: &WorkloadRef) -> Result<Accounts, Error> {
        self.check_readable(workload)?;
        let mut accounts = self.consolidated(workload)?;
        for month in self.months(workload) {
            let written = |record: &&SpendRecord| record.status.is_some();
            if let Some(record) = self.own(workload, month).filter(written) {
                accounts.insert(month, Arc::new(read(record)?));
            }
        }
        Ok(accounts)
    }
}

impl StoredSection {
    pub(super) fn account(&self) -> Result<Arc<Account>, Error> {
        let unreadable = |source: &FieldError| Error::Record {
            name: self.record_name.clone(),
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

/// The account of a workload in these consolidated records of one month; empty if they have none.
pub(super) fn in_sections(
    consolidated: &[SpendRecord],
    workload: &WorkloadRef,
    month: Month,
) -> Result<Arc<Account>, Error> {
    let mut records = StoredAccounts::default();
    for section in consolidated.iter().flat_map(sections) {
        records.add_section(&section);
    }
    let section = records.section(workload, month);
    section.map_or_else(|| Ok(Arc::new(Account::new(month))), StoredSection::account)
}

fn sections(record: &SpendRecord) -> Vec<StoredSection> {
    let Ok(month) = record.month() else {
        return Vec::new();
    };
    let section = |section: &bursar_api::spend::ConsolidatedAccount| StoredSection {
        workload: section.workload(&record.spec.namespace),
        month,
        precedence: section.precedence(),
        record_name: record.name_any(),
        time_zone: record.spec.time_zone.clone(),
        currency: record.spec.currency.clone(),
        account: section.to_account(month).map(Arc::new),
    };
    record.sections().iter().map(section).collect()
}

/// Consolidated records as they were last read: they are long, and hardly ever change.
#[derive(Default)]
pub(crate) struct ConsolidatedCache(Mutex<HashMap<String, CachedSections>>);

struct CachedSections {
    version: Option<String>,
    sections: Arc<[StoredSection]>,
}

impl ConsolidatedCache {
    fn sections(&self, record: &SpendRecord) -> Arc<[StoredSection]> {
        let (name, version) = (record.name_any(), record.resource_version());
        if let Some(read) = lock(&self.0).get(&name)
            && read.version == version
        {
            return Arc::clone(&read.sections);
        }
        let sections: Arc<[StoredSection]> = sections(record).into();
        let read = CachedSections {
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
