//! What workloads cost by their priority, and what must be left so that those of higher priority can
//! run on while the others stop.

use std::collections::BTreeMap;

#[cfg(test)]
use super::RunningCost;
use crate::money::Money;

/// The sums over the workloads of each priority that run or start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityTotals(BTreeMap<i32, Sums>);

/// The sums over the workloads of one priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Money an hour.
    rate: Money,
    /// How many of them take so many seconds to stop.
    stop_seconds: BTreeMap<i64, u32>,
    /// What would be free once those of them had given way that do.
    freed_budget: FreedBudget,
}

/// What becomes free when something stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreedBudget {
    /// Money an hour.
    pub rate: Money,
    /// What stopping it would cost.
    pub reserve: Money,
}

impl FreedBudget {
    /// Both of them.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            rate: self.rate + other.rate,
            reserve: self.reserve + other.reserve,
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            rate: self.rate - other.rate,
            reserve: self.reserve - other.reserve,
        }
    }
}

/// A workload in the sums of its priority.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prioritized {
    pub(crate) priority: i32,
    /// Money an hour.
    pub(crate) rate: Money,
    /// Seconds that it takes to stop.
    pub(crate) stop_seconds: i64,
    /// What becomes free if it gives way to others; nothing if it does not.
    pub(crate) freed_budget: FreedBudget,
}

impl PriorityTotals {
    /// The sums over these, all of which give way.
    #[cfg(test)]
    pub fn of(running_costs: &[RunningCost]) -> Self {
        let mut totals = Self::default();
        for running_cost in running_costs {
            let rate = running_cost.rate.unwrap_or_default();
            totals.add(Prioritized {
                priority: running_cost.priority,
                rate,
                stop_seconds: running_cost.stop_seconds,
                freed_budget: FreedBudget {
                    rate,
                    reserve: running_cost.reserve(),
                },
            });
        }
        totals
    }

    /// Adds a workload.
    pub(crate) fn add(&mut self, workload: Prioritized) {
        let sums = self.0.entry(workload.priority).or_default();
        sums.rate += workload.rate;
        sums.freed_budget = sums.freed_budget.and(workload.freed_budget);
        *sums.stop_seconds.entry(workload.stop_seconds).or_default() += 1;
    }

    /// Takes a workload out that was added.
    pub(crate) fn remove(&mut self, workload: Prioritized) {
        let Prioritized {
            priority,
            stop_seconds,
            ..
        } = workload;
        let Some(sums) = self.0.get_mut(&priority) else {
            return;
        };
        sums.rate = sums.rate - workload.rate;
        sums.freed_budget = sums.freed_budget.without(workload.freed_budget);
        if let Some(count) = sums.stop_seconds.get_mut(&stop_seconds) {
            *count -= 1;
            if *count == 0 {
                sums.stop_seconds.remove(&stop_seconds);
            }
        }
        if sums.stop_seconds.is_empty() {
            self.0.remove(&priority);
        }
    }

    /// What would be free once everything of each priority had given way.
    pub(super) fn freed_budget(&self) -> BTreeMap<i32, FreedBudget> {
        let sums = self.0.iter();
        sums.map(|(priority, sums)| (*priority, sums.freed_budget))
            .collect()
    }

    /// Money an hour of the workloads of each priority.
    pub(super) fn rates(&self) -> BTreeMap<i32, Money> {
        let sums = self.0.iter();
        sums.map(|(priority, sums)| (*priority, sums.rate))
            .collect()
    }

    /// For each priority that runs but the lowest: what everything except those below it spends while
    /// these stop. `rate` is the money an hour of all that runs.
    pub(crate) fn margins(&self, rate: Money) -> Vec<(i32, Money)> {
        let (mut above, mut longest) = (rate, 0);
        let pairs = self.0.values().zip(self.0.keys().skip(1));
        pairs
            .map(|(below, priority)| {
                above = above - below.rate;
                let last = below.stop_seconds.last_key_value();
                longest = longest.max(last.map_or(0, |(seconds, _)| *seconds));
                (*priority, above.cost_for_seconds_rounded_up(longest))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn those_above_must_be_able_to_run_on_while_the_others_stop() {
        let workload = |priority, rate, stop_seconds| Prioritized {
            priority,
            rate: money(rate),
            stop_seconds,
            freed_budget: FreedBudget::default(),
        };
        let workloads = [
            workload(0, "10", 3600),
            workload(0, "10", 60),
            workload(5, "4", 60),
            workload(9, "2", 7200),
        ];
        let mut totals = PriorityTotals::default();
        workloads.iter().for_each(|workload| totals.add(*workload));
        // of 27 an hour, one belongs to no workload
        let margins = totals.margins(money("27"));
        assert_eq!(margins, [(5, money("7")), (9, money("3"))]);
        totals.remove(workloads[0]);
        totals.remove(workloads[1]);
        assert_eq!(totals.margins(money("7")), [(9, money("0.05"))]);
        totals.remove(workloads[3]);
        totals.remove(workloads[2]);
        assert_eq!(totals, PriorityTotals::default());
    }
}
