//! Reports: the ledger's daily costs, grouped by dimensions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::calendar::{Interval, Month};
use crate::correction::Correction;
use crate::ledger::{Account, CostKey, DailyCost};
use crate::money::{Cost, Money};
use crate::overhead::{Usage, Usages};
use crate::pricing::{CapacityType, Overhead, Share};

/// A dimension that costs are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The workload's namespace.
    Namespace,
    /// The workload, as `infd/chat`.
    Workload,
    /// The GPU's product name and the part of it that was held.
    Gpu,
    /// How the node was paid for.
    Capacity,
    /// The node's region.
    Region,
    /// The day, in the accounting time zone.
    Day,
    /// The owner that made the pods, where that was not Bursar.
    Owner,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Workload,
        Self::Gpu,
        Self::Capacity,
        Self::Region,
        Self::Day,
        Self::Owner,
    ];

    /// True for an attribute of the node itself, whoever holds it.
    pub fn applies_to_nodes(self) -> bool {
        matches!(self, Self::Gpu | Self::Capacity | Self::Region | Self::Day)
    }

    /// Its name on the command line and over columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::Gpu => "gpu",
            Self::Capacity => "capacity",
            Self::Region => "region",
            Self::Day => "day",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error for a word that is not a dimension.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is nothing to group by: write namespace, workload, gpu, capacity, region, day or owner"
)]
pub struct ParseDimensionError(String);

impl FromStr for Dimension {
    type Err = ParseDimensionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|dimension| dimension.as_str() == text)
            .ok_or_else(|| ParseDimensionError(text.to_owned()))
    }
}

/// A workload as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CostOwner {
    /// Its namespace.
    pub namespace: String,
    /// Its kind and name, as `infd/chat`; empty for a cost of the namespace alone.
    pub workload: String,
}

/// A daily cost of the ledger, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportEntry<'a> {
    /// The owner.
    pub owner: &'a CostOwner,
    /// The day, in the accounting time zone.
    pub date: Date,
    /// The hardware.
    pub cost_key: CostKey,
    /// The cost, in its parts.
    pub cost: DailyCost,
    /// The amount that corrections add.
    pub corrections: Money,
}

/// A row: the value of each dimension, `None` where it is not known, and the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// The values, in the order of the report's dimensions.
    pub key: Vec<Option<String>>,
    /// The sum.
    pub line: DailyCost,
    /// The amount that corrections add.
    pub corrections: Money,
}

/// Rows and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The dimensions of the rows.
    pub by: Vec<Dimension>,
    /// The rows, by key.
    pub rows: Vec<ReportRow>,
    /// The sum of all entries, and so of all rows.
    pub total: DailyCost,
    /// The amount that all corrections add.
    pub corrections: Money,
}

/// All daily costs of an account until `now`, those of open charges too.
pub fn entries<'a>(
    holder: &'a CostOwner,
    account: &Account,
    now: Timestamp,
    zone: &TimeZone,
) -> impl Iterator<Item = ReportEntry<'a>> + use<'a> {
    let lines = account.daily_costs(now, zone).into_iter();
    lines.map(move |((date, sku), line)| ReportEntry {
        owner: holder,
        date,
        cost_key: sku,
        cost: line,
        corrections: Money::ZERO,
    })
}

/// A correction that counts: of a workload or a namespace, and of no hardware.
pub fn correction_entry(correction: &Correction) -> ReportEntry<'_> {
    ReportEntry {
        owner: &correction.owner,
        date: correction.date,
        cost_key: CostKey::default(),
        cost: DailyCost::default(),
        corrections: correction.amount,
    }
}

