//! Brings one account up to date and publishes it.

use std::collections::BTreeMap;
use std::time::Duration;

use bursar_api::prices::EffectivePrices;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_core::calendar::Month;
use bursar_core::ledger::{EngineCounters, Uid};
use bursar_core::model::Key;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::accounts::Accounts;
use super::error::Error;
use super::inputs::NamespaceInputs;
use super::month_account::AccountStore;
use super::pod_lifetime::PodLifetimes;
use super::pods::{PodLedger, Workload};
use super::published::{AccountView, Doubt};
use super::queue::SyncResult;
use super::stored_accounts::StoredAccounts;
use crate::cache::cached;
use crate::context::Context;
use crate::lock::lock;

/// How often an account is synced although nothing happens: while it has pods or open charges, for
/// the usage of engines, measured watts, the hours of tariffs and the end of the day; while its
/// workload is at rest; and after its workload is gone.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(10);
const REST_INTERVAL: Duration = Duration::from_mins(5);
const DEPARTED_INTERVAL: Duration = Duration::from_hours(6);

impl AccountView {
    /// An account as its records have it.
    pub(crate) fn on_record(
        records: &StoredAccounts,
        account: &WorkloadRef,
        currency: &str,
        month: Month,
    ) -> Self {
        let (accounts, doubt) = match records.accounts(account) {
            Ok(accounts) => (accounts, None),
            Err(error) => (Accounts::new(), Some(Doubt::Unreadable(error.to_string()))),
        };
        Self {
            // charges that were open in an earlier month are not carried into this one yet
            carried_to: accounts.keys().next_back().copied().unwrap_or(month),
            accounts,
            doubt,
            is_recorded: records.contains(account),
            currency: currency.to_owned(),
        }
    }
}

/// One sync of one account.
pub(super) struct AccountSync<'a> {
    pub(super) context: &'a Context,
    pub(super) inputs: &'a NamespaceInputs,
    pub(super) account: &'a WorkloadRef,
    pub(super) now: Timestamp,
}

