//! The account of one workload and month, with the SpendRecord that holds it. The record is written
//! at the version that was read.

use std::borrow::Cow;

use bursar_api::SpendRecord;
use bursar_api::prices::EffectivePrices;
use bursar_api::spend::{SpendRecordStatus, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::ledger::{Account, Charge};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Api, PostParams};

use super::error::Error;
use super::month_close;
use super::stored_accounts::{self, StoredAccounts};
use super::write_cache::WriteCache;
use crate::api_calls::{ApiError, with_timeout};

/// A record of fewer pods has room for one more, however long their names are.
const FEW_PODS: usize = 250;
/// The bytes that one more charge takes at most, and one more settled pod: names have 253 characters
/// at most, an owner's kind and name twice as many.
pub(super) const CHARGE_BYTES: usize = 2_000;
pub(super) const SETTLED_BYTES: usize = 40;
/// A record takes in no further pod above this size: etcd takes 1.5 MiB as one object, and the days
/// of the month still need some of it.
const MAX_BYTES: usize = 1_100_000;

/// How often engine usage is written by itself; anything else that changes is written at once, and
/// usage with it.
const USAGE_WRITE_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// What accounts are read from, written to and priced by, as of one moment.
#[derive(Clone, Copy)]
pub(crate) struct AccountStore<'a> {
    pub(crate) client: &'a Client,
    pub(crate) stored: &'a StoredAccounts,
    pub(crate) write_cache: &'a WriteCache,
    pub(crate) prices: &'a EffectivePrices,
    pub(crate) zone: &'a TimeZone,
    pub(crate) now: Timestamp,
}

/// One month's record and the account that will be written to it.
pub(super) struct MonthAccount {
    /// The record as it was read, or as it will be created.
    record: SpendRecord,
    is_created: bool,
    /// A consolidated record holds the account until this one is written.
    is_consolidated: bool,
    pub(super) before: Account,
    pub(super) account: Account,
    /// At most the bytes that the account takes on record, as far as they were counted.
    bytes: Option<usize>,
}

impl MonthAccount {
    /// Begins from the workload's own record. Where there is none, or nothing was written to it
    /// yet, it begins from the month's consolidated account: its own record will count instead of that.
    pub(super) fn load(
        store: &AccountStore<'_>,
        workload: &WorkloadRef,
        month: Month,
    ) -> Result<Self, Error> {
        let cached = store.stored.own(workload, month).cloned();
        let name = workload.record_name(month);
        let record = store.write_cache.newer(cached, &name);
        let written = record.as_ref().filter(|record| record.status.is_some());
        let section = store.stored.section(workload, month);
        let section = section.filter(|_| written.is_none());
        let account = match (written, section) {
            (Some(record), _) => stored_accounts::read(record)?,
            (None, Some(section)) => (*section.account()?).clone(),
            (None, None) => Account::new(month),
        };
        let new = || {
            let zone = store.zone.iana_name().unwrap_or("UTC");
            let currency = store.prices.lists.currency.as_str();
            let (zone, currency) = section.map_or((zone, currency), |section| {
                (&section.time_zone, &section.currency)
            });
            workload.record(month, zone, currency)
        };
        Ok(Self {
            is_created: record.is_some(),
            is_consolidated: section.is_some(),
            record: record.unwrap_or_else(new),
            before: account.clone(),
            account,
            bytes: None,
        })
    }

