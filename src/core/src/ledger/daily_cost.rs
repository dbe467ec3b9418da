//! What one day's stays on one kind of hardware cost, and what became of it.

use std::iter::Sum;
use std::ops::AddAssign;

use super::charge::EngineUsage;
use crate::money::{Cost, Money};
use crate::pricing::{CapacityType, PricingAttributes, Share};

/// What a line is about: the hardware, and who held it where that was not a workload of Bursar's.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CostKey {
    /// The extended resource.
    pub resource: String,
    /// The part of a physical GPU that one unit of it is.
    pub share: Share,
    /// The GPU's product name.
    pub model: Option<String>,
    /// The node's instance type.
    pub instance_type: Option<String>,
    /// How the node is paid for.
    pub capacity_type: Option<CapacityType>,
    /// The node's region.
    pub region: Option<String>,
    /// Who made the pods, as `Kind/name`.
    pub owner: Option<String>,
}

impl CostKey {
    /// What a pod holds.
    pub fn new(facts: &PricingAttributes, owner: Option<&str>) -> Self {
        Self {
            resource: facts.resource.clone(),
            share: facts.share,
            model: facts.model.clone(),
            instance_type: facts.instance_type.clone(),
            capacity_type: facts.capacity_type,
            region: facts.region.clone(),
            owner: owner.map(str::to_owned),
        }
    }

    /// What stands for all that an account has no room to tell apart.
    pub fn other(resource: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            ..Self::default()
        }
    }

    /// True for the stays of a pod with these facts and owner.
    pub fn matches(&self, facts: &PricingAttributes, owner: Option<&str>) -> bool {
        self.resource == facts.resource
            && self.share == facts.share
            && self.model == facts.model
            && self.instance_type == facts.instance_type
            && self.capacity_type == facts.capacity_type
            && self.region == facts.region
            && self.owner.as_deref() == owner
    }
}

/// What stays cost, in its parts, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailyCost {
    /// The cost.
    pub cost: Cost,
    /// The part of `cost.total()` that rests on an estimated end or a provisional price.
    pub estimated: Money,
    /// The part of `cost.total()` from binding until first ready.
    pub starting: Money,
    /// The part of `cost.total()` in which replicas were ready and had nothing to do.
    pub idle: Money,
    /// The part of `cost.total()` from the order to stop until the end.
    pub draining: Money,
    /// What time on nodes that were lost cost. Not in `cost`.
    pub unattributed: Money,
    /// What one replica would have cost in the time in which a service rested at zero. Not in `cost`.
    pub saved: Money,
    /// Milligrams of CO₂ equivalent.
    pub carbon_mg: i64,
    /// Physical GPUs times seconds.
    pub gpu_seconds: i64,
    /// The part of `gpu_seconds` that no price was ever known for, and that `cost` lacks.
    pub unpriced_gpu_seconds: i64,
    /// What was done.
    pub usage: EngineUsage,
}

impl DailyCost {
    /// The part of the cost in which nothing was served: starting, idle and draining.
    pub fn waste(&self) -> Money {
        self.starting + self.idle + self.draining
    }
}

impl AddAssign for DailyCost {
    fn add_assign(&mut self, other: Self) {
        self.cost += other.cost;
        self.estimated += other.estimated;
        self.starting += other.starting;
        self.idle += other.idle;
        self.draining += other.draining;
        self.unattributed += other.unattributed;
        self.saved += other.saved;
        self.carbon_mg += other.carbon_mg;
        self.gpu_seconds += other.gpu_seconds;
        self.unpriced_gpu_seconds += other.unpriced_gpu_seconds;
        self.usage += other.usage;
    }
}

impl Sum for DailyCost {
    fn sum<I: Iterator<Item = Self>>(lines: I) -> Self {
        lines.fold(Self::default(), |mut sum, line| {
            sum += line;
            sum
        })
    }
}
