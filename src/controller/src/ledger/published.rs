//! What decisions read of the ledger: each account as it was last synced, whether its records hold
//! that, and what a namespace has spent.
//!
//! Nobody waits here. A sync publishes an account as soon as it knows what will be written, so that
//! what cannot be written counts all the same.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::Month;
use bursar_core::ledger::{Charge, Uid};
use bursar_core::pricing::is_gpu_driver;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use super::accounts::{self, Accounts};
use super::charge_holders::ChargeHolders;
use crate::gpu_allocation::{ChargedDevices, charged_devices};
use crate::lock::lock;

/// How long the first pod of a workload waits for the workload's record.
const RECORD_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// An account that cannot be written for so long is in doubt.
const DOUBT_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Why the records do not hold an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// A record cannot be read: what the workload costs is not known.
    Unreadable(String),
    /// A call fails: the account is as this process knows it.
    Unwritten {
        /// When the first of the calls failed.
        since: Timestamp,
        /// The last failure.
        why: String,
    },
}

/// An account as it was last synced, with what is not on record yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccountView {
    /// The accounts by month; none while a record cannot be read.
    pub(crate) accounts: Accounts,
    /// Why the records do not hold them.
    pub(crate) doubt: Option<Doubt>,
    /// Whether the workload has a record.
    pub(crate) is_recorded: bool,
    /// The month until which open charges are carried forward.
    pub(super) carried_to: Month,
    /// The currency of the prices that the accounts were last priced by.
    pub(super) currency: String,
}

impl AccountView {
    /// Why what the account says is not known, or not certain enough to start something new.
    pub(crate) fn doubt(&self, now: Timestamp) -> Option<String> {
        match self.doubt.as_ref()? {
            Doubt::Unreadable(why) => Some(why.clone()),
            Doubt::Unwritten { since, why } => {
                (now.duration_since(*since) >= DOUBT_AFTER).then(|| {
                    let since = bursar_core::calendar::whole_second(*since);
                    format!("its cost has not been on record since {since}: {why}")
                })
            }
        }
    }

    /// When an account that cannot be written becomes doubtful.
    pub(crate) fn doubtful_from(&self) -> Option<Timestamp> {
        match self.doubt.as_ref()? {
            Doubt::Unreadable(_) => None,
            Doubt::Unwritten { since, .. } => since.checked_add(DOUBT_AFTER).ok(),
        }
    }

    /// Whether all records can be read.
    pub(crate) fn is_readable(&self) -> bool {
        !matches!(self.doubt, Some(Doubt::Unreadable(_)))
    }

    /// The pods whose charges are open, and the devices that these have, by the latest month.
    pub(crate) fn charged_devices(&self) -> impl Iterator<Item = (Uid, BTreeMap<String, u32>)> {
        let accounts = self.accounts.values();
        let open = accounts.flat_map(|account| account.open_charges());
        open.map(|(uid, charge)| (uid.clone(), charged_devices(charge.attributes().units())))
    }

    /// The pods whose open charges have devices.
    pub(crate) fn pods_with_devices(&self) -> impl Iterator<Item = &str> {
        let accounts = self.accounts.values();
        let open = accounts.flat_map(|account| account.open_charges().values());
        let with_devices = open.filter(|charge| {
            let mut units = charge.attributes().units();
            units.any(|(name, _)| is_gpu_driver(name))
        });
        with_devices.map(|charge| charge.pod())
    }

    /// Why the account is not on record, if it can be read.
    pub(super) fn unwritten(&self) -> Option<&Doubt> {
        let doubt = self.doubt.as_ref();
        doubt.filter(|doubt| matches!(doubt, Doubt::Unwritten { .. }))
    }

    /// Whether a decision at `now` could differ: the usage of engines changes all the time.
    fn differs(&self, other: &Self, now: Timestamp) -> bool {
        let pairs = || self.accounts.values().zip(other.accounts.values());
        // how long it has lasted decides whether it is in doubt
        self.unwritten().is_some() && self.doubt(now).is_some()
            || self.doubt(now) != other.doubt(now)
            || self.is_recorded != other.is_recorded
            || !self.accounts.keys().eq(other.accounts.keys())
            || !pairs().all(|(one, other)| one.equals_but_for_usage(other))
    }

