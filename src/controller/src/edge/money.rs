//! Prices, records, corrections, and the accounts that changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::model::Key;
use bursar_core::model::event::Event;
use jiff::Timestamp;

use super::{Batch, CURRENCY_PERIOD, Edge, Observed};
use crate::cache::{CachedKind, cached};
use crate::context::Context;
use crate::corrections;
use crate::object_key::ObjectKey;

impl Edge {
    /// Makes the account of a record known that the ledger has not synced yet.
    pub(super) fn observe_record(&mut self, batch: &mut Batch<'_>, key: &Key) -> bool {
        let again = batch.now.saturating_add(CURRENCY_PERIOD);
        let again = again.unwrap_or(batch.now);
        let look = self.look_at_currency.unwrap_or(again);
        self.look_at_currency = Some(look.min(again));
        let record = cached(&batch.context.stores.records, key);
        let of_name = || WorkloadRef::from_record_name(&key.name).map(|(account, _)| account);
        let account = record
            .as_ref()
            .map(|record| record.workload())
            .or_else(of_name);
        let is_kept = |kind| !matches!(kind, WorkloadKind::Folded | WorkloadKind::Node);
        if let Some(account) = account.filter(|account| is_kept(account.kind)) {
            self.load_account(batch, account);
        }
        record.is_some()
    }

    pub(super) fn observe_correction(&mut self, batch: &mut Batch<'_>, key: &Key) -> bool {
        let object = cached(&batch.context.stores.corrections, key);
        let namespace = object.as_ref().map(|object| object.spec.namespace.clone());
        let former = match &namespace {
            Some(namespace) => self.corrections.insert(key.clone(), namespace.clone()),
            None => self.corrections.remove(key),
        };
        let namespaces: BTreeSet<String> = namespace.into_iter().chain(former).collect();
        for namespace in namespaces {
            self.observe_corrections(batch.context, &namespace, batch.now, &mut batch.observed);
        }
        object.is_some()
    }

    pub(super) fn observe_prices(&mut self, batch: &mut Batch<'_>) {
        let (context, now) = (batch.context, batch.now);
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let next = self.prices.as_ref().and_then(|prices| prices.next);
        if self.prices.is_some() && !is_due(next) && !is_due(self.look_at_currency) {
            return;
        }
        if is_due(self.look_at_currency) {
            // the accounts of the next month may be kept in another currency
            let month = Month::containing(now, &context.zone).bounds(&context.zone);
            self.look_at_currency = Some(month.end);
        }
        let prices = context.prices(now);
        let known = self.prices.replace(Arc::clone(&prices));
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &prices)) {
            let catalog = Arc::new(prices.lists.clone());
            batch.push(Event::Prices(catalog));
        }
        let namespaces: BTreeSet<String> = self.corrections.values().cloned().collect();
        for namespace in namespaces {
            self.observe_corrections(context, &namespace, now, &mut batch.observed);
        }
    }

    pub(super) fn observe_corrections(
        &self,
        context: &Context,
        namespace: &str,
        now: Timestamp,
        observed: &mut Observed,
    ) {
        let prices = context.prices(now);
        let stores = &context.stores;
        let currency = &prices.lists.currency;
        let accepted =
            corrections::accepted(&stores.corrections, &stores.records, currency, namespace);
        let subjects = [
            (
                CachedKind::InferenceDeployment,
                ObjectKey::Service as fn(Key) -> ObjectKey,
            ),
            (CachedKind::TrainingJob, ObjectKey::Job),
        ];
        for (kind, subject) in subjects {
            let known = self.known.get(&kind).into_iter().flatten();
            let here = known.filter(|key| *key.namespace == *namespace);
            observed.statuses.extend(here.cloned().map(subject));
        }
        observed
            .events
            .push(Event::Corrections(namespace.into(), accepted));
    }

    pub(super) fn observe_accounts(&mut self, batch: &mut Batch<'_>) {
        let (context, now) = (batch.context, batch.now);
        let due = self.accounts.due(now);
        self.changed_accounts.extend(due);
        let Some(prices) = self.prices.clone() else {
            return;
        };
        let currency = &prices.lists.currency;
        for account in std::mem::take(&mut self.changed_accounts) {
            let event = self.accounts.observe(context, currency, &account, now);
            batch.push(event);
            batch.observed.statuses.extend(ObjectKey::of(&account));
            // whose charge has devices that several use goes on with them
            let view = context.ledger.last(&account);
            for (pod, is_charged) in self.accounts.note_open(&account, view.as_deref()) {
                batch.claims.set_charged(&context.stores, &pod, is_charged);
            }
        }
    }
}
