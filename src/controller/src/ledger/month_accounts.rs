//! The accounts of one workload by month, each with the SpendRecord that holds it.
//!
//! Every ledger works with them in the same way: it loads them, carries open charges forward into
//! the months that have begun, reprices, posts and settles charges, and writes what changed, the
//! earliest month first.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bursar_api::SpendRecord;
use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::{Interval, Month, midnight_before, whole_second};
use bursar_core::ledger::{Account, Charge, ChargeEnd, Uid};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::Api;

use super::accounts::Accounts;
use super::error::Error;
use super::month_account::{AccountStore, MonthAccount};
use crate::api_calls::{ApiError, with_timeout};

/// How long after its end a day is posted: by then it is known which pods ended in it.
const POST_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// The accounts of one workload, by month.
pub(super) struct MonthAccounts<'a> {
    store: AccountStore<'a>,
    workload: &'a WorkloadRef,
    pub(super) months: BTreeMap<Month, MonthAccount>,
    left_out: u32,
    /// There is no room for so many bytes.
    too_many_bytes: Option<usize>,
}

impl<'a> MonthAccounts<'a> {
    /// Loads the months that have a record of the workload's own, and the present one.
    pub(super) fn load(store: AccountStore<'a>, workload: &'a WorkloadRef) -> Result<Self, Error> {
        store.stored.check_readable(workload)?;
        let mut accounts = Self {
            store,
            workload,
            months: BTreeMap::new(),
            left_out: 0,
            too_many_bytes: None,
        };
        let stored: BTreeSet<Month> = store.stored.months(workload).collect();
        let present = accounts.present();
        for month in stored.into_iter().chain([present]) {
            accounts.ensure_month(month)?;
        }
        Ok(accounts)
    }

    /// The present month.
    pub(super) fn present(&self) -> Month {
        Month::containing(self.store.now, self.store.zone)
    }

