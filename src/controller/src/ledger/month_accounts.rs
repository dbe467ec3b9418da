//! One workload's records with the accounts that will be written to them, a page for each month.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bursar_api::SpendRecord;
use bursar_api::spend::{SpendRecordStatus, WorkloadRef};
use bursar_core::calendar::{Interval, Month};
use bursar_core::ledger::Account;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use kube::api::{Api, PostParams};

use super::{Error, Ledger, month_close, stored_accounts};
use crate::api_calls::{ApiError, with_timeout};

/// What replicas did is written along with everything else, and by itself this often.
const USAGE_WRITE_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// One record and the account that will be written to it.
pub(super) struct MonthAccount {
    /// As it is, or as it will be made.
    pub(super) record: SpendRecord,
    pub(super) is_made: bool,
    /// A folded record has the account until this one is written.
    is_folded: bool,
    pub(super) before: Account,
    pub(super) account: Account,
}

pub(super) type MonthAccounts = BTreeMap<Month, MonthAccount>;

impl Ledger<'_> {
    /// The months that have a record of the workload's own, and the present one.
    pub(super) fn load_months(&self, workload: &WorkloadRef) -> Result<MonthAccounts, Error> {
        let mut pages = MonthAccounts::new();
        let mut months: BTreeSet<Month> = self.records.months(workload).collect();
        months.insert(Month::containing(self.now, self.zone));
        for month in months {
            pages.insert(month, self.load_month(workload, month)?);
        }
        Ok(pages)
    }

    /// Adds a month that is not there yet.
    pub(super) fn ensure_month(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        month: Month,
    ) -> Result<(), Error> {
        if let Entry::Vacant(entry) = pages.entry(month) {
            entry.insert(self.load_month(workload, month)?);
        }
        Ok(())
    }

    /// Begins from the workload's own record. Where there is none, or nothing was written to it yet, from what is folded of the month:
    /// its own record will count instead of that.
    fn load_month(&self, workload: &WorkloadRef, month: Month) -> Result<MonthAccount, Error> {
        let cached = self.records.own(workload, month).cloned();
        let record = self.written.newer(cached, &workload.record_name(month));
        let written = record.as_ref().filter(|record| record.status.is_some());
        let section = self.records.section(workload, month);
        let section = section.filter(|_| written.is_none());
        let account = match (written, section) {
            (Some(record), _) => stored_accounts::read(record)?,
            (None, Some(section)) => (*section.account()?).clone(),
            (None, None) => Account::new(month),
        };
        let new = || {
            let zone = self.zone.iana_name().unwrap_or("UTC");
            let (zone, currency) = section
                .map_or((zone, self.prices.lists.currency.as_str()), |section| {
                    (&section.time_zone, &section.currency)
                });
            workload.record(month, zone, currency)
        };
        Ok(MonthAccount {
            is_made: record.is_some(),
            is_folded: section.is_some(),
            record: record.unwrap_or_else(new),
            before: account.clone(),
            account,
        })
    }

    /// True for a record in another currency than that of the prices.
    pub(super) fn is_foreign(&self, page: &MonthAccount) -> bool {
        page.record
            .is_in_other_currency(&self.prices.lists.currency)
    }

    /// Writes a page if it changed. True if it did.
    pub(super) async fn write(
        &self,
        workload: &WorkloadRef,
        month: Month,
        page: &mut MonthAccount,
    ) -> Result<bool, Error> {
        let name = workload.record_name(month);
        let changed = page.account != page.before;
        let only_use = || page.account.equals_but_for_usage(&page.before);
        let fresh =
            || self.now.duration_since(self.written.last(&name, self.now)) < USAGE_WRITE_INTERVAL;
        let is_there = page.is_made || page.is_folded;
        if is_there && (!changed || (fresh() && only_use())) {
            return Ok(false);
        }
        let api: Api<SpendRecord> = Api::all(self.client.clone());
        let params = PostParams::default();
        let mut record = page.record.clone();
        let currency = &self.prices.lists.currency;
        // made while no list was known: what is priced from now on is in this one
        let unnamed = record.spec.currency.is_empty() && !currency.is_empty();
        if unnamed {
            record.spec.currency.clone_from(currency);
        }
        if !page.is_made {
            record = with_timeout("create spendrecord", api.create(&params, &record)).await?;
            self.written.put(record.clone(), self.now);
        } else if unnamed {
            let call = api.replace(&name, &params, &record);
            record = with_timeout("replace spendrecord", call).await?;
            self.written.put(record.clone(), self.now);
        }
        if changed {
            if record.status.is_none() {
                self.confirm_begin(workload, month, &page.before).await?;
            }
            record.status = Some(SpendRecordStatus::from(&page.account));
            let replaced = with_timeout(
                "replace spendrecord status",
                api.replace_status(&name, &params, &record),
            )
            .await;
            record = replaced.inspect_err(|error| {
                // after a conflict it is still newer than what an old cache may show
                if matches!(error, ApiError::Gone { .. }) {
                    self.written.forget(&name);
                }
            })?;
            self.written.put(record, self.now);
        }
        Ok(changed)
    }

    /// With its first status a record counts instead of a section, so it must begin with what that holds. An old cache may not show that
    /// the month was folded, so a live read decides. It holds until the status is written: while a record is there that was never written
    /// to, none other of its name can be folded, and if this one is removed the write fails.
    async fn confirm_begin(
        &self,
        workload: &WorkloadRef,
        month: Month,
        begin: &Account,
    ) -> Result<(), Error> {
        let folded =
            month_close::list_consolidated(self.client, &workload.namespace, month).await?;
        if *stored_accounts::in_sections(&folded, workload, month)? == *begin {
            return Ok(());
        }
        Err(Error::Call(ApiError::Conflict {
            call: "replace spendrecord status",
        }))
    }
}

/// The months of a stay that still lack the pod's charge or its end: those before the first record that knows it are done.
pub(super) fn months_left(
    pages: &MonthAccounts,
    uid: &str,
    stay: Interval,
    zone: &TimeZone,
) -> Vec<Month> {
    let knows = |page: &MonthAccount| page.account.contains(uid);
    let known = pages.iter().find(|(_, page)| knows(page));
    stay.months(zone)
        .filter(|month| known.is_none_or(|(known, _)| month >= known))
        .collect()
}
