//! Accounts as the model's values: what they have spent, as functions of time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::{Month, Period};
use bursar_core::ledger::SpendFunction;
use bursar_core::model::event::{Event, Name};
use bursar_core::model::{AccountSpend, Key};
use bursar_core::money::Money;
use jiff::{SignedDuration, Timestamp};

use crate::context::Context;
use crate::ledger::{AccountView, StoredAccounts};

/// So many accounts are computed anew for time alone between two decisions.
const SLICE: usize = 250;

/// The accounts that the model knows, and when they must be computed anew.
#[derive(Default)]
pub(super) struct AccountEdge {
    at: HashMap<WorkloadRef, Timestamp>,
    /// The pods whose open charges have devices, of the accounts that have some.
    with_devices: HashMap<WorkloadRef, BTreeSet<Key>>,
    again: BTreeSet<(Timestamp, WorkloadRef)>,
}

impl AccountEdge {
    /// The accounts that are to be computed anew at `now`: a few at a time.
    pub(super) fn due(&self, now: Timestamp) -> Vec<WorkloadRef> {
        let due = self.again.iter().take_while(|(at, _)| *at <= now);
        due.take(SLICE)
            .map(|(_, account)| account.clone())
            .collect()
    }

    /// When an account is to be computed anew.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.again.first().map(|(at, _)| *at)
    }

    /// Takes the pods of an account whose open charges have devices. Returns those that have some now
    /// and had none before, or the other way round, with whether they have some.
    pub(super) fn note_open(
        &mut self,
        account: &WorkloadRef,
        view: Option<&AccountView>,
    ) -> Vec<(Key, bool)> {
        let open = view.into_iter().flat_map(AccountView::pods_with_devices);
        let open: BTreeSet<Key> = open.map(|pod| Key::new(&account.namespace, pod)).collect();
        let known = match open.is_empty() {
            true => self.with_devices.remove(account),
            false => self.with_devices.insert(account.clone(), open.clone()),
        };
        let known = known.unwrap_or_default();
        let changed = known.symmetric_difference(&open);
        changed
            .map(|pod| (pod.clone(), open.contains(pod)))
            .collect()
    }

    /// What the model is told of an account.
    pub(super) fn observe(
        &mut self,
        context: &Context,
        currency: &str,
        account: &WorkloadRef,
        now: Timestamp,
    ) -> Event {
        if let Some(at) = self.at.remove(account) {
            self.again.remove(&(at, account.clone()));
        }
        let key = account_key(account);
        let Some(view) = context.ledger.current(account, currency, now) else {
            return Event::Account(key, None);
        };
        let (spend, again) = spend(context, account, &view, now);
        if let Some(at) = again {
            self.at.insert(account.clone(), at);
            self.again.insert((at, account.clone()));
        }
        Event::Account(key, Some(spend))
    }
}

/// The key of an account; no two accounts of a namespace have the same.
fn account_key(account: &WorkloadRef) -> Key {
    let name = format!("{}/{}", account.kind.as_str(), account.name);
    Key::new(&account.namespace, &name)
}

/// What budgets count of an account, and until when this holds.
fn spend(
    context: &Context,
    account: &WorkloadRef,
    view: &AccountView,
    now: Timestamp,
) -> (AccountSpend, Option<Timestamp>) {
    let zone = &context.zone;
    let mut again: Option<Timestamp> = None;
    let mut soonest = |at: Timestamp| again = again.into_iter().chain([at]).min();
    let month = Month::containing(now, zone);
    let present = view.accounts.get(&month);
    let open = present.map(|account| account.open_charges());
    let rate = |charge: &bursar_core::ledger::Charge| -> Option<Money> {
        charge.rate().map(|quote| quote.cost.total())
    };
    let rates: BTreeMap<Name, Option<Money>> = open
        .into_iter()
        .flatten()
        .map(|(uid, charge)| (uid.as_str().into(), rate(charge)))
        .collect();
    let mut spent = BTreeMap::new();
    for period in [Period::Daily, Period::Weekly, Period::Monthly] {
        let within = period.bounds(now, zone);
        let accounts = view.accounts.values().map(AsRef::as_ref);
        let function = SpendFunction::of_accounts(accounts, within, now, zone);
        if function.valid_until < Timestamp::MAX {
            let after = SignedDuration::from_nanos(1);
            soonest(function.valid_until.saturating_add(after).unwrap_or(now));
        }
        if !rates.is_empty() {
            soonest(within.end);
        }
        spent.insert(period, (within, function.spend));
    }
    let doubt = view.doubt(now);
    if doubt.is_none()
        && let Some(at) = view.doubtful_from()
    {
        soonest(at);
    }
    let spend = AccountSpend {
        spent,
        rates,
        doubt: doubt.map(|why| format!("{}: {why}", account.cost_owner().workload)),
    };
    (spend, again)
}

/// The accounts that the ledger has not synced yet are read from the records, once for all of a
/// namespace.
#[derive(Default)]
pub(super) struct AccountLoader(HashMap<String, StoredAccounts>);

impl AccountLoader {
    /// Makes an account known. Returns whether it was not known before.
    pub(super) fn load(
        &mut self,
        context: &Context,
        account: &WorkloadRef,
        now: Timestamp,
    ) -> bool {
        if context.ledger.last(account).is_some() {
            return false;
        }
        let prices = context.prices(now);
        let (currency, month) = (
            &prices.lists.currency,
            Month::containing(now, &context.zone),
        );
        let namespace = &account.namespace;
        let mut is_new = false;
        context.ledger.view(account, currency, now, || {
            let stored = self.0.entry(namespace.clone()).or_insert_with(|| {
                let records = context.records_in(namespace);
                let mut stored = StoredAccounts::load(records, &context.folded);
                stored.note_unreadable(&context.unreadable, namespace);
                stored
            });
            is_new = true;
            AccountView::on_record(stored, account, currency, month)
        });
        is_new
    }
}