/// The share of each account in these overheads until `now`, as labour, by what each used in the
/// month. A month that runs has the part for its elapsed time; the entries are dated on the day of
/// `now`, or on the month's last.
///
/// All accounts of the cluster share them, so all must be given.
pub fn overhead_entries<'a>(
    accounts: &[(&'a CostOwner, &Account)],
    overheads: &[&Overhead],
    month: Month,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<ReportEntry<'a>> {
    let bounds = month.bounds(zone);
    let last = (bounds.end - SignedDuration::from_secs(1)).min(now);
    let date = zone.to_datetime(last).date().max(month.first());
    let mut usages: Usages<&'a CostOwner> = Usages::new();
    for (holder, account) in accounts {
        let line = account.sum(bounds, now, zone);
        let usage = Usage {
            gpu_seconds: line.gpu_seconds,
            cost: line.cost.total(),
        };
        let namespace = usages.entry(holder.namespace.clone()).or_default();
        *namespace.entry(holder).or_default() += usage;
    }
    let shares = overheads.iter().flat_map(|overhead| {
        let shared = overhead.allocate(overhead.accrued(bounds, now), &usages);
        let borne = shared.namespaces.into_values();
        borne.flat_map(|borne| borne.workloads)
    });
    let entry = |(holder, labour)| ReportEntry {
        owner: holder,
        date,
        cost_key: CostKey::default(),
        cost: DailyCost {
            cost: Cost {
                labour,
                ..Cost::ZERO
            },
            ..DailyCost::default()
        },
        corrections: Money::ZERO,
    };
    shares.map(entry).collect()
}

/// The amount of these overheads that is due until `now`, whoever uses anything.
pub fn overhead_due(
    overheads: &[&Overhead],
    month: Month,
    now: Timestamp,
    zone: &TimeZone,
) -> Money {
    let bounds = month.bounds(zone);
    let due = overheads
        .iter()
        .map(|overhead| overhead.accrued(bounds, now));
    due.sum()
}

/// Groups entries. A workload is named together with its namespace, because another namespace may
/// have one of the same name.
pub fn report<'a>(entries: impl IntoIterator<Item = ReportEntry<'a>>, by: &[Dimension]) -> Report {
    let by = with_namespaces(by);
    let mut rows: BTreeMap<Vec<Option<String>>, (DailyCost, Money)> = BTreeMap::new();
    let (mut total, mut corrections) = <(DailyCost, Money)>::default();
    for entry in entries {
        let key = by.iter().map(|dimension| entry.value(*dimension)).collect();
        let row = rows.entry(key).or_default();
        row.0 += entry.cost;
        row.1 += entry.corrections;
        total += entry.cost;
        corrections += entry.corrections;
    }
    let row = |(key, (line, corrections))| ReportRow {
        key,
        line,
        corrections,
    };
    Report {
        by,
        rows: rows.into_iter().map(row).collect(),
        total,
        corrections,
    }
}

fn with_namespaces(by: &[Dimension]) -> Vec<Dimension> {
    let mut all = Vec::new();
    for dimension in by {
        let before = (*dimension == Dimension::Workload && !by.contains(&Dimension::Namespace))
            .then_some(Dimension::Namespace);
        for dimension in before.into_iter().chain([*dimension]) {
            if !all.contains(&dimension) {
                all.push(dimension);
            }
        }
    }
    all
}

impl ReportEntry<'_> {
    fn value(&self, dimension: Dimension) -> Option<String> {
        let unless_empty = |text: String| Some(text).filter(|text| !text.is_empty());
        match dimension {
            Dimension::Namespace => Some(self.owner.namespace.clone()),
            Dimension::Workload => unless_empty(self.owner.workload.clone()),
            Dimension::Gpu => unless_empty(gpu_name(&self.cost_key)),
            Dimension::Capacity => self
                .cost_key
                .capacity_type
                .map(|by| capacity_type_name(by).to_owned()),
            Dimension::Region => self.cost_key.region.clone(),
            Dimension::Day => Some(self.date.to_string()),
            Dimension::Owner => self.cost_key.owner.clone(),
        }
    }
}

/// The GPU's product name, or what it is offered as, and the part of it that one unit is:
/// `NVIDIA-H100 1/7`.
pub fn gpu_name(sku: &CostKey) -> String {
    let name = sku.model.as_ref().unwrap_or(&sku.resource);
    if sku.share == Share::default() {
        name.clone()
    } else {
        format!("{name} {}/{}", sku.share.part, sku.share.whole)
    }
}