    /// Whether the record has room for a charge or a settled pod of so many bytes, which it takes in
    /// then.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        let pods = self.account.open_charges().len() + self.account.settling().len();
        if pods < FEW_PODS {
            return true;
        }
        let size = || serde_json::to_vec(&SpendRecordStatus::from(&self.account));
        let fits = |counted: &usize| counted + bytes <= MAX_BYTES;
        // what was counted before may have been too much
        let counted = self.bytes.filter(fits).or_else(|| Some(size().ok()?.len()));
        self.bytes = counted.filter(fits).map(|counted| counted + bytes);
        self.bytes.is_some()
    }

    /// The record as it was read, or as it will be created.
    pub(super) fn record(&self) -> &SpendRecord {
        &self.record
    }

    /// A charge that leaves or enters the account, without its rates where the record is in another
    /// currency than that of the prices: rates of two currencies never meet.
    pub(super) fn without_foreign_rates<'c>(
        &self,
        charge: &'c Charge,
        store: &AccountStore<'_>,
    ) -> Cow<'c, Charge> {
        match self.is_foreign(store) {
            true => Cow::Owned(charge.clone().unpriced()),
            false => Cow::Borrowed(charge),
        }
    }

    /// Whether the account differs from what is on record.
    pub(super) fn is_changed(&self) -> bool {
        self.account != self.before
    }

    /// True for a record in another currency than that of the prices.
    pub(super) fn is_foreign(&self, store: &AccountStore<'_>) -> bool {
        self.record
            .is_in_other_currency(&store.prices.lists.currency)
    }

    /// Writes the account if it changed, and creates its record if there is none. True if the
    /// account was written.
    pub(super) async fn write(
        &mut self,
        store: &AccountStore<'_>,
        workload: &WorkloadRef,
        month: Month,
    ) -> Result<bool, Error> {
        let name = workload.record_name(month);
        let (write_cache, now) = (store.write_cache, store.now);
        let changed = self.is_changed();
        let only_usage = || self.account.equals_but_for_usage(&self.before);
        let recent = || now.duration_since(write_cache.last(&name, now)) < USAGE_WRITE_INTERVAL;
        let is_there = self.is_created || self.is_consolidated;
        if is_there && (!changed || (recent() && only_usage())) {
            return Ok(false);
        }
        let api: Api<SpendRecord> = Api::all(store.client.clone());
        let params = PostParams::default();
        let mut record = self.record.clone();
        let currency = &store.prices.lists.currency;
        // created while no list was known: what is priced from now on is in this currency
        let unnamed = record.spec.currency.is_empty() && !currency.is_empty();
        if unnamed {
            record.spec.currency.clone_from(currency);
        }
        if !self.is_created {
            record = with_timeout("create spendrecord", api.create(&params, &record)).await?;
            write_cache.put(record.clone(), now);
        } else if unnamed {
            let replace = api.replace(&name, &params, &record);
            record = with_timeout("replace spendrecord", replace).await?;
            write_cache.put(record.clone(), now);
        }
        if changed {
            if record.status.is_none() {
                self.confirm_begin(store, workload, month).await?;
            }
            record.status = Some(SpendRecordStatus::from(&self.account));
            let replace = api.replace_status(&name, &params, &record);
            let replaced = with_timeout("replace spendrecord status", replace).await;
            record = replaced.inspect_err(|error| {
                // after a conflict it is still newer than what an old cache may show
                if matches!(error, ApiError::Gone { .. }) {
                    write_cache.forget(&name);
                }
            })?;
            write_cache.put(record, now);
        }
        Ok(changed)
    }

    /// With its first status a record counts instead of a consolidated account, so it must begin
    /// with what that holds. An old cache may not show that the month was consolidated, so a live
    /// read decides. The answer holds until the status is written: while a record is there that was
    /// never written to, no other of its name can be consolidated, and if this one is removed the
    /// write fails.
    async fn confirm_begin(
        &self,
        store: &AccountStore<'_>,
        workload: &WorkloadRef,
        month: Month,
    ) -> Result<(), Error> {
        let consolidated =
            month_close::list_consolidated(store.client, &workload.namespace, month).await?;
        if *stored_accounts::in_sections(&consolidated, workload, month)? == self.before {
            return Ok(());
        }
        Err(Error::Call(ApiError::Conflict {
            call: "replace spendrecord status",
        }))
    }
}
