//! What Prometheus is shown of the money of namespaces: their workloads and corrections.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::Month;
use bursar_core::correction;
use bursar_core::money::Money;
use jiff::Timestamp;

use crate::cluster_bill;
use crate::context::Context;
use crate::corrections;
use crate::ledger::{self, AccountView};
use crate::metrics::{self, ObjectLabels, gauge_value};

/// How often the gauges of namespaces that spend money are computed anew.
const PACE: Duration = Duration::from_secs(10);

/// The accounts of a namespace.
type Views = Vec<(WorkloadRef, Arc<AccountView>)>;

/// Keeps the gauges up to date, for as long as the process leads.
pub(crate) async fn run(context: &Context) {
    let mut shown = ShownSpend::default();
    loop {
        shown.refresh(context, Timestamp::now());
        tokio::time::sleep(PACE).await;
    }
}

/// The accounts that the gauges of each namespace were computed from.
#[derive(Default)]
pub(crate) struct ShownSpend(HashMap<String, (Month, Views)>);

impl ShownSpend {
    /// Computes the gauges anew of namespaces whose accounts have changed or grow.
    pub(crate) fn refresh(&mut self, context: &Context, now: Timestamp) {
        let month = Month::containing(now, &context.zone);
        let all = context.ledger.by_namespace();
        let corrections = context.stores.corrections.state();
        let corrected = corrections
            .iter()
            .map(|object| object.spec.namespace.as_str());
        let corrected: BTreeSet<&str> = corrected.collect();
        let known = self.0.keys().map(String::as_str);
        let namespaces = all
            .keys()
            .map(String::as_str)
            .chain(corrected.iter().copied());
        let namespaces: BTreeSet<String> = namespaces.chain(known).map(str::to_owned).collect();
        for namespace in namespaces {
            let views = all.get(&namespace).cloned().unwrap_or_default();
            let is_corrected = corrected.contains(namespace.as_str());
            let is_shown = self.0.get(&namespace).is_some_and(|(of, shown)| {
                *of == month && is_same(shown, &views) && !is_growing(&views, month)
            });
            if is_shown && !is_corrected {
                continue;
            }
            let gauges = gauges(context, &namespace, &views, now);
            context.metrics.namespaces.show(&namespace, gauges);
            match views.is_empty() && !is_corrected {
                true => drop(self.0.remove(&namespace)),
                false => drop(self.0.insert(namespace, (month, views))),
            }
        }
    }
}

fn is_same(shown: &Views, views: &Views) -> bool {
    let mut pairs = shown.iter().zip(views);
    shown.len() == views.len() && pairs.all(|((_, one), (_, other))| Arc::ptr_eq(one, other))
}

fn is_growing(views: &Views, month: Month) -> bool {
    let mut accounts = views
        .iter()
        .filter_map(|(_, view)| view.accounts.get(&month));
    accounts.any(|account| !account.open_charges().is_empty())
}

fn gauges(
    context: &Context,
    namespace: &str,
    views: &Views,
    now: Timestamp,
) -> Vec<(&'static str, ObjectLabels, Option<f64>)> {
    let month = Month::containing(now, &context.zone);
    let mut gauges = Vec::new();
    for (workload, view) in views {
        let accounts = &view.accounts;
        if !view.is_readable() {
            continue;
        }
        let object = || ObjectLabels::from(workload);
        let spent = ledger::sum(accounts, month.bounds(&context.zone), now, &context.zone);
        let cost = spent.cost;
        for (name, amount) in [
            (metrics::SPEND_MONTH, cost.total()),
            (metrics::COMPUTE_MONTH, cost.compute),
            (metrics::STORAGE_MONTH, cost.storage),
            (metrics::POWER_MONTH, cost.power),
            (metrics::WASTE_MONTH, spent.waste()),
            (metrics::UNATTRIBUTED_MONTH, spent.unattributed),
            (metrics::SAVED_MONTH, spent.saved),
        ] {
            gauges.push((name, object(), Some(gauge_value(amount))));
        }
        gauges.push((
            metrics::OVERHEAD_MONTH,
            object(),
            cluster_bill::overhead(context, workload, now).map(gauge_value),
        ));
        let of = |amount: i64, unit: f64| Some(amount as f64 / unit);
        gauges.push((
            metrics::GPU_HOURS_MONTH,
            object(),
            of(spent.gpu_seconds, 3600.0),
        ));
        gauges.push((
            metrics::CARBON_MONTH,
            object(),
            of(spent.carbon_mg, 1_000_000.0),
        ));
        gauges.push((
            metrics::SPEND_RATE,
            object(),
            ledger::rate(accounts, month).map(gauge_value),
        ));
    }
    let bounds = month.bounds(&context.zone);
    let currency = &context.prices(now).lists.currency;
    let stores = &context.stores;
    let corrections =
        corrections::accepted(&stores.corrections, &stores.records, currency, namespace);
    let corrections = correction::sum(&corrections, bounds, now, &context.zone);
    if corrections != Money::ZERO {
        let namespace = ObjectLabels {
            namespace: namespace.to_owned(),
            kind: "Namespace",
            name: namespace.to_owned(),
        };
        let amount = Some(gauge_value(corrections));
        gauges.push((metrics::CORRECTIONS_MONTH, namespace, amount));
    }
    gauges
}
