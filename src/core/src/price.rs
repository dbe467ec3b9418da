//! What a pod costs an hour: the price list's answer to what the node's labels say.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::money::{Cost, Money, per_hour_for};

/// How a machine is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CapacityType {
    /// At the list price, until it is given back.
    OnDemand,
    /// Cheaper, and may be taken away.
    Spot,
    /// Committed in advance.
    Reserved,
}

/// The part of one physical GPU that one unit of a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share {
    /// Parts.
    pub part: u32,
    /// Of how many.
    pub whole: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { part: 1, whole: 1 }
    }
}

impl Share {
    /// The share of `amount`, rounded down.
    pub fn of(self, amount: i64) -> i64 {
        if self.part == self.whole {
            return amount;
        }
        let scaled = i128::from(amount) * i128::from(self.part) / i128::from(self.whole.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }
}

/// What a charge is priced by. Stored with the charge, because the node may be gone later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The extended resource that the pod holds, such as `nvidia.com/gpu`.
    pub resource: String,
    /// How many of it the pod holds.
    pub gpus: u32,
    /// How many of it the node has.
    pub node_gpus: u32,
    /// The GPU's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The node's instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// How the node is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<CapacityType>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The part of a physical GPU that one unit is.
    #[serde(default)]
    pub share: Share,
}

impl Facts {
    /// What holding `gpus` of `resource` on a node with these labels is priced by.
    pub fn from_labels(
        resource: &str,
        gpus: u32,
        node_gpus: u32,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).cloned();
        let capacity = first(&[
            "karpenter.sh/capacity-type",
            "eks.amazonaws.com/capacityType",
            "cloud.google.com/gke-provisioning",
        ]);
        let spot = labels
            .get("cloud.google.com/gke-spot")
            .is_some_and(|spot| spot == "true");
        Self {
            resource: resource.to_owned(),
            gpus,
            node_gpus,
            model: first(&[
                "nvidia.com/gpu.product",
                "amd.com/gpu.product-name",
                "gpu.intel.com/product",
            ]),
            instance_type: first(&["node.kubernetes.io/instance-type"]),
            capacity_type: match capacity
                .map(|name| name.to_ascii_lowercase().replace(['-', '_'], ""))
                .as_deref()
            {
                _ if spot => Some(CapacityType::Spot),
                Some("spot") => Some(CapacityType::Spot),
                Some("reserved") => Some(CapacityType::Reserved),
                Some("ondemand" | "standard") => Some(CapacityType::OnDemand),
                _ => None,
            },
            region: first(&["topology.kubernetes.io/region"]),
            share: Share::default(),
        }
    }
}

/// The price of one GPU for an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuPrice {
    /// The GPU's product name, as the node's label gives it.
    pub model: String,
    /// The extended resource it is offered as.
    pub resource: String,
    /// Only for nodes paid for in this way.
    pub capacity_type: Option<CapacityType>,
    /// Only in this region.
    pub region: Option<String>,
    /// Money an hour.
    pub per_hour: Money,
    /// Watts that one GPU draws (its TDP), where power is charged apart.
    pub watts: Option<u32>,
}

/// The price of a whole node for an hour, shared by its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePrice {
    /// The node's instance type.
    pub instance_type: String,
    /// The extended resource that its GPUs are offered as.
    pub resource: String,
    /// How many GPUs it has; the node's own count where the list does not say.
    pub gpus: Option<u32>,
    /// Only for nodes paid for in this way.
    pub capacity_type: Option<CapacityType>,
    /// Only in this region.
    pub region: Option<String>,
    /// Money an hour.
    pub per_hour: Money,
}

/// What electricity costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// Money a kilowatt-hour.
    pub per_kwh: Money,
    /// Power usage effectiveness in thousandths: 1120 is 1.12.
    pub pue_milli: u32,
}

/// All prices in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceBook {
    /// ISO 4217 code.
    pub currency: String,
    /// Prices of GPUs.
    pub gpus: Vec<GpuPrice>,
    /// Prices of nodes.
    pub nodes: Vec<NodePrice>,
    /// Electricity, where it is charged apart.
    pub power: Option<Power>,
}

/// What something costs and emits an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// Money an hour.
    pub cost: Cost,
    /// Milligrams of CO₂ equivalent an hour.
    pub carbon_mg: i64,
}

