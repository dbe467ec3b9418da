//! The whole cluster's cost in a month: each workload's share of the overheads, the cost of nodes,
//! and the idle part of that.

use std::collections::BTreeMap;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::quantities::FieldError;
use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::Month;
use bursar_core::cluster_bill::{ClusterBill, CostSource};
use bursar_core::cost_report::{self, CostOwner};
use bursar_core::ledger::{Account, DailyCost};
use bursar_core::money::Money;
use jiff::Timestamp;

use crate::context::Context;
use crate::lock::lock;
use crate::metrics::{self, HardwareLabels, gauge_value};

/// How often the bill is computed anew, from the caches alone.
const PACE: Duration = Duration::from_secs(120);

/// Keeps shares and gauges up to date, for as long as the process leads.
pub(crate) async fn run(context: &Context) {
    loop {
        tokio::time::sleep(PACE).await;
        refresh(context, Timestamp::now());
    }
}

/// Computes shares and gauges as of `now`. They stay as they are while a record cannot be read: all
/// accounts share overheads.
pub(crate) fn refresh(context: &Context, now: Timestamp) {
    let month = Month::containing(now, &context.zone);
    let records = context.stores.records.state();
    let of_month = |record: &&SpendRecord| record.spec.month == month.to_string();
    let read = |record: &SpendRecord| {
        let account = record.to_account()?;
        Ok((record.workload(), account))
    };
    let records = records.iter().map(AsRef::as_ref);
    let accounts: Result<Vec<_>, FieldError> = records.filter(of_month).map(read).collect();
    let accounts = match accounts {
        Ok(accounts) => accounts,
        Err(error) => {
            tracing::warn!(%error, "a SpendRecord cannot be read: overheads are not shared anew");
            return;
        }
    };
    let shares = shares(context, &accounts, month, now);
    *lock(&context.shares) = Some((month, shares));
    show_nodes(context, &accounts, now);
}

/// A workload's share of this month's overheads; `None` where there are none, or while they are not
/// known.
pub(crate) fn overhead(context: &Context, workload: &WorkloadRef, now: Timestamp) -> Option<Money> {
    let shares = lock(&context.shares);
    let (month, shares) = shares.as_ref()?;
    let current = *month == Month::containing(now, &context.zone);
    shares
        .get(&workload.cost_owner())
        .copied()
        .filter(|_| current)
}

fn shares(
    context: &Context,
    accounts: &[(WorkloadRef, Account)],
    month: Month,
    now: Timestamp,
) -> BTreeMap<CostOwner, Money> {
    let prices = context.prices(now);
    let holders: Vec<(CostOwner, &Account)> = accounts
        .iter()
        .filter(|(workload, _)| workload.kind.cost_source() != CostSource::Nodes)
        .map(|(workload, account)| (workload.cost_owner(), account))
        .collect();
    let accounts: Vec<_> = holders
        .iter()
        .map(|(holder, account)| (holder, *account))
        .collect();
    let overheads = prices.lists.overheads(now);
    let mut shares: BTreeMap<CostOwner, Money> = BTreeMap::new();
    for entry in cost_report::overhead_entries(&accounts, &overheads, month, now, &context.zone) {
        *shares.entry(entry.owner.clone()).or_default() += entry.cost.cost.labour;
    }
    shares
}

/// Shows the cost of nodes by kind of GPU.
fn show_nodes(context: &Context, accounts: &[(WorkloadRef, Account)], now: Timestamp) {
    let mut bill = ClusterBill::default();
    let mut nodes: BTreeMap<String, (DailyCost, DailyCost)> = BTreeMap::new();
    for (workload, account) in accounts {
        let costs = account.daily_costs(now, &context.zone);
        if workload.kind.cost_source() == CostSource::Nodes {
            for ((_, key), cost) in &costs {
                nodes.entry(cost_report::gpu_name(key)).or_default().0 += *cost;
            }
        }
        bill.add(workload.kind.cost_source(), costs);
    }
    for (_, key, cost) in bill.idle() {
        nodes.entry(cost_report::gpu_name(key)).or_default().1 += cost;
    }
    let gauges = nodes.into_iter().flat_map(|(gpu, (cost, idle))| {
        let hardware = || HardwareLabels { gpu: gpu.clone() };
        // a cost without a price is not known, and unknown is not zero
        let money = |cost: &DailyCost| {
            let amount = gauge_value(cost.cost.total());
            (cost.unpriced_gpu_seconds == 0).then_some(amount)
        };
        let hours = idle.gpu_seconds as f64 / 3600.0;
        [
            (metrics::NODE_COST_MONTH, hardware(), money(&cost)),
            (metrics::IDLE_COST_MONTH, hardware(), money(&idle)),
            (metrics::IDLE_GPU_HOURS_MONTH, hardware(), Some(hours)),
        ]
    });
    // nodes are in no namespace
    context.metrics.nodes.show("", gauges.collect());
}
