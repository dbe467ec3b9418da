//! The bill of the whole cluster: the cost of its nodes, and the part of it that nobody held.
//!
//! `total = workloads + unmanaged + idle + overhead + unattributed`, which is what was charged, and
//! `net = total + corrections`.
//!
//! Idle is the cost of nodes less the cost of pods on that kind of hardware, by day. It is below
//! zero where pods pay more than the node costs: fractions that are sold dearer than the whole, or
//! pods that ran before the nodes' accounts began on that day. Nodes cost compute and power;
//! volumes and overheads are not part of them, and never idle.

use std::collections::BTreeMap;

use jiff::civil::Date;

use crate::ledger::{CostKey, DailyCost};
use crate::money::{Cost, Money};

/// The source of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostSource {
    /// Whole nodes, held or not.
    Nodes,
    /// Pods of workloads.
    Workloads,
    /// GPU pods of others.
    Unmanaged,
}

/// The cost of a cluster in one month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterBill {
    /// The cost of whole nodes. Not a part of the total by itself: pods hold it, or it is idle.
    pub nodes: DailyCost,
    /// The cost of workloads' pods.
    pub workloads: DailyCost,
    /// The cost of other GPU pods.
    pub unmanaged: DailyCost,
    /// Monthly overheads.
    pub overhead: Money,
    /// The amount that corrections add, or take away. Not a part of the total: nothing was used for
    /// it.
    pub corrections: Money,
    hardware: BTreeMap<(Date, CostKey), HardwareBalance>,
}

/// The cost of one kind of hardware on one day: that of its nodes, and that of the pods on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HardwareBalance {
    /// `None` where no node of it has an account.
    nodes: Option<DailyCost>,
    held: DailyCost,
}

impl HardwareBalance {
    fn idle(&self) -> DailyCost {
        let (nodes, held) = (self.nodes.unwrap_or_default(), self.held);
        DailyCost {
            cost: Cost {
                // pods that were lost held their node too
                compute: nodes.cost.compute - held.cost.compute - held.unattributed,
                power: nodes.cost.power - held.cost.power,
                ..Cost::ZERO
            },
            carbon_mg: nodes.carbon_mg - held.carbon_mg,
            gpu_seconds: nodes.gpu_seconds - held.gpu_seconds,
            unpriced_gpu_seconds: nodes.unpriced_gpu_seconds - held.unpriced_gpu_seconds,
            ..DailyCost::default()
        }
    }
}

impl ClusterBill {
    /// Adds daily costs of one month.
    pub fn add(
        &mut self,
        side: CostSource,
        costs: impl IntoIterator<Item = ((Date, CostKey), DailyCost)>,
    ) {
        for ((date, key), cost) in costs {
            let key = CostKey { owner: None, ..key };
            let balance = self.hardware.entry((date, key)).or_default();
            match side {
                CostSource::Nodes => {
                    *balance.nodes.get_or_insert_default() += cost;
                    self.nodes += cost;
                }
                CostSource::Workloads => {
                    balance.held += cost;
                    self.workloads += cost;
                }
                CostSource::Unmanaged => {
                    balance.held += cost;
                    self.unmanaged += cost;
                }
            }
        }
    }

    /// Whether any node has an account. If none has, the idle cost is unknown.
    pub fn has_nodes(&self) -> bool {
        self.first_day_with_nodes().is_some()
    }

    /// The idle cost, by day and hardware. Days before the first one on which a node has an account
    /// are left out: the cost of nodes on those days is not known.
    pub fn idle(&self) -> impl Iterator<Item = (Date, &CostKey, DailyCost)> {
        let first = self.first_day_with_nodes();
        self.hardware
            .iter()
            .filter(move |((date, _), _)| first.is_some_and(|first| first <= *date))
            .map(|((date, key), balance)| (*date, key, balance.idle()))
            .filter(|(_, _, cost)| *cost != DailyCost::default())
    }

    /// The sum of [`ClusterBill::idle`].
    pub fn idle_sum(&self) -> DailyCost {
        self.idle().map(|(_, _, cost)| cost).sum()
    }

    /// The cost of time on nodes that were lost.
    pub fn unattributed(&self) -> Money {
        self.workloads.unattributed + self.unmanaged.unattributed
    }

    /// The amount to be paid: the total with corrections.
    pub fn net(&self) -> Money {
        self.total() + self.corrections
    }

    /// The cost of all.
    pub fn total(&self) -> Money {
        self.workloads.cost.total()
            + self.unmanaged.cost.total()
            + self.idle_sum().cost.total()
            + self.overhead
            + self.unattributed()
    }

