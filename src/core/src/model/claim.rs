//! Who waits for the money of budgets, and in which order it is given.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::budget::RunningCost;

use super::event::Name;

/// The weight of a service that names none, and of gangs.
pub const DEFAULT_WEIGHT: u32 = 100;

/// A workload of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    Service(Name),
    Job(Name),
}

impl Workload {
    /// Its name.
    pub(crate) fn name(&self) -> &Name {
        match self {
            Self::Service(name) | Self::Job(name) => name,
        }
    }
}

/// What of a workload is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The first replica of a service, and its `minReplicas`.
    First,
    /// Further replicas, or a gang.
    Further,
}

/// A place in the order in which workloads of a namespace get money: by priority, then first
/// replicas and minimums, then by weight, then by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BudgetRank {
    priority: Reverse<i32>,
    pub(crate) part: Part,
    weight: Reverse<u32>,
    created: Timestamp,
    pub(crate) workload: Workload,
}

impl BudgetRank {
    pub(crate) fn new(
        priority: i32,
        part: Part,
        weight: u32,
        created: Timestamp,
        workload: Workload,
    ) -> Self {
        Self {
            priority: Reverse(priority),
            part,
            weight: Reverse(weight),
            created,
            workload,
        }
    }

    /// The value of the PriorityClass.
    pub(crate) fn priority(&self) -> i32 {
        self.priority.0
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// What comes first, one by one, and costs something else than the rest.
    pub(crate) first: Vec<RunningCost>,
    /// What starts together or not at all.
    pub(crate) running_costs: Vec<(RunningCost, u32)>,
    /// How often, those that come first included.
    pub(crate) count: u32,
}

impl Claim {
    /// What starts together or not at all, one time after the other.
    pub(crate) fn starts(&self) -> impl Iterator<Item = Cow<'_, [(RunningCost, u32)]>> {
        let first = self.first.iter().map(|cost| Cow::Owned(vec![(*cost, 1)]));
        let others = std::iter::repeat(Cow::Borrowed(&*self.running_costs));
        first.chain(others).take(self.count as usize)
    }
}

/// That a workload gives way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BudgetPreemption {
    /// How many replicas go; a gang goes as a whole.
    pub(crate) replicas: u32,
    /// To whom.
    pub(crate) to: BudgetRank,
}

/// What is kept for those that rank before this one.
pub(crate) fn kept_before(
    kept: &BTreeMap<BudgetRank, Vec<(RunningCost, u32)>>,
    rank: &BudgetRank,
) -> Vec<(RunningCost, u32)> {
    let before = kept.range(..rank);
    let others = before.filter(|(other, _)| other.workload != rank.workload);
    others
        .flat_map(|(_, running_costs)| running_costs.iter().copied())
        .collect()
}