impl Quote {
    /// Milligrams in `seconds`, rounded down.
    pub fn carbon_mg_for(self, seconds: i64) -> i64 {
        i64::try_from(per_hour_for(self.carbon_mg.into(), seconds)).unwrap_or(i64::MAX)
    }
}

impl From<Cost> for Quote {
    fn from(cost: Cost) -> Self {
        Self { cost, carbon_mg: 0 }
    }
}

/// All price lists over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceLists {
    /// The book.
    pub book: PriceBook,
    /// Other books and since when.
    pub later: Vec<(Timestamp, PriceBook)>,
    /// Last edit.
    pub known: Timestamp,
}

impl PriceLists {
    /// Interim.
    pub fn price(&self, facts: &Facts, at: Timestamp) -> Priced {
        let book = self
            .later
            .iter()
            .rev()
            .find(|(from, _)| *from <= at)
            .map_or(&self.book, |(_, book)| book);
        book.price(facts)
    }

    /// Interim.
    pub fn changes(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        self.later
            .iter()
            .map(|(from, _)| *from)
            .filter(|from| *from > after && *from <= until)
            .collect()
    }

    /// Interim.
    pub fn known(&self) -> Timestamp {
        self.known
    }
}

/// What the price list says of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Priced {
    /// A price that matches.
    Listed(Quote),
    /// No price matches; the dearest one listed for the resource stands in until one does.
    Provisional(Quote),
    /// Nothing is listed for the resource. Unknown is not zero.
    Unknown,
}

impl Priced {
    /// Cost an hour; `None` if unknown.
    pub fn rate(&self) -> Option<Quote> {
        match self {
            Self::Listed(rate) | Self::Provisional(rate) => Some(*rate),
            Self::Unknown => None,
        }
    }
}

impl PriceBook {
    /// The price of a pod: by the node's instance type, else by the GPU's model; the more a row says, the earlier it is taken.
    pub fn price(&self, facts: &Facts) -> Priced {
        let matching_node = self
            .nodes
            .iter()
            .filter(|row| {
                Some(&row.instance_type) == facts.instance_type.as_ref()
                    && row.resource == facts.resource
            })
            .filter_map(|row| {
                specificity(row.capacity_type, row.region.as_ref(), facts).map(|rank| (rank, row))
            })
            .max_by_key(|(rank, _)| *rank);
        if let Some((_, row)) = matching_node {
            let compute = row
                .per_hour
                .share(facts.gpus, row.gpus.unwrap_or(facts.node_gpus));
            return Priced::Listed(self.with_power(compute, facts).into());
        }
        let matching_gpu = self.gpu_rows(facts).max_by_key(|(rank, _)| *rank);
        if let Some((_, row)) = matching_gpu {
            return Priced::Listed(
                self.with_power(row.per_hour.times(facts.gpus), facts)
                    .into(),
            );
        }
        match self.dearest(&facts.resource) {
            Some(per_gpu) => Priced::Provisional(
                Cost {
                    compute: per_gpu.times(facts.gpus),
                    ..Cost::ZERO
                }
                .into(),
            ),
            None => Priced::Unknown,
        }
    }

    /// The most that one GPU of this resource costs an hour in this list.
    pub fn dearest(&self, resource: &str) -> Option<Money> {
        let gpus = self
            .gpus
            .iter()
            .filter(|row| row.resource == resource)
            .map(|row| row.per_hour);
        let nodes = self
            .nodes
            .iter()
            .filter(|row| row.resource == resource)
            .filter_map(|row| Some(row.per_hour.share(1, row.gpus?)));
        gpus.chain(nodes).max()
    }

    fn gpu_rows<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = (u8, &'a GpuPrice)> {
        self.gpus
            .iter()
            .filter(|row| {
                Some(&row.model) == facts.model.as_ref() && row.resource == facts.resource
            })
            .filter_map(|row| {
                specificity(row.capacity_type, row.region.as_ref(), facts).map(|rank| (rank, row))
            })
    }