/// The name of a way to pay, as PriceLists have it.
pub fn capacity_type_name(by: CapacityType) -> &'static str {
    match by {
        CapacityType::OnDemand => "OnDemand",
        CapacityType::Spot => "Spot",
        CapacityType::Reserved => "Reserved",
    }
}

/// The pods that hold nodes at this moment, and their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveCost {
    /// Money an hour of the pods whose price is known and whose node is reachable.
    pub per_hour: Money,
    /// Pods that hold a node.
    pub pods: usize,
    /// Those of them that no price is known for.
    pub unpriced: usize,
    /// The cost of today.
    pub today: DailyCost,
    /// The cost of this month.
    pub month: DailyCost,
}

impl LiveCost {
    /// Adds one account's pods and costs by kind of hardware, as `key` groups them.
    pub fn add<K: Ord>(
        rows: &mut BTreeMap<K, Self>,
        account: &Account,
        now: Timestamp,
        zone: &TimeZone,
        key: impl Fn(&CostKey) -> K,
    ) {
        let today = zone.to_datetime(now).date();
        for ((date, sku), line) in account.daily_costs(now, zone) {
            let row = rows.entry(key(&sku)).or_default();
            row.month += line;
            if date == today {
                row.today += line;
            }
        }
        // a charge over a month's end is open in both months' accounts
        if account.month() != Month::containing(now, zone) {
            return;
        }
        for charge in account
            .open_charges()
            .values()
            .filter(|charge| charge.start() <= now)
        {
            let row = rows
                .entry(key(&CostKey::new(charge.attributes(), charge.owner())))
                .or_default();
            row.pods += 1;
            match charge.rate() {
                _ if charge.node_lost_since().is_some_and(|lost| lost <= now) => {}
                Some(rate) => row.per_hour += rate.cost.total(),
                None => row.unpriced += 1,
            }
        }
    }
}

