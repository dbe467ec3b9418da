//! What pods must cost by this world's own journal, and what the SpendRecords say.

use std::collections::BTreeMap;

use bursar_api::SpendRecord;
use jiff::Timestamp;
use kube::ResourceExt;

use super::World;

/// Nano-units that a GPU costs an hour.
const PRICE: i128 = 3_600_000_000;

/// Since when and until when a pod held its node.
pub(super) struct PodLifetime {
    pub(super) workload: String,
    pub(super) from: Timestamp,
    pub(super) to: Option<Timestamp>,
    /// It holds GPUs: nothing else has a price.
    pub(super) is_charged: bool,
}

impl World {
    /// Pods that ever held a node.
    pub(in crate::tests) fn lifetimes(&self) -> usize {
        self.lifetimes.len()
    }

    /// When pods were bound and when they ended, by this world's own journal, the first first.
    pub(in crate::tests) fn times(&self) -> Vec<(Timestamp, Option<Timestamp>)> {
        let mut times: Vec<_> = self
            .lifetimes
            .values()
            .map(|lifetime| (lifetime.from, lifetime.to))
            .collect();
        times.sort();
        times
    }

    /// Nano-units that each workload's ended pods cost, by this world's own journal.
    pub(in crate::tests) fn cost(&self) -> BTreeMap<String, i128> {
        let mut cost = BTreeMap::new();
        for lifetime in self.lifetimes.values().filter(|found| found.is_charged) {
            let Some(to) = lifetime.to else { continue };
            let seconds =
                i128::from((to - lifetime.from).total(jiff::Unit::Second).unwrap() as i64);
            *cost.entry(lifetime.workload.clone()).or_insert(0) += PRICE * seconds / 3600;
        }
        cost
    }

    /// Each workload's record of each month: its own, if anything was written to it, else as it was consolidated.
    pub(in crate::tests) fn records(&self) -> Vec<SpendRecord> {
        let all: Vec<SpendRecord> = self.server.objects();
        let (consolidated, own): (Vec<_>, Vec<_>) =
            all.into_iter().partition(SpendRecord::is_consolidated);
        let sections = consolidated
            .iter()
            .flat_map(|record| record.expand().unwrap());
        let written = own.into_iter().filter(|record| record.status.is_some());
        let by_name = |record: SpendRecord| (record.name_any(), record);
        let mut records: BTreeMap<String, SpendRecord> =
            sections.map(|(_, record)| by_name(record)).collect();
        records.extend(written.map(by_name));
        records.into_values().collect()
    }

    /// Nano-units that the SpendRecords say.
    pub(in crate::tests) fn recorded(&self) -> BTreeMap<String, i128> {
        let mut sums = BTreeMap::new();
        for record in self.records() {
            let account = record.to_account().unwrap();
            let settled: i128 = account
                .days()
                .values()
                .flatten()
                .map(|(_, line)| line.cost.total().nanos())
                .sum();
            *sums.entry(record.spec.name.clone()).or_insert(0) += settled;
        }
        sums.retain(|_, sum| *sum != 0);
        sums
    }

    /// Nano-units of those that rest on an estimated end.
    pub(in crate::tests) fn estimated(&self) -> i128 {
        let records = self.records();
        let accounts = records.iter().map(|record| record.to_account().unwrap());
        accounts
            .flat_map(|account| account.days().clone().into_values().flatten())
            .map(|(_, line)| line.estimated.nanos())
            .sum()
    }
}
