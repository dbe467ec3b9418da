//! The cost of one day on one kind of hardware, and its parts.

use std::iter::Sum;
use std::ops::AddAssign;

use super::engine_usage::EngineUsage;
use crate::money::{Cost, Money};
use crate::pricing::{CapacityType, PricingAttributes, Share};

/// The key of a daily cost: the hardware, and the owner of the pods where that is not a workload of
/// Bursar's.
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
    /// The key of a pod's costs.
    pub fn new(attributes: &PricingAttributes, owner: Option<&str>) -> Self {
        Self {
            resource: attributes.resource.clone(),
            share: attributes.share,
            model: attributes.model.clone(),
            instance_type: attributes.instance_type.clone(),
            capacity_type: attributes.capacity_type,
            region: attributes.region.clone(),
            owner: owner.map(str::to_owned),
        }
    }

    /// The key of all costs that an account has no room to tell apart.
    pub fn other(resource: &str) -> Self {
        Self {
            resource: resource.to_owned(),
            ..Self::default()
        }
    }

    /// True for the costs of a pod with these attributes and this owner.
    pub fn matches(&self, attributes: &PricingAttributes, owner: Option<&str>) -> bool {
        self.resource == attributes.resource
            && self.share == attributes.share
            && self.model == attributes.model
            && self.instance_type == attributes.instance_type
            && self.capacity_type == attributes.capacity_type
            && self.region == attributes.region
            && self.owner.as_deref() == owner
    }
}

/// The cost of pod lifetimes, in its parts, and what was done meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailyCost {
    /// The cost.
    pub cost: Cost,
    /// The part of `cost.total()` that depends on an estimated end or a provisional price.
    pub estimated: Money,
    /// The part of `cost.total()` from binding until first ready.
    pub starting: Money,
    /// The part of `cost.total()` in which replicas were ready and had nothing to do.
    pub idle: Money,
    /// The part of `cost.total()` from the order to stop until the end.
    pub draining: Money,
    /// The cost of time on nodes that were lost. Not in `cost`.
    pub unattributed: Money,
    /// The cost that one replica would have had while the service was at zero replicas. Not in
    /// `cost`.
    pub saved: Money,
    /// Milligrams of CO₂ equivalent.
    pub carbon_mg: i64,
    /// Physical GPUs times seconds.
    pub gpu_seconds: i64,
    /// The part of `gpu_seconds` that no price was ever known for, and that `cost` lacks.
    pub unpriced_gpu_seconds: i64,
    /// The work that was done.
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
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |mut sum, cost| {
            sum += cost;
            sum
        })
    }
}