    /// Carries open charges forward into the months that have begun since the last sync.
    fn carry_forward(&mut self, present: Month, currency: &str, zone: &TimeZone) {
        let mut open: BTreeMap<Uid, (Month, Arc<Charge>)> = BTreeMap::new();
        for (month, account) in &self.accounts {
            for (uid, charge) in account.open_charges() {
                open.insert(uid.clone(), (*month, Arc::clone(charge)));
            }
        }
        for (month, charge) in open.into_values() {
            // rates of two currencies never meet
            let charge = match self.currency == currency {
                true => charge,
                false => Arc::new(Arc::unwrap_or_clone(charge).unpriced()),
            };
            accounts::carry_forward(&mut self.accounts, month, present, &charge, zone);
        }
        self.carried_to = present;
    }
}

/// The accounts that decisions read.
pub(crate) struct PublishedAccounts {
    state: Mutex<State>,
    changed: Notify,
    unwritten: Gauge,
    zone: TimeZone,
}

#[derive(Default)]
struct State {
    namespaces: BTreeMap<String, Namespace>,
    /// Accounts that changed and that nobody was told about yet.
    changes: BTreeSet<WorkloadRef>,
    /// Workloads whose first pod waits for their record, and since when.
    starts: BTreeMap<WorkloadRef, Timestamp>,
}

#[derive(Default)]
struct Namespace {
    views: BTreeMap<WorkloadRef, Arc<AccountView>>,
}