    /// The workload whose accounts these are.
    pub(super) fn workload(&self) -> &'a WorkloadRef {
        self.workload
    }

    /// The accounting time zone.
    pub(super) fn zone(&self) -> &'a TimeZone {
        self.store.zone
    }

    /// The moment at which the accounts are brought up to date.
    pub(super) fn now(&self) -> Timestamp {
        self.store.now
    }

    /// Adds a month that is not there yet.
    pub(super) fn ensure_month(&mut self, month: Month) -> Result<(), Error> {
        if let Entry::Vacant(entry) = self.months.entry(month) {
            entry.insert(MonthAccount::load(&self.store, self.workload, month)?);
        }
        Ok(())
    }

    /// Adds the months of a lifetime that still lack the charge or its end.
    pub(super) fn ensure_months(&mut self, uid: &str, lifetime: Interval) -> Result<(), Error> {
        for month in self.months_left(uid, lifetime) {
            self.ensure_month(month)?;
        }
        Ok(())
    }

    /// The months of a lifetime that still lack the charge or its end. Charges are added to their
    /// months in order, so a month before the last one that contains the charge contains it too, or
    /// is complete. The complete ones need not come first: a month in another currency keeps a
    /// charge that never got a price there, while the months after it are posted to their ends.
    pub(super) fn months_left(&self, uid: &str, lifetime: Interval) -> Vec<Month> {
        let contains = |month: &MonthAccount| month.account.contains(uid);
        let last = self.months.iter().rfind(|(_, month)| contains(month));
        let lacks_end = |month: &Month| self.months.get(month).is_some_and(contains);
        lifetime
            .months(self.store.zone)
            .filter(|month| last.is_none_or(|(last, _)| month > last) || lacks_end(month))
            .collect()
    }

    /// Whether all these months have accounts for which `is` holds.
    pub(super) fn all(&self, months: &[Month], is: impl Fn(&Account) -> bool) -> bool {
        let holds = |month| {
            self.months
                .get(month)
                .is_some_and(|month| is(&month.account))
        };
        months.iter().all(holds)
    }

    /// Whether a charge can be settled in these months, one after the other. Its pod or node may be
    /// gone once the first is written, so the others must have the charge on record by then.
    pub(super) fn are_on_record(&self, months: &[Month], uid: &str) -> bool {
        let is_on_record = |month| {
            let month = self.months.get(month);
            month.is_some_and(|month| month.before.contains(uid))
        };
        months.len() < 2 || months.iter().all(is_on_record)
    }

    /// Whether an open charge can be settled in all its months until now.
    pub(super) fn can_settle(&self, charge: &Charge) -> bool {
        let months = self.months_left(charge.uid(), self.until_now(charge));
        self.are_on_record(&months, charge.uid())
    }

    /// Whether the records of those of these months that do not contain a pod have room for it: for
    /// an open charge, or for so many `bytes`. After the first pod for which there is none, none that
    /// needs as much is taken in by this run.
    pub(super) fn make_room(&mut self, months: &[Month], uid: &str, bytes: usize) -> bool {
        let mut lacking = self
            .months
            .iter_mut()
            .filter(|(month, account)| months.contains(month) && !account.account.contains(uid));
        let too_many = self.too_many_bytes.unwrap_or(usize::MAX);
        let fits = lacking.all(|(_, account)| bytes < too_many && account.make_room(bytes));
        if !fits {
            self.left_out += 1;
            self.too_many_bytes = Some(bytes.min(too_many));
        }
        fits
    }

    /// How many changes of amounts the open charges have that are not posted.
    pub(super) fn unposted_changes(&self) -> usize {
        let months = self.months.values();
        let open = months.flat_map(|month| month.account.open_charges().values());
        open.map(|charge| charge.previous_amounts().len()).sum()
    }

    /// How many pods the records had no room for.
    pub(super) fn left_out(&self) -> u32 {
        self.left_out
    }

    /// The open charges, each as its latest month has it; without its rates where that month is
    /// kept in another currency than that of the prices.
    pub(super) fn open_charges(&self) -> BTreeMap<Uid, Charge> {
        let mut all = BTreeMap::new();
        for month in self.months.values() {
            for (uid, charge) in month.account.open_charges() {
                let charge = month.without_foreign_rates(charge, &self.store);
                all.insert(uid.clone(), charge.into_owned());
            }
        }
        all
    }

    /// The open charge of this UID, as its latest month has it.
    pub(super) fn open_charge(&self, uid: &str) -> Option<&Charge> {
        let mut latest_first = self.months.values().rev();
        latest_first.find_map(|month| month.account.open_charge(uid))
    }

    /// Changes every open charge; `change` is told whether the prices count for it: a month's
    /// account keeps the currency in which it began.
    pub(super) fn update_open(&mut self, mut change: impl FnMut(&mut Charge, bool)) {
        for month in self.months.values_mut() {
            let priced = !month.is_foreign(&self.store);
            for charge in month.account.open_charges_mut() {
                change(charge, priced);
            }
        }
    }

    /// Prices open charges until now, and those of `ended` until their end.
    pub(super) fn reprice(&mut self, ended: &BTreeMap<&str, Timestamp>) {
        let (prices, now) = (self.store.prices, whole_second(self.store.now));
        self.update_open(|charge, priced| {
            if priced {
                let until = ended.get(charge.uid()).copied().unwrap_or(now);
                charge.reprice(&prices.lists, until);
            }
        });
    }

    /// Open charges with the months that have begun since and do not contain them, which are added.
    pub(super) fn missing_months(&mut self) -> Result<Vec<(Month, Charge)>, Error> {
        let mut missing = Vec::new();
        for (uid, charge) in self.open_charges() {
            for month in self.months_left(&uid, self.until_now(&charge)) {
                self.ensure_month(month)?;
                if !self.all(&[month], |account| account.contains(&uid)) {
                    missing.push((month, charge.clone()));
                }
            }
        }
        Ok(missing)
    }

    /// Carries these charges forward into these months.
    pub(super) fn carry_forward(&mut self, missing: impl IntoIterator<Item = (Month, Charge)>) {
        for (month, charge) in missing {
            if let Some(month) = self.months.get_mut(&month) {
                let charge = month.without_foreign_rates(&charge, &self.store);
                month.account.carry_forward(&charge, self.store.zone);
            }
        }
    }

    /// Carries these charges forward though nobody saw their pods or nodes live: they may be gone,
    /// and may have ended in either month. An old cache has charges open that were settled since,
    /// so the records must be what the API server has.
    pub(super) async fn carry_forward_unseen(
        &mut self,
        missing: Vec<(Month, Charge)>,
    ) -> Result<(), ApiError> {
        self.check_versions().await?;
        self.carry_forward(missing);
        Ok(())
    }

    /// Fails with a conflict unless the records with open charges are those of the API server.
    async fn check_versions(&self) -> Result<(), ApiError> {
        let api: Api<SpendRecord> = Api::all(self.store.client.clone());
        let has_open = |month: &&MonthAccount| !month.before.open_charges().is_empty();
        for month in self.months.values().filter(has_open) {
            let record = month.record();
            let call = "get spendrecord";
            let live = with_timeout(call, api.get_opt(&record.name_any())).await?;
            if live.and_then(|live| live.resource_version()) != record.resource_version() {
                return Err(ApiError::Conflict { call });
            }
        }
        Ok(())
    }

    /// Opens a charge in these months, or carries it forward into them.
    pub(super) fn open(&mut self, charge: &Charge, months: &[Month]) {
        self.carry_forward(months.iter().map(|month| (*month, charge.clone())));
    }

    /// The same for a charge whose end is known, before it is settled in all of them: an old cache has
    /// charges open that were settled since, so the records must be what the API server has.
    pub(super) async fn open_ended(
        &mut self,
        charge: &Charge,
        months: &[Month],
    ) -> Result<(), ApiError> {
        self.check_versions().await?;
        self.open(charge, months);
        Ok(())
    }

    /// Gives a charge up in all months, if nothing of it is posted in any. True if it was.
    pub(super) fn withdraw(&mut self, uid: &str) -> bool {
        let is_settled = |month: &MonthAccount| month.account.settling().contains(uid);
        let posted = |month: &MonthAccount| {
            let open = month.account.open_charge(uid);
            open.is_some_and(|charge| charge.posted_until().is_some())
        };
        let mut months = self.months.values();
        if months.any(|month| is_settled(month) || posted(month)) {
            return false;
        }
        let months = self.months.values_mut();
        let withdrawn = months.map(|month| month.account.withdraw(uid));
        withdrawn.fold(false, |any, withdrawn| any | withdrawn)
    }

    /// Settles a charge in these months.
    pub(super) fn settle_in(&mut self, months: &[Month], charge: &Charge, end: ChargeEnd) {
        for month in months {
            if let Some(month) = self.months.get_mut(month) {
                let charge = month.without_foreign_rates(charge, &self.store);
                month.account.settle(&charge, end, self.store.zone);
            }
        }
    }

    /// Settles an open charge in every month until now that still lacks its end.
    pub(super) fn settle(&mut self, charge: &Charge, end: ChargeEnd) {
        let months = self.months_left(charge.uid(), self.until_now(charge));
        self.settle_in(&months, charge, end);
    }

    /// The midnight until which days are posted now, and the charges that have days before it.
    pub(super) fn unposted_days(&self) -> (Timestamp, Vec<(Month, Uid)>) {
        let now = self.store.now;
        let over = now.checked_sub(POST_AFTER).unwrap_or(Timestamp::MIN);
        let until = midnight_before(over, self.store.zone);
        let unposted = self.months.iter().flat_map(|(month, at)| {
            let has_days = |charge: &&Arc<Charge>| {
                charge.node_lost_since().is_none() && charge.unposted_since() < until
            };
            // a later month must have the charge on record before this one drops it
            let is_carried = |charge: &&Arc<Charge>| {
                let mut later = self.months.range(month.next()..);
                until < month.bounds(self.store.zone).end
                    || later.any(|(_, later)| later.before.open_charge(charge.uid()).is_some())
            };
            let charges = at
                .account
                .open_charges()
                .values()
                .filter(has_days)
                .filter(is_carried);
            charges.map(|charge| (*month, charge.uid().to_owned()))
        });
        (until, unposted.collect())
    }

    /// Posts the days until `until` of those of these charges whose pods or nodes run.
    pub(super) fn post_days_until(
        &mut self,
        until: Timestamp,
        unposted: Vec<(Month, Uid)>,
        runs: impl Fn(&str) -> bool,
    ) {
        for (month, uid) in unposted.into_iter().filter(|(_, uid)| runs(uid)) {
            if let Some(month) = self.months.get_mut(&month) {
                month.account.post_days_until(&uid, until, self.store.zone);
            }
        }
    }

    /// The settled charges that an earlier run has written.
    pub(super) fn settled_on_record(&self) -> BTreeSet<Uid> {
        let settled = self
            .months
            .values()
            .flat_map(|month| month.before.settling());
        settled.cloned().collect()
    }

    /// The open charges that an earlier run has written.
    pub(super) fn open_on_record(&self) -> BTreeSet<Uid> {
        let open = self
            .months
            .values()
            .flat_map(|month| month.before.open_charges().keys());
        open.cloned().collect()
    }

    /// Forgets a settled charge in every month that has it settled on record.
    pub(super) fn forget_settled(&mut self, uid: &str) {
        for month in self.months.values_mut() {
            if month.before.settling().contains(uid) {
                month.account.forget_settled(uid);
            }
        }
    }

    /// Writes the months that changed, and creates the records that are not there. True if an
    /// account was written.
    pub(super) async fn write(&mut self) -> Result<bool, Error> {
        let mut wrote = false;
        for (month, account) in &mut self.months {
            wrote |= account.write(&self.store, self.workload, *month).await?;
        }
        Ok(wrote)
    }

    /// Writes the months that changed; creates no record without an account. True if an account was
    /// written.
    pub(super) async fn write_changed(&mut self) -> Result<bool, Error> {
        let mut wrote = false;
        for (month, account) in &mut self.months {
            if account.is_changed() {
                wrote |= account.write(&self.store, self.workload, *month).await?;
            }
        }
        Ok(wrote)
    }

    /// Whether an account differs from what is on record.
    pub(super) fn are_changed(&self) -> bool {
        self.months.values().any(MonthAccount::is_changed)
    }

    /// The accounts as they are now, written or not.
    pub(super) fn to_accounts(&self) -> Accounts {
        let months = self.months.iter();
        months
            .map(|(month, account)| (*month, Arc::new(account.account.clone())))
            .collect()
    }

    /// The accounts, once they are written.
    pub(super) fn into_accounts(self) -> Accounts {
        let months = self.months.into_iter();
        months
            .map(|(month, account)| (month, Arc::new(account.account)))
            .collect()
    }

    /// The months from `start` until now.
    pub(super) fn months_since(&self, start: Timestamp) -> Vec<Month> {
        let end = self.store.now;
        let lifetime = Interval { start, end };
        lifetime.months(self.store.zone).collect()
    }

    fn until_now(&self, charge: &Charge) -> Interval {
        Interval {
            start: charge.start(),
            end: self.store.now,
        }
    }
}