impl AccountSync<'_> {
    /// Brings the account's records up to date with its pods. What is published is right whether
    /// that succeeds or not.
    ///
    /// # Errors
    /// The first call that failed, or a record that cannot be read.
    pub(super) async fn run(&self) -> Result<SyncResult, Error> {
        let prices = self.context.prices(self.now);
        let (usage, pods) = (self.usage(), self.inputs.pods_of(self.account));
        let workload = self.workload(&pods);
        let ledger = self.ledger(&prices, &usage);
        let currency = &prices.lists.currency;
        let publish = |accounts| self.publish_unwritten(accounts, currency);
        match ledger.sync(&workload, &publish).await {
            Ok(accounts) => Ok(self.publish_synced(accounts, &workload, currency)),
            Err(error) => {
                self.publish_failed(&error, currency);
                Err(error)
            }
        }
    }

    /// Publishes the account by what the caches say, without a call.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(super) fn assume(&self) -> Result<(), Error> {
        let prices = self.context.prices(self.now);
        let (usage, pods) = (self.usage(), self.inputs.pods_of(self.account));
        let ledger = self.ledger(&prices, &usage);
        let accounts = ledger.assume(&self.workload(&pods))?;
        self.publish_unwritten(accounts, &prices.lists.currency);
        Ok(())
    }

    fn ledger<'l>(
        &'l self,
        prices: &'l EffectivePrices,
        usage: &'l BTreeMap<Uid, (EngineCounters, i64)>,
    ) -> PodLedger<'l> {
        let (context, inputs) = (self.context, self.inputs);
        PodLedger {
            lifetimes: PodLifetimes {
                store: AccountStore {
                    client: &context.client,
                    stored: &inputs.records,
                    write_cache: &context.written,
                    prices,
                    zone: &context.zone,
                    now: self.now,
                },
                nodes: &context.stores.nodes,
                allocations: &inputs.claims,
                sharing: &inputs.sharing,
                power: &context.measured,
                usage,
            },
            holders: &inputs.holders,
            tombstones: &context.tombstones,
            unreadable: &context.unreadable,
        }
    }

    fn workload<'w>(&'w self, pods: &'w [&'w Pod]) -> Workload<'w> {
        let (stores, unreadable) = (&self.context.stores, &self.context.unreadable);
        let (namespace, name) = (&self.account.namespace, self.account.name.as_str());
        let key = Key::new(namespace, name);
        let (exists, is_idle) = match self.account.kind {
            WorkloadKind::InferenceDeployment => {
                let service = cached(&stores.services, &key);
                let exists = service.as_ref().map_or_else(
                    || {
                        unreadable
                            .why::<InferenceDeployment>(namespace, name)
                            .is_some()
                    },
                    |service| service.metadata.deletion_timestamp.is_none(),
                );
                let service = service.filter(|_| exists);
                let status = service.as_ref().and_then(|service| service.status.as_ref());
                let is_idle = status.is_some_and(|status| status.desired_replicas == 0);
                (exists, is_idle)
            }
            WorkloadKind::TrainingJob => {
                let job = cached(&stores.jobs, &key);
                let exists = job.map_or_else(
                    || unreadable.why::<TrainingJob>(namespace, name).is_some(),
                    |job| job.metadata.deletion_timestamp.is_none(),
                );
                (exists, false)
            }
            WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => (false, false),
        };
        Workload {
            id: self.account,
            pods,
            exists,
            is_idle,
        }
    }

    /// What each replica has done by its own counters, and its idle seconds.
    fn usage(&self) -> BTreeMap<Uid, (EngineCounters, i64)> {
        let service = (self.account.namespace.clone(), self.account.name.clone());
        let readings = lock(&self.context.readings);
        let readings = readings
            .get(&service)
            .filter(|_| self.account.kind == WorkloadKind::InferenceDeployment);
        let done = readings.into_iter().flat_map(|readings| readings.done());
        done.map(|(uid, done, idle_seconds)| (uid.clone(), (done, idle_seconds)))
            .collect()
    }

    fn publish_synced(
        &self,
        accounts: Accounts,
        workload: &Workload<'_>,
        currency: &str,
    ) -> SyncResult {
        let has_record = self.inputs.records.contains(self.account);
        let is_there = workload.exists || !workload.pods.is_empty();
        let is_open = accounts
            .values()
            .any(|account| !account.open_charges().is_empty() || !account.settling().is_empty());
        if !has_record && !is_there && !is_open {
            self.context.ledger.forget(self.account);
            return SyncResult::Gone;
        }
        let view = AccountView {
            accounts,
            doubt: None,
            is_recorded: has_record || workload.exists,
            carried_to: self.month(),
            currency: currency.to_owned(),
        };
        self.context.ledger.publish(self.account, view, self.now);
        if is_open || !workload.pods.is_empty() {
            SyncResult::Synced(ACTIVE_INTERVAL)
        } else if workload.exists {
            // a new month has a record of each workload that is there
            let end = self.month().bounds(&self.context.zone).end;
            let left = end.duration_since(self.now).unsigned_abs();
            SyncResult::Synced(REST_INTERVAL.min(left))
        } else {
            SyncResult::Synced(DEPARTED_INTERVAL)
        }
    }

    fn publish_unwritten(&self, accounts: Accounts, currency: &str) {
        let last = self.context.ledger.last(self.account);
        let view = AccountView {
            accounts,
            doubt: last.as_ref().and_then(|last| last.unwritten().cloned()),
            is_recorded: self.is_recorded(last.as_deref()),
            carried_to: self.month(),
            currency: currency.to_owned(),
        };
        self.context.ledger.publish(self.account, view, self.now);
    }

    /// Says why the records do not hold what was published last.
    fn publish_failed(&self, error: &Error, currency: &str) {
        let last = self.context.ledger.last(self.account);
        let since = match last.as_ref().and_then(|last| last.doubt.as_ref()) {
            Some(Doubt::Unwritten { since, .. }) => *since,
            _ => self.now,
        };
        let is_recorded = self.is_recorded(last.as_deref());
        let on_record = || {
            let records = &self.inputs.records;
            AccountView::on_record(records, self.account, currency, self.month())
        };
        let last = last.map_or_else(on_record, |view| (*view).clone());
        let why = error.to_string();
        let view = match error {
            Error::Record { .. } | Error::Unreadable { .. } => AccountView {
                accounts: Accounts::new(),
                doubt: Some(Doubt::Unreadable(why)),
                ..last
            },
            Error::Call(_) | Error::Full { .. } => AccountView {
                doubt: Some(Doubt::Unwritten { since, why }),
                is_recorded,
                ..last
            },
        };
        self.context.ledger.publish(self.account, view, self.now);
    }

    fn is_recorded(&self, last: Option<&AccountView>) -> bool {
        self.inputs.records.contains(self.account) || last.is_some_and(|last| last.is_recorded)
    }

    fn month(&self) -> Month {
        Month::containing(self.now, &self.context.zone)
    }
}