/// The bounds of a day of `zone`.
pub fn day_bounds(date: Date, zone: &TimeZone) -> Option<Interval> {
    let month = Month::containing_date(date).bounds(zone);
    month
        .days(zone)
        .find(|(day, _)| *day == date)
        .map(|(_, bounds)| bounds)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::account::DailyCosts;
    use crate::ledger::{Charge, RatePeriod, StoredAccount, StoredCharge};
    use crate::money::Cost;
    use crate::pricing::PricingAttributes;
    use crate::pricing::{OverheadCategory, ShareBy};

    fn holder(namespace: &str, workload: &str) -> CostOwner {
        CostOwner {
            namespace: namespace.into(),
            workload: workload.into(),
        }
    }

    fn line(nanos: i128, gpu_seconds: i64) -> DailyCost {
        DailyCost {
            cost: Cost {
                compute: Money::from_nanos(nanos),
                power: Money::from_nanos(nanos / 3),
                ..Cost::ZERO
            },
            idle: Money::from_nanos(nanos / 2),
            gpu_seconds,
            ..DailyCost::default()
        }
    }

    fn sku(model: Option<&str>) -> CostKey {
        CostKey {
            resource: "nvidia.com/gpu".into(),
            model: model.map(Into::into),
            ..CostKey::default()
        }
    }

    fn account(lines: &[(i8, Option<&str>, i128)]) -> Account {
        let mut days = DailyCosts::new();
        for (day, model, nanos) in lines {
            let lines = days.entry(date(2026, 11, *day)).or_default();
            lines.push((sku(*model), line(*nanos, 3600)));
        }
        let stored = StoredAccount::new("2026-11".parse().unwrap());
        Account::restore(StoredAccount { days, ..stored }).unwrap()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn overheads_are_borne_by_use_and_sum_to_what_is_over_of_the_month() {
        let (one, other) = (holder("ml", "infd/chat"), holder("web", "tj/train"));
        let (used, little) = (
            account(&[(1, None, 5), (2, None, 5)]),
            account(&[(1, None, 5)]),
        );
        let people = Overhead {
            name: "people".into(),
            part: OverheadCategory::Labour,
            per_month: Money::from_nanos(3_000),
            share_by: ShareBy::GpuHours,
        };
        let noon = "2026-11-16T00:00:00Z".parse().unwrap();
        let accounts = [(&one, &used), (&other, &little)];
        let entries = overhead_entries(&accounts, &[&people], used.month(), noon, &TimeZone::UTC);
        let shares: Vec<_> = entries
            .iter()
            .map(|entry| {
                (
                    entry.owner.workload.as_str(),
                    entry.cost.cost.labour.nanos(),
                )
            })
            .collect();
        assert_eq!(shares, [("infd/chat", 1_000), ("tj/train", 500)]);
        assert_eq!(entries[0].date, date(2026, 11, 16));
    }

    #[test]
    fn a_correction_stands_in_the_row_of_its_holder_and_day_and_in_none_of_a_gpu() {
        let chat = holder("ml", "infd/chat");
        let account = account(&[(1, Some("H100"), 6)]);
        let correction = |workload: &str, day, nanos| Correction {
            name: "c".into(),
            owner: holder("ml", workload),
            date: date(2026, 11, day),
            amount: Money::from_nanos(nanos),
            currency: "USD".into(),
        };
        let all = [correction("infd/chat", 1, -2), correction("", 2, 5)];
        let now = "2026-11-02T12:00:00Z".parse().unwrap();
        let rows = |by: &[Dimension]| {
            let lines = entries(&chat, &account, now, &TimeZone::UTC);
            let report = report(lines.chain(all.iter().map(correction_entry)), by);
            assert_eq!(report.corrections.nanos(), 3);
            let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
            let row = |row: &ReportRow| {
                let key: Vec<String> = row.key.iter().map(cell).collect();
                let cost = row.line.cost.total().nanos();
                format!("{} {cost} {}", key.join(" "), row.corrections.nanos())
            };
            report.rows.iter().map(row).collect::<Vec<_>>()
        };
        assert_eq!(
            rows(&[Dimension::Workload]),
            ["ml - 0 5", "ml infd/chat 8 -2"]
        );
        assert_eq!(
            rows(&[Dimension::Day]),
            ["2026-11-01 8 -2", "2026-11-02 0 5"]
        );
        assert_eq!(rows(&[Dimension::Gpu]), ["- 0 3", "H100 8 0"]);
    }

    #[test]
    fn a_workload_is_named_with_its_namespace_and_what_is_unknown_stays_unknown() {
        let (one, other) = (holder("ml", "infd/chat"), holder("web", "infd/chat"));
        let account = account(&[(1, Some("H100"), 5), (2, None, 7)]);
        let of = |holder| entries(holder, &account, NOW, &TimeZone::UTC);
        let report = report(
            of(&one).chain(of(&other)),
            &[Dimension::Workload, Dimension::Region],
        );
        assert_eq!(
            report.by,
            [Dimension::Namespace, Dimension::Workload, Dimension::Region]
        );
        let keys: Vec<_> = report.rows.iter().map(|row| row.key.clone()).collect();
        let key =
            |namespace: &str| vec![Some(namespace.to_owned()), Some("infd/chat".into()), None];
        assert_eq!(keys, [key("ml"), key("web")]);
    }

    #[test]
    fn a_part_of_a_gpu_is_not_a_whole_one_and_one_without_a_model_has_its_resource() {
        let part = CostKey {
            share: Share { part: 1, whole: 7 },
            ..sku(Some("H100"))
        };
        assert_eq!(
            [gpu_name(&part), gpu_name(&sku(None))],
            ["H100 1/7", "nvidia.com/gpu"]
        );
    }

    #[test]
    fn only_a_dimension_is_taken() {
        assert_eq!("gpu".parse(), Ok(Dimension::Gpu));
        let error = "gpus".parse::<Dimension>().unwrap_err().to_string();
        assert!(
            error.contains("\"gpus\"") && error.contains("workload"),
            "{error}"
        );
    }

    #[test]
    fn a_pod_stands_at_its_rate_in_this_month_only_and_not_on_a_lost_node() {
        let zone = TimeZone::UTC;
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let start = at("2026-10-31T22:00:00Z");
        let attributes = PricingAttributes {
            resource: "nvidia.com/gpu".into(),
            gpus: 1,
            ..PricingAttributes::default()
        };
        let rate = RatePeriod {
            from: start,
            quote: Cost {
                compute: "2".parse().unwrap(),
                ..Cost::ZERO
            }
            .into(),
            provisional: false,
        };
        let unpriced =
            |uid: &str| StoredCharge::new(uid.into(), "p".into(), attributes.clone(), start);
        let priced = |uid: &str| StoredCharge {
            rates: vec![rate],
            ..unpriced(uid)
        };
        let lost = StoredCharge {
            node_lost_since: Some(at("2026-11-01T00:30:00Z")),
            ..priced("c")
        };
        let charges = [priced("a"), unpriced("b"), lost];
        let charges = charges.map(|stored| Charge::restore(stored).unwrap());
        let now = at("2026-11-01T03:00:00Z");
        let mut rows = BTreeMap::new();
        for month in ["2026-10", "2026-11"] {
            let mut account = Account::new(month.parse().unwrap());
            for charge in &charges {
                account.carry_forward(charge, &zone);
            }
            LiveCost::add(&mut rows, &account, now, &zone, |_| account.month());
        }
        let of = |month: &str| rows[&month.parse::<Month>().unwrap()];
        let (october, november) = (of("2026-10"), of("2026-11"));
        assert_eq!((october.pods, october.today.gpu_seconds), (0, 0));
        assert_eq!(
            (november.pods, november.unpriced, november.per_hour),
            (3, 1, "2".parse().unwrap())
        );
        assert_eq!(november.today.cost.total(), "7".parse().unwrap());
        assert_eq!(november.today.unattributed, "5".parse().unwrap());
    }

    #[test]
    fn a_day_has_the_hours_that_it_had() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let seconds = |month, day_of| {
            day_bounds(date(2026, month, day_of), &berlin)
                .unwrap()
                .seconds()
        };
        assert_eq!(
            (seconds(10, 25), seconds(11, 1), seconds(3, 29)),
            (25 * 3600, 24 * 3600, 23 * 3600)
        );
    }

    proptest! {
        #[test]
        fn the_total_is_the_sum_of_the_rows_whatever_they_are_told_apart_by(
            lines in prop::collection::vec((1i8..29, prop::option::of(0u8..3), 0i128..10i128.pow(15)), 0..40),
            holders in prop::collection::vec((0u8..3, 0u8..3), 1..6),
            by in prop::collection::vec(prop::sample::select(Dimension::ALL.to_vec()), 0..5),
        ) {
            let holders: Vec<_> = holders.iter().map(|(n, w)| holder(&format!("n{n}"), &format!("infd/w{w}"))).collect();
            let models = ["A100", "H100", "L4"];
            let mut days = DailyCosts::new();
            for (day, model, nanos) in &lines {
                let mut sku = sku(model.map(|at| models[usize::from(at)]));
                sku.capacity_type = (*day % 2 == 0).then_some(CapacityType::Spot);
                let lines = days.entry(date(2026, 11, *day)).or_default();
                lines.push((sku, line(*nanos, i64::from(*day))));
            }
            let stored = StoredAccount::new("2026-11".parse().unwrap());
            let account = Account::restore(StoredAccount { days, ..stored }).unwrap();
            let all = holders.iter().flat_map(|holder| entries(holder, &account, NOW, &TimeZone::UTC));
            let report = report(all, &by);
            let rows: DailyCost = report.rows.iter().map(|row| row.line).sum();
            prop_assert_eq!(rows, report.total);
            let one: i128 = lines.iter().map(|(_, _, nanos)| nanos + nanos / 3).sum();
            prop_assert_eq!(report.total.cost.total().nanos(), one * holders.len() as i128);
        }
    }
}
