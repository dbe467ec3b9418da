//! Monthly overheads, shared over the namespaces and on to their workloads.
//!
//! Amounts are whole nano-units that sum exactly to the overhead, by the largest remainder method
//! (A. Hamilton, 1792; see M. Balinski, H. P. Young: *Fair Representation*, 1982): everybody gets
//! the share rounded down, and what is left goes, a nano-unit each, to those who lost most by that.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::Timestamp;

use crate::calendar::Interval;
use crate::money::Money;
use crate::pricing::{Overhead, ShareBy};

/// The usage of a workload in the month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Physical GPUs times seconds.
    pub gpu_seconds: i64,
    /// Its cost, without overheads.
    pub cost: Money,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.gpu_seconds += other.gpu_seconds;
        self.cost += other.cost;
    }
}

/// The usage of every workload, by namespace. A namespace without a workload has its part of
/// amounts that are shared evenly.
pub type Usages<W> = BTreeMap<String, BTreeMap<W, Usage>>;

/// The share of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverheadShare<W> {
    /// Its amount.
    pub total: Money,
    /// The same, by workload; they sum to `total`, unless there is none.
    pub workloads: BTreeMap<W, Money>,
}

/// An overhead when it is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverheadAllocation<W> {
    /// The share of each namespace.
    pub namespaces: BTreeMap<String, OverheadShare<W>>,
    /// The amount that is no namespace's, because there is none.
    pub unshared: Money,
}

impl Overhead {
    /// The amount that is due by `now`, rounded down: of a month that runs the part for its elapsed
    /// time, of a past month all of it.
    pub fn accrued(&self, month: Interval, now: Timestamp) -> Money {
        let (over, _) = month.split(now);
        self.per_month.proportion(over.seconds(), month.seconds())
    }

    /// Shares `amount` of it. Where nothing was used, all have equal shares.
    pub fn allocate<W: Ord + Clone>(
        &self,
        amount: Money,
        usages: &Usages<W>,
    ) -> OverheadAllocation<W> {
        let within = match self.share_by {
            ShareBy::Cost => |usage: &Usage| usage.cost.nanos(),
            ShareBy::GpuHours | ShareBy::Evenly => |usage: &Usage| usage.gpu_seconds.into(),
        };
        let of_namespace = |workloads: &BTreeMap<W, Usage>| match self.share_by {
            ShareBy::Evenly => 1,
            ShareBy::GpuHours | ShareBy::Cost => {
                workloads.values().map(|usage| within(usage).max(0)).sum()
            }
        };
        let weights: Vec<i128> = usages.values().map(of_namespace).collect();
        let namespaces = usages.iter().zip(split(amount, &weights));
        let namespaces = namespaces.map(|((name, workloads), total)| {
            let weights: Vec<i128> = workloads.values().map(within).collect();
            let parts = split(total, &weights);
            let borne = OverheadShare {
                total,
                workloads: workloads.keys().cloned().zip(parts).collect(),
            };
            (name.clone(), borne)
        });
        let unshared = match usages.is_empty() {
            true => amount,
            false => Money::ZERO,
        };
        OverheadAllocation {
            namespaces: namespaces.collect(),
            unshared,
        }
    }
}