    fn first_day_with_nodes(&self) -> Option<Date> {
        // by date first
        let mut days = self.hardware.iter();
        days.find_map(|((date, _), balance)| balance.nodes.map(|_| *date))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::date;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::{Account, Charge, ChargeEnd, RatePeriod, StoredCharge};
    use crate::pricing::PricingAttributes;

    fn key(model: &str) -> CostKey {
        CostKey {
            model: Some(model.into()),
            ..CostKey::default()
        }
    }

    fn cost(compute: &str, gpu_seconds: i64) -> DailyCost {
        DailyCost {
            cost: Cost {
                compute: compute.parse().unwrap(),
                ..Cost::ZERO
            },
            gpu_seconds,
            ..DailyCost::default()
        }
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn the_bill_is_its_parts_and_volumes_are_beside_the_nodes() {
        let day = date(2026, 11, 3);
        let mut bill = ClusterBill::default();
        let mut held = cost("30", 3600);
        (held.cost.storage, held.unattributed) = (money("7"), money("5"));
        bill.add(CostSource::Workloads, [((day, key("H100")), held)]);
        let notebook = CostKey {
            owner: Some("Pod/notebook".into()),
            ..key("H100")
        };
        bill.add(CostSource::Unmanaged, [((day, notebook), cost("10", 1800))]);
        bill.add(CostSource::Nodes, [((day, key("H100")), cost("100", 7200))]);
        bill.overhead = money("20");
        bill.corrections = money("-50");
        let idle = bill.idle_sum();
        assert_eq!(
            (idle.cost.total(), idle.gpu_seconds),
            (money("55"), 1800),
            "100 - 30 - 5 - 10"
        );
        assert_eq!(bill.unattributed(), money("5"));
        assert_eq!(
            bill.total(),
            money("127"),
            "nodes, volumes and overheads: 100 + 7 + 20"
        );
        assert_eq!(bill.net(), money("77"), "a credit makes nothing idle");
    }

    #[test]
    fn idle_is_below_zero_where_fractions_are_dearer_and_kinds_do_not_pay_for_each_other() {
        let day = date(2026, 11, 3);
        let mut bill = ClusterBill::default();
        bill.add(
            CostSource::Nodes,
            [
                ((day, key("A100")), cost("10", 3600)),
                ((day, key("H100")), cost("30", 3600)),
            ],
        );
        bill.add(
            CostSource::Workloads,
            [((day, key("A100")), cost("12", 3600))],
        );
        let idle: Vec<_> = bill
            .idle()
            .map(|(_, key, cost)| (key.model.clone().unwrap(), cost.cost.total()))
            .collect();
        assert_eq!(
            idle,
            [
                ("A100".to_owned(), money("-2")),
                ("H100".to_owned(), money("30"))
            ]
        );
        assert_eq!(bill.total(), money("40"));
    }

    #[test]
    fn what_ran_before_the_nodes_accounts_began_is_no_debt_of_theirs() {
        let mut bill = ClusterBill::default();
        bill.add(
            CostSource::Workloads,
            [((date(2026, 11, 1), key("H100")), cost("900", 3600))],
        );
        assert!(!bill.has_nodes());
        assert_eq!(bill.total(), money("900"));
        bill.add(
            CostSource::Nodes,
            [((date(2026, 11, 2), key("H100")), cost("50", 3600))],
        );
        assert_eq!(bill.total(), money("950"));
    }

    /// Nano-units a GPU and second, so that a price an hour is exact at every second.
    const PRICE: i128 = 7;
    const BEGIN: &str = "2026-11-03T22:00:00Z";

    fn at(second: i64) -> Timestamp {
        let begin: Timestamp = BEGIN.parse().unwrap();
        Timestamp::from_second(begin.as_second() + second).unwrap()
    }

    fn settled(account: &mut Account, uid: String, gpus: u32, from: i64, to: i64) {
        let attributes = PricingAttributes {
            resource: "nvidia.com/gpu".into(),
            gpus,
            node_gpus: 4,
            model: Some("H100".into()),
            ..PricingAttributes::default()
        };
        let compute = Money::from_nanos(PRICE * 3600 * i128::from(gpus));
        let rate = RatePeriod {
            from: at(from),
            quote: Cost {
                compute,
                ..Cost::ZERO
            }
            .into(),
            provisional: false,
        };
        let charge = Charge::restore(StoredCharge {
            rates: vec![rate],
            ..StoredCharge::new(uid, "p".into(), attributes, at(from))
        })
        .unwrap();
        let end = ChargeEnd {
            at: at(to),
            estimated: false,
        };
        account.settle(&charge, end, &TimeZone::UTC);
    }

    proptest! {
        /// Four GPUs stand for a time, and each is held now and then; the free seconds of each day
        /// are counted one by one.
        #[test]
        fn idle_is_the_free_time_of_gpus_at_their_price(
            stood in 1i64..20_000,
            holds in prop::collection::vec(prop::collection::vec((0i64..3_000, 0i64..3_000), 0..5), 4),
        ) {
            let mut pods = Account::new("2026-11".parse().unwrap());
            let mut free = vec![[true; 4]; usize::try_from(stood).unwrap()];
            for (gpu, stays) in holds.iter().enumerate() {
                let mut time = 0;
                for (number, (gap, length)) in stays.iter().enumerate() {
                    let (from, to) = ((time + gap).min(stood), (time + gap + length).min(stood));
                    settled(&mut pods, format!("{gpu}/{number}"), 1, from, to);
                    for second in from..to {
                        free[usize::try_from(second).unwrap()][gpu] = false;
                    }
                    time = to;
                }
            }
            let mut nodes = Account::new("2026-11".parse().unwrap());
            settled(&mut nodes, "node".into(), 4, 0, stood);
            let mut bill = ClusterBill::default();
            bill.add(CostSource::Nodes, nodes.daily_costs(at(stood), &TimeZone::UTC));
            bill.add(CostSource::Workloads, pods.daily_costs(at(stood), &TimeZone::UTC));
            let mut counted: BTreeMap<Date, i64> = BTreeMap::new();
            for (second, gpus) in free.iter().enumerate() {
                let day = at(i64::try_from(second).unwrap()).to_zoned(TimeZone::UTC).date();
                *counted.entry(day).or_default() += gpus.iter().filter(|free| **free).count() as i64;
            }
            counted.retain(|_, seconds| *seconds != 0);
            let idle: BTreeMap<Date, i64> = bill.idle().map(|(day, _, cost)| (day, cost.gpu_seconds)).collect();
            prop_assert_eq!(&idle, &counted);
            for (day, _, cost) in bill.idle() {
                prop_assert_eq!(cost.cost.total().nanos(), i128::from(counted[&day]) * PRICE);
            }
            prop_assert_eq!(bill.total().nanos(), i128::from(stood) * 4 * PRICE);
        }
    }
}