impl PublishedAccounts {
    /// No account yet. `unwritten` shows how many are not on record.
    pub(crate) fn new(zone: TimeZone, unwritten: Gauge) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            unwritten,
            zone,
        }
    }

    /// The account; `load` reads it from the records if it was not synced yet. Open charges are
    /// carried forward into the present month. `currency` is that of the prices.
    pub(crate) fn view(
        &self,
        account: &WorkloadRef,
        currency: &str,
        now: Timestamp,
        load: impl FnOnce() -> AccountView,
    ) -> Arc<AccountView> {
        let mut state = lock(&self.state);
        let namespace = state.namespace(&account.namespace);
        let present = Month::containing(now, &self.zone);
        let known = namespace.views.get(account);
        if let Some(view) = known.filter(|view| view.carried_to >= present) {
            return Arc::clone(view);
        }
        let mut view = known.map_or_else(load, |view| (**view).clone());
        view.carry_forward(present, currency, &self.zone);
        let view = Arc::new(view);
        namespace.views.insert(account.clone(), Arc::clone(&view));
        view
    }

    /// The account, if it was synced or asked for before, carried forward into the present month.
    pub(crate) fn current(
        &self,
        account: &WorkloadRef,
        currency: &str,
        now: Timestamp,
    ) -> Option<Arc<AccountView>> {
        let last = self.last(account)?;
        Some(self.view(account, currency, now, || (*last).clone()))
    }

    /// The account, if it was synced or asked for before.
    pub(crate) fn last(&self, account: &WorkloadRef) -> Option<Arc<AccountView>> {
        let state = lock(&self.state);
        let namespace = state.namespaces.get(&account.namespace)?;
        namespace.views.get(account).cloned()
    }

    /// Publishes an account.
    pub(super) fn publish(&self, account: &WorkloadRef, view: AccountView, now: Timestamp) {
        let mut state = lock(&self.state);
        let namespace = state.namespace(&account.namespace);
        let old = namespace.views.get(account).cloned();
        let differs = old.as_ref().is_none_or(|old| view.differs(old, now));
        if !differs && old.as_deref() == Some(&view) {
            return;
        }
        let was_unwritten = old.is_some_and(|old| old.unwritten().is_some());
        self.count(was_unwritten, view.unwritten().is_some());
        if view.is_recorded {
            state.starts.remove(account);
        }
        let view = Arc::new(view);
        let namespace = state.namespace(&account.namespace);
        namespace.views.insert(account.clone(), view);
        if differs {
            state.changes.insert(account.clone());
            self.changed.notify_one();
        }
    }

    /// Forgets an account that has no workload, no pod and no record any more.
    pub(super) fn forget(&self, account: &WorkloadRef) {
        let mut state = lock(&self.state);
        state.starts.remove(account);
        let Entry::Occupied(mut entry) = state.namespaces.entry(account.namespace.clone()) else {
            return;
        };
        let namespace = entry.get_mut();
        let Some(view) = namespace.views.remove(account) else {
            return;
        };
        if namespace.views.is_empty() {
            entry.remove();
        }
        self.count(view.unwritten().is_some(), false);
        state.changes.insert(account.clone());
        self.changed.notify_one();
    }

    /// The accounts that changed and that nobody was told about yet.
    pub(crate) fn take_changes(&self) -> BTreeSet<WorkloadRef> {
        std::mem::take(&mut lock(&self.state).changes)
    }

    /// Waits until accounts have changed, and returns which: each once, however often it changed.
    /// For one reader at a time.
    pub(crate) async fn changes(&self) -> BTreeSet<WorkloadRef> {
        loop {
            let changes = self.take_changes();
            if !changes.is_empty() {
                return changes;
            }
            self.changed.notified().await;
        }
    }

    /// All accounts, by namespace.
    pub(crate) fn by_namespace(&self) -> BTreeMap<String, Vec<(WorkloadRef, Arc<AccountView>)>> {
        let state = lock(&self.state);
        let namespaces = state.namespaces.iter();
        let views = |namespace: &Namespace| {
            let views = namespace.views.iter();
            views
                .map(|(account, view)| (account.clone(), Arc::clone(view)))
                .collect()
        };
        namespaces
            .map(|(name, namespace)| (name.clone(), views(namespace)))
            .collect()
    }

    /// The pods of a namespace whose charges are open, and the devices that these have.
    pub(crate) fn open_charges(&self, namespace: &str) -> ChargedDevices {
        let state = lock(&self.state);
        let views = state.namespaces.get(namespace).into_iter();
        let views = views.flat_map(|namespace| namespace.views.values());
        views.flat_map(|view| view.charged_devices()).collect()
    }

    /// The accounts of each pod of a namespace whose charge is open, or settled and not forgotten.
    pub(super) fn note_holders(&self, namespace: &str, holders: &mut ChargeHolders) {
        let state = lock(&self.state);
        let views = state.namespaces.get(namespace).into_iter();
        for (workload, view) in views.flat_map(|namespace| &namespace.views) {
            for account in view.accounts.values() {
                for (uid, charge) in account.open_charges() {
                    holders.note(uid, workload, charge.posted_until().is_some());
                }
                for uid in account.settling() {
                    holders.note(uid, workload, true);
                }
            }
        }
    }

    /// Until when the first pod of a workload has to wait for the workload's record; `None` if it
    /// may start. It waits for nobody else's record, and not for ever: what cannot be written is in
    /// doubt, and is limited by that.
    pub(crate) fn start_waits_until(
        &self,
        account: &WorkloadRef,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let mut state = lock(&self.state);
        let namespace = state.namespaces.get(&account.namespace);
        let view = namespace.and_then(|namespace| namespace.views.get(account));
        if view.is_some_and(|view| view.is_recorded) {
            return None;
        }
        let since = state.starts.entry(account.clone()).or_insert(now);
        // the clock may have been set back
        *since = (*since).min(now);
        let until = since.checked_add(RECORD_WAIT).unwrap_or(Timestamp::MAX);
        (now < until).then_some(until)
    }

    fn count(&self, was_unwritten: bool, is_unwritten: bool) {
        match (was_unwritten, is_unwritten) {
            (false, true) => drop(self.unwritten.inc()),
            (true, false) => drop(self.unwritten.dec()),
            _ => {}
        }
    }
}

#[cfg(test)]
impl PublishedAccounts {
    /// All accounts of a namespace.
    pub(crate) fn views(&self, namespace: &str) -> Vec<Arc<AccountView>> {
        let state = lock(&self.state);
        let namespace = state.namespaces.get(namespace).into_iter();
        namespace
            .flat_map(|namespace| namespace.views.values().cloned())
            .collect()
    }
}

impl State {
    fn namespace(&mut self, name: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) {
            self.namespaces
                .insert(name.to_owned(), Namespace::default());
        }
        self.namespaces.entry(name.to_owned()).or_default()
    }
}