/// Splits `amount` by weight, those below zero taken as zero; evenly if all are. The parts sum to
/// `amount`; of those who lost the same by rounding, the first ones get more.
fn split(amount: Money, weights: &[i128]) -> Vec<Money> {
    let mut weights: Vec<i128> = weights.iter().map(|weight| (*weight).max(0)).collect();
    if weights.iter().all(|weight| *weight == 0) {
        weights.fill(1);
    }
    // products of a remainder and a weight must fit into 127 bits
    while weights.iter().sum::<i128>() >= 1 << 62 {
        weights.iter_mut().for_each(|weight| *weight >>= 1);
    }
    let sum = weights.iter().sum::<i128>().max(1);
    let (each, rest) = (
        amount.nanos().div_euclid(sum),
        amount.nanos().rem_euclid(sum),
    );
    let mut parts: Vec<i128> = weights
        .iter()
        .map(|weight| each * weight + rest * weight / sum)
        .collect();
    let mut left = amount.nanos() - parts.iter().sum::<i128>();
    let mut by_loss: Vec<usize> = (0..weights.len()).collect();
    by_loss.sort_by_key(|at| std::cmp::Reverse(rest * weights[*at] % sum));
    for at in by_loss {
        let more = left.min(1);
        parts[at] += more;
        left -= more;
    }
    parts.into_iter().map(Money::from_nanos).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::{Cost, NANOS};
    use crate::pricing::OverheadCategory;

    fn unit(units: i128) -> Money {
        Money::from_nanos(units * NANOS)
    }

    fn overhead(per_month: Money, share_by: ShareBy) -> Overhead {
        Overhead {
            name: "engineers".into(),
            part: OverheadCategory::Labour,
            per_month,
            share_by,
        }
    }

    /// A workload's name, GPU-seconds and cost.
    type Used = (&'static str, i64, i128);

    fn usages(namespaces: &[(&str, &[Used])]) -> Usages<&'static str> {
        let usage = |(name, gpu_seconds, cost): &Used| {
            let usage = Usage {
                gpu_seconds: *gpu_seconds,
                cost: unit(*cost),
            };
            (*name, usage)
        };
        let namespace = |(name, workloads): &(&str, &[_])| {
            let workloads: BTreeMap<&str, Usage> = workloads.iter().map(usage).collect();
            ((*name).to_owned(), workloads)
        };
        namespaces.iter().map(namespace).collect()
    }

    fn nanos(shared: &OverheadAllocation<&'static str>) -> Vec<(&'static str, i128)> {
        let borne = shared
            .namespaces
            .values()
            .flat_map(|borne| &borne.workloads);
        borne.map(|(name, part)| (*name, part.nanos())).collect()
    }

    #[test]
    fn the_cost_model_example_sums_to_130_500_with_its_labour_shared() {
        // 100 GPUs at 1000, storage of 500, 100 times 500 kWh at 0.1, and five people at 5000, in
        // two namespaces
        let kwh: Money = "0.1".parse().unwrap();
        let cost = |gpus: u32, storage| Cost {
            compute: unit(1000).times(gpus),
            storage: unit(storage),
            power: kwh.times(gpus * 500),
            labour: Money::ZERO,
        };
        let (serving, training) = (cost(60, 500), cost(40, 0));
        let usages = usages(&[
            ("serving", &[("chat", 60, 0)]),
            ("training", &[("llama", 40, 0)]),
        ]);
        let labour = overhead(unit(5000).times(5), ShareBy::GpuHours);
        let shared = labour.allocate(labour.per_month, &usages);
        let borne = |namespace: &str| shared.namespaces[namespace].total;
        assert_eq!(
            (borne("serving"), borne("training")),
            (unit(15_000), unit(10_000))
        );
        let total = serving.total() + training.total() + borne("serving") + borne("training");
        assert_eq!(total, unit(130_500));
    }

    #[test]
    fn what_rounding_leaves_goes_to_who_lost_most_and_then_by_name() {
        let three = usages(&[
            ("a", &[("x", 1, 0)]),
            ("b", &[("y", 1, 0)]),
            ("c", &[("z", 1, 0)]),
        ]);
        let shared =
            overhead(Money::ZERO, ShareBy::GpuHours).allocate(Money::from_nanos(8), &three);
        assert_eq!(nanos(&shared), [("x", 3), ("y", 3), ("z", 2)]);
        // 10 by 1:6 is 1.43 and 8.57
        let two = usages(&[("a", &[("x", 1, 0), ("y", 6, 0)])]);
        let shared = overhead(Money::ZERO, ShareBy::GpuHours).allocate(Money::from_nanos(10), &two);
        assert_eq!(nanos(&shared), [("x", 1), ("y", 9)]);
    }

    #[test]
    fn it_is_shared_by_what_the_list_says() {
        let both = usages(&[
            ("a", &[("x", 90, 1), ("y", 10, 1)]),
            ("b", &[("z", 100, 6)]),
            ("c", &[]),
        ]);
        let by = |share_by| {
            let shared = overhead(Money::ZERO, share_by).allocate(Money::from_nanos(1200), &both);
            let empty = shared.namespaces["c"].total.nanos();
            (nanos(&shared), empty)
        };
        assert_eq!(
            by(ShareBy::GpuHours),
            (vec![("x", 540), ("y", 60), ("z", 600)], 0)
        );
        assert_eq!(
            by(ShareBy::Cost),
            (vec![("x", 150), ("y", 150), ("z", 900)], 0)
        );
        assert_eq!(
            by(ShareBy::Evenly),
            (vec![("x", 360), ("y", 40), ("z", 400)], 400)
        );
    }

    #[test]
    fn what_nobody_used_is_borne_evenly_and_without_a_namespace_by_nobody() {
        let idle = usages(&[("a", &[("x", 0, 0), ("y", 0, 0)]), ("b", &[("z", 0, 0)])]);
        for share_by in [ShareBy::GpuHours, ShareBy::Cost, ShareBy::Evenly] {
            let overhead = overhead(Money::ZERO, share_by);
            let shared = overhead.allocate(Money::from_nanos(100), &idle);
            assert_eq!(nanos(&shared), [("x", 25), ("y", 25), ("z", 50)]);
            let nobody = overhead.allocate(Money::from_nanos(100), &usages(&[]));
            assert_eq!(nobody.unshared.nanos(), 100);
        }
    }

    #[test]
    fn a_month_that_runs_bears_the_part_that_is_over() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let month = Interval {
            start: at("2026-11-01T00:00:00Z"),
            end: at("2026-12-01T00:00:00Z"),
        };
        let labour = overhead(unit(3000), ShareBy::Evenly);
        for (now, due) in [
            ("2026-10-31T23:00:00Z", unit(0)),
            ("2026-11-11T00:00:00Z", unit(1000)),
            ("2026-12-24T00:00:00Z", unit(3000)),
        ] {
            assert_eq!(labour.accrued(month, at(now)), due, "{now}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_sum_to_the_whole_and_differ_from_their_share_by_less_than_one(
            nanos in -10i128.pow(27)..10i128.pow(27),
            weights in prop::collection::vec(0i128..1 << 55, 1..60),
        ) {
            let parts = split(Money::from_nanos(nanos), &weights);
            prop_assert_eq!(parts.iter().map(|part| part.nanos()).sum::<i128>(), nanos);
            let sum: i128 = weights.iter().sum();
            for (part, weight) in parts.iter().zip(&weights).filter(|_| sum > 0 && nanos.abs() < 1 << 62) {
                let exact = nanos * weight;
                let rounded = (part.nanos() - exact.div_euclid(sum)) * sum;
                prop_assert!((0..=sum).contains(&rounded));
            }
        }

        #[test]
        fn however_much_is_used_nothing_is_lost(
            nanos in 0i128..10i128.pow(27),
            used in prop::collection::vec(prop::collection::vec((0i64..i64::MAX / 64, 0i128..10i128.pow(27)), 0..6), 1..6),
            share_by in prop::sample::select(vec![ShareBy::GpuHours, ShareBy::Cost, ShareBy::Evenly]),
        ) {
            let workload = |(number, (gpu_seconds, cost)): (usize, &(i64, i128))| {
                let usage = Usage { gpu_seconds: *gpu_seconds, cost: Money::from_nanos(*cost) };
                (number, usage)
            };
            let namespace = |(number, workloads): (usize, &Vec<_>)| {
                (format!("ns-{number}"), workloads.iter().enumerate().map(workload).collect())
            };
            let usages: Usages<usize> = used.iter().enumerate().map(namespace).collect();
            let shared = overhead(Money::ZERO, share_by).allocate(Money::from_nanos(nanos), &usages);
            let total: Money = shared.namespaces.values().map(|borne| borne.total).sum();
            prop_assert_eq!((total + shared.unshared).nanos(), nanos);
            for borne in shared.namespaces.values().filter(|borne| !borne.workloads.is_empty()) {
                prop_assert_eq!(borne.workloads.values().copied().sum::<Money>(), borne.total);
            }
        }
    }
}