    /// Adds electricity: watts / 1000 x PUE x price of a kilowatt-hour, for each GPU.
    fn with_power(&self, compute: Money, facts: &Facts) -> Cost {
        let watts = self.gpu_rows(facts).find_map(|(_, row)| row.watts);
        let power = match (self.power, watts) {
            (Some(power), Some(watts)) => {
                let draw = i128::from(watts) * i128::from(power.pue_milli) * i128::from(facts.gpus);
                Money::from_nanos(power.per_kwh.nanos() * draw / 1_000_000)
            }
            _ => Money::ZERO,
        };
        Cost {
            compute,
            power,
            ..Cost::ZERO
        }
    }
}

/// How closely a row matches; `None` if it speaks of other nodes. A row that says nothing of capacity type or region is for all.
fn specificity(
    capacity_type: Option<CapacityType>,
    region: Option<&String>,
    facts: &Facts,
) -> Option<u8> {
    let capacity = match capacity_type {
        None => 0,
        wanted if wanted == facts.capacity_type => 2,
        // a node that does not say how it is paid for is taken as on demand
        Some(CapacityType::OnDemand) if facts.capacity_type.is_none() => 1,
        Some(_) => return None,
    };
    let region = match region {
        None => 0,
        wanted if wanted == facts.region.as_ref() => 3,
        Some(_) => return None,
    };
    Some(capacity + region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn book() -> PriceBook {
        let gpu = |capacity_type, region: Option<&str>, price| GpuPrice {
            model: "H100".into(),
            resource: "nvidia.com/gpu".into(),
            capacity_type,
            region: region.map(Into::into),
            per_hour: money(price),
            watts: Some(700),
        };
        PriceBook {
            currency: "USD".into(),
            gpus: vec![
                gpu(None, None, "5"),
                gpu(Some(CapacityType::Spot), None, "2"),
                gpu(Some(CapacityType::Spot), Some("us-east-1"), "1.5"),
            ],
            nodes: vec![NodePrice {
                instance_type: "p5.48xlarge".into(),
                resource: "nvidia.com/gpu".into(),
                gpus: Some(8),
                capacity_type: Some(CapacityType::OnDemand),
                region: None,
                per_hour: money("55.04"),
            }],
            power: None,
        }
    }

    fn facts(labels: &[(&str, &str)]) -> Facts {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Facts::from_labels("nvidia.com/gpu", 2, 8, &labels)
    }

    fn compute(text: &str) -> Cost {
        Cost {
            compute: money(text),
            ..Cost::ZERO
        }
    }

    #[test]
    fn the_more_a_row_says_the_earlier_it_is_taken() {
        let h100 = ("nvidia.com/gpu.product", "H100");
        let spot = ("karpenter.sh/capacity-type", "spot");
        assert_eq!(
            book().price(&facts(&[h100])),
            Priced::Listed(compute("10").into())
        );
        assert_eq!(
            book().price(&facts(&[h100, spot])),
            Priced::Listed(compute("4").into())
        );
        assert_eq!(
            book().price(&facts(&[
                h100,
                spot,
                ("topology.kubernetes.io/region", "us-east-1")
            ])),
            Priced::Listed(compute("3").into())
        );
    }

    #[test]
    fn a_node_price_is_shared_by_its_gpus() {
        let node = facts(&[
            ("nvidia.com/gpu.product", "H100"),
            ("node.kubernetes.io/instance-type", "p5.48xlarge"),
        ]);
        assert_eq!(book().price(&node), Priced::Listed(compute("13.76").into()));
    }

    #[test]
    fn a_missing_price_is_the_dearest_listed_and_never_zero() {
        assert_eq!(
            book().price(&facts(&[("nvidia.com/gpu.product", "B300")])),
            Priced::Provisional(compute("13.76").into())
        );
        let amd = Facts {
            resource: "amd.com/gpu".into(),
            gpus: 1,
            ..Facts::default()
        };
        assert_eq!(book().price(&amd), Priced::Unknown);
    }

    #[test]
    fn power_is_watts_times_pue_times_price() {
        let book = PriceBook {
            power: Some(Power {
                per_kwh: money("0.10"),
                pue_milli: 1120,
            }),
            ..book()
        };
        let priced = book
            .price(&facts(&[("nvidia.com/gpu.product", "H100")]))
            .rate()
            .unwrap();
        // 2 x 0.7 kW x 1.12 x 0.10
        assert_eq!(
            (priced.cost.compute, priced.cost.power),
            (money("10"), money("0.1568"))
        );
    }
}
