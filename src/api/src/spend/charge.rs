//! The open charge of a pod or of a whole node, as a SpendRecord stores it.

use std::collections::BTreeMap;

use bursar_core::ledger::{
    Charge, EngineCounters, EngineUsage, PreviousAmounts, RatePeriod, StoredCharge,
};
use bursar_core::pricing::{self, HourlyRate, PricingAttributes, Share};
use jiff::civil::Date;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::daily_cost::CostComponents;
use crate::quantities::FieldError;

/// Records with fewer open charges repeat what prices them.
const MIN_SHARING: usize = 100;

/// The open charge of a pod that still occupies a node, or of a node's GPUs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenCharge {
    /// The pod's UID; for a node `UID/RESOURCE/COUNT/START`.
    pub uid: String,
    /// The pod's name, or the node's.
    pub pod: String,
    /// The owner that made the pod, where that is not Bursar, as `Kind/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When the pod was bound to its node; for a node, since when it is charged.
    pub start: Time,
    /// The cost before this instant is posted to `days` already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booked: Option<Time>,
    /// When the pod was first ready; until then it was starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Time>,
    /// Since when the pod has been draining or terminating.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Time>,
    /// Since when the pod's node has been unreachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Time>,
    /// The node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Watts that the pod's GPUs were measured to draw, all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watts: Option<i64>,
    /// True if devices of the pod are charged to another pod that uses the same ResourceClaim, or
    /// were: those that come to this pod count from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_devices: bool,
    /// The index in `status.terms` of what prices the pod, where many pods of the record have that
    /// in common. Otherwise it is said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<i32>,
    /// What prices the pod, unless `terms` is there.
    #[serde(flatten)]
    pub own_terms: Option<ChargeTerms>,
    /// The pod's earlier amounts, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierAmounts>,
    /// The engine's work on days that are not posted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<DayUsage>,
    /// The engine's counters, as `used` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<CounterReadings>,
}

/// What prices a charge: the GPUs, the kind of node, the amounts, and the rates that follow.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ChargeTerms {
    /// The extended resource that the pod holds, or the driver of its devices.
    pub resource: String,
    /// Units of `resource` that the pod holds.
    pub gpus: i32,
    /// Units of `resource` that the node has.
    pub node_gpus: i32,
    /// Physical GPUs that all resources of the vendor would make that the node offers, where they are
    /// several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_gpus: Option<i32>,
    /// The part of a physical GPU that one unit of `resource` is, as `1/7`; a whole GPU if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// The GPU's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Gibibytes of memory of the physical GPU, where a label of the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_gib: Option<i32>,
    /// The node's instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// How the node is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<crate::prices::CapacityType>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The node's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// GPUs of other resources that the pod holds in addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_gpus: Vec<OpenOtherGpus>,
    /// The pod's present amounts.
    #[serde(flatten)]
    pub amounts: OpenAmounts,
    /// The rates in the order of time; none while no price is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<OpenRate>,
}

/// GPUs of one more resource that a pod holds: of another vendor, or parts of another size.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenOtherGpus {
    /// The extended resource, or the driver of the devices.
    pub resource: String,
    /// Units of `resource` that the pod holds.
    pub gpus: i32,
    /// Units of `resource` that the node has.
    pub node_gpus: i32,
    /// Physical GPUs that all resources of the vendor would make that the node offers, where they are
    /// several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_gpus: Option<i32>,
    /// The part of a physical GPU that one unit of `resource` is, as `1/7`; a whole GPU if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// The GPU's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Gibibytes of memory of the physical GPU, where a label of the node says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_gib: Option<i32>,
    /// Since when the pod is charged for them; from its start, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// Amounts of a pod that may change while it runs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenAmounts {
    /// Thousandths of a CPU core that the pod requests.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_milli: i64,
    /// Mebibytes of memory that the pod requests.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_mebibytes: i64,
    /// Mebibytes of ephemeral storage that the pod requests.
    #[serde(skip_serializing_if = "is_zero")]
    pub ephemeral_mebibytes: i64,
    /// Gibibytes of the persistent volumes that are charged to the pod, by storage class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, i64>,
    /// Watts that the pod's GPUs were measured to draw, all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watts: Option<i64>,
}

/// Amounts of a pod before they changed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EarlierAmounts {
    /// When the amounts changed.
    pub until: Time,
    /// The amounts until then.
    #[serde(flatten)]
    pub amounts: OpenAmounts,
}

/// A rate and when it began.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenRate {
    /// When the rate began; with the charge, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Money an hour, in its parts.
    #[serde(flatten)]
    pub per_hour: CostComponents,
    /// Milligrams of CO₂ equivalent an hour.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carbon_milligrams: i64,
    /// True if the dearest listed price stands in, because none matched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
}

/// The work of a pod's engine on one day.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DayUsage {
    /// The day, in the accounting time zone.
    pub date: String,
    /// The work.
    #[serde(flatten)]
    pub used: WorkDone,
}

/// The work of an engine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkDone {
    /// Seconds in which a replica was ready and had nothing to do.
    #[serde(skip_serializing_if = "is_zero")]
    pub idle_seconds: i64,
    /// Number of requests finished.
    #[serde(skip_serializing_if = "is_zero")]
    pub requests: i64,
    /// Number of tokens read.
    #[serde(skip_serializing_if = "is_zero")]
    pub input_tokens: i64,
    /// Number of tokens written.
    #[serde(skip_serializing_if = "is_zero")]
    pub output_tokens: i64,
}

/// An engine's counters as they were last read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CounterReadings {
    /// Number of requests finished.
    pub requests: i64,
    /// Number of tokens read.
    pub input_tokens: i64,
    /// Number of tokens written.
    pub output_tokens: i64,
}

pub(super) fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<EngineUsage> for WorkDone {
    fn from(used: EngineUsage) -> Self {
        Self {
            idle_seconds: used.idle_seconds,
            requests: signed(used.requests),
            input_tokens: signed(used.input_tokens),
            output_tokens: signed(used.output_tokens),
        }
    }
}

impl From<WorkDone> for EngineUsage {
    fn from(used: WorkDone) -> Self {
        Self {
            idle_seconds: used.idle_seconds,
            requests: unsigned(used.requests),
            input_tokens: unsigned(used.input_tokens),
            output_tokens: unsigned(used.output_tokens),
        }
    }
}

impl From<EngineCounters> for CounterReadings {
    fn from(counters: EngineCounters) -> Self {
        Self {
            requests: signed(counters.requests),
            input_tokens: signed(counters.input_tokens),
            output_tokens: signed(counters.output_tokens),
        }
    }
}

impl From<CounterReadings> for EngineCounters {
    fn from(counters: CounterReadings) -> Self {
        Self {
            requests: unsigned(counters.requests),
            input_tokens: unsigned(counters.input_tokens),
            output_tokens: unsigned(counters.output_tokens),
        }
    }
}

fn amount(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// A share as `1/7`; `None` for a whole GPU.
pub(super) fn write_share(share: Share) -> Option<String> {
    (share != Share::default()).then(|| format!("{}/{}", share.part, share.whole))
}

/// Reads what [`write_share`] wrote.
pub(super) fn read_share(field: &str, text: Option<&String>) -> Result<Share, FieldError> {
    let Some(text) = text else {
        return Ok(Share::default());
    };
    let share = text.split_once('/').and_then(|(part, whole)| {
        let share = Share {
            part: part.parse().ok()?,
            whole: whole.parse().ok()?,
        };
        (share.whole > 0).then_some(share)
    });
    share.ok_or_else(|| {
        FieldError::new(
            field,
            format!("{text:?} is not a share: write it as \"1/7\""),
        )
    })
}

pub(super) fn read_date(field: &str, text: &str) -> Result<Date, FieldError> {
    text.parse().map_err(|error| FieldError::new(field, error))
}

impl From<&pricing::ResourceAmounts> for OpenAmounts {
    fn from(amounts: &pricing::ResourceAmounts) -> Self {
        let volumes = amounts.volumes.iter();
        Self {
            cpu_milli: amounts.cpu_milli.into(),
            memory_mebibytes: amounts.memory_mib.into(),
            ephemeral_mebibytes: amounts.ephemeral_mib.into(),
            volumes: volumes
                .map(|(class, gib)| (class.clone(), (*gib).into()))
                .collect(),
            watts: amounts.watts.map(Into::into),
        }
    }
}

impl OpenAmounts {
    fn to_core(&self) -> pricing::ResourceAmounts {
        let volumes = self.volumes.iter();
        pricing::ResourceAmounts {
            cpu_milli: amount(self.cpu_milli),
            memory_mib: amount(self.memory_mebibytes),
            ephemeral_mib: amount(self.ephemeral_mebibytes),
            volumes: volumes
                .map(|(class, gib)| (class.clone(), amount(*gib)))
                .collect(),
            watts: self.watts.map(amount),
        }
    }
}

impl From<&Charge> for OpenCharge {
    fn from(charge: &Charge) -> Self {
        let facts = charge.attributes();
        Self {
            uid: charge.uid().to_owned(),
            pod: charge.pod().to_owned(),
            owner: charge.owner().map(str::to_owned),
            start: Time(charge.start()),
            booked: charge.posted_until().map(Time),
            ready: charge.ready_since().map(Time),
            leaving: charge.draining_since().map(Time),
            lost: charge.node_lost_since().map(Time),
            node: facts.node.clone(),
            watts: facts.amounts.watts.map(Into::into),
            shares_devices: charge.shares_devices(),
            terms: None,
            own_terms: Some(ChargeTerms::from(charge)),
            earlier: charge
                .previous_amounts()
                .iter()
                .map(|earlier| EarlierAmounts {
                    until: Time(earlier.until),
                    amounts: OpenAmounts::from(&earlier.amounts),
                })
                .collect(),
            used: charge
                .usage()
                .iter()
                .map(|(date, used)| DayUsage {
                    date: date.to_string(),
                    used: (*used).into(),
                })
                .collect(),
            counters: (charge.counters() != EngineCounters::default())
                .then(|| charge.counters().into()),
        }
    }
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl From<&pricing::OtherGpus> for OpenOtherGpus {
    fn from(other: &pricing::OtherGpus) -> Self {
        Self {
            resource: other.resource.clone(),
            gpus: count(other.gpus),
            node_gpus: count(other.node_gpus),
            all_gpus: other.all_gpus.map(count),
            share: write_share(other.share),
            model: other.model.clone(),
            gpu_memory_gib: other.gpu_memory_gib.map(count),
            since: other.since.map(Time),
        }
    }
}

impl OpenOtherGpus {
    fn to_core(&self) -> Result<pricing::OtherGpus, FieldError> {
        let share = read_share("status.open[].otherGpus[].share", self.share.as_ref())?;
        Ok(pricing::OtherGpus {
            resource: self.resource.clone(),
            gpus: amount(self.gpus.into()),
            node_gpus: amount(self.node_gpus.into()),
            all_gpus: self.all_gpus.map(|gpus| amount(gpus.into())),
            share,
            model: self.model.clone(),
            gpu_memory_gib: self.gpu_memory_gib.map(|gib| amount(gib.into())),
            since: self.since.as_ref().map(|since| since.0),
        })
    }
}

impl From<&Charge> for ChargeTerms {
    fn from(charge: &Charge) -> Self {
        let facts = charge.attributes();
        Self {
            resource: facts.resource.clone(),
            gpus: count(facts.gpus),
            node_gpus: count(facts.node_gpus),
            all_gpus: facts.all_gpus.map(count),
            share: write_share(facts.share),
            model: facts.model.clone(),
            gpu_memory_gib: facts.gpu_memory_gib.map(count),
            instance_type: facts.instance_type.clone(),
            capacity_type: facts.capacity_type.map(Into::into),
            region: facts.region.clone(),
            zone: facts.zone.clone(),
            other_gpus: facts.other_gpus.iter().map(Into::into).collect(),
            amounts: OpenAmounts {
                // each pod's own
                watts: None,
                ..OpenAmounts::from(&facts.amounts)
            },
            rates: charge.rates().iter().map(OpenRate::from).collect(),
        }
    }
}

impl ChargeTerms {
    /// The same terms for a charge of any start: rates that began with it do not say when.
    fn without_start(mut self, start: &Time) -> Self {
        for rate in &mut self.rates {
            rate.from = rate.from.take().filter(|from| from != start);
        }
        self
    }
}

/// Takes out of `charges` the terms that several of them have in common, and returns them in the
/// order of [`OpenCharge::terms`]: 2,000 pods of a few kinds then take 0.4 MB, a third of what etcd
/// takes as one object. Few charges stay as they are, which is better to read.
pub(super) fn share_terms(charges: &mut [OpenCharge]) -> Vec<ChargeTerms> {
    if charges.len() < MIN_SHARING {
        return Vec::new();
    }
    let terms_of = |charge: &OpenCharge| {
        let own = charge.own_terms.clone()?.without_start(&charge.start);
        let key = serde_json::to_string(&own).ok()?;
        Some((key, own))
    };
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for (key, _) in charges.iter().filter_map(terms_of) {
        *counts.entry(key).or_default() += 1;
    }
    let (mut shared, mut indexes) = (Vec::new(), BTreeMap::new());
    for charge in charges {
        let Some((key, own)) = terms_of(charge).filter(|(key, _)| counts.get(key) > Some(&1))
        else {
            continue;
        };
        let index = *indexes.entry(key).or_insert_with(|| {
            shared.push(own);
            shared.len() - 1
        });
        (charge.terms, charge.own_terms) = (i32::try_from(index).ok(), None);
    }
    shared
}

impl From<&RatePeriod> for OpenRate {
    fn from(rate: &RatePeriod) -> Self {
        Self {
            from: Some(Time(rate.from)),
            per_hour: CostComponents::from(&rate.quote.cost),
            carbon_milligrams: rate.quote.carbon_mg,
            provisional: rate.provisional,
        }
    }
}

impl OpenCharge {
    /// The charge; `shared` are the record's terms.
    pub(super) fn to_core(&self, shared: &[ChargeTerms]) -> Result<Charge, FieldError> {
        let instant = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let terms = self.terms(shared)?;
        let others = terms.other_gpus.iter().map(OpenOtherGpus::to_core);
        let rates = terms.rates.iter().map(|rate| {
            let quote = HourlyRate {
                cost: rate.per_hour.to_core("status.open[].rates[]")?,
                carbon_mg: rate.carbon_milligrams,
            };
            Ok(RatePeriod {
                from: rate.from.as_ref().unwrap_or(&self.start).0,
                quote,
                provisional: rate.provisional,
            })
        });
        let used = self.used.iter().map(|day| {
            Ok((
                read_date("status.open[].used[].date", &day.date)?,
                day.used.into(),
            ))
        });
        let stored = StoredCharge {
            uid: self.uid.clone(),
            pod: self.pod.clone(),
            owner: self.owner.clone(),
            attributes: PricingAttributes {
                resource: terms.resource.clone(),
                gpus: u32::try_from(terms.gpus).unwrap_or(0),
                node_gpus: u32::try_from(terms.node_gpus).unwrap_or(0),
                all_gpus: terms.all_gpus.and_then(|gpus| u32::try_from(gpus).ok()),
                share: read_share("status.open[].share", terms.share.as_ref())?,
                model: terms.model.clone(),
                gpu_memory_gib: terms.gpu_memory_gib.and_then(|gib| u32::try_from(gib).ok()),
                instance_type: terms.instance_type.clone(),
                capacity_type: terms.capacity_type.map(Into::into),
                region: terms.region.clone(),
                zone: terms.zone.clone(),
                node: self.node.clone(),
                other_gpus: others.collect::<Result<_, FieldError>>()?,
                amounts: pricing::ResourceAmounts {
                    watts: self.watts.map(amount),
                    ..terms.amounts.to_core()
                },
            },
            previous_amounts: self
                .earlier
                .iter()
                .map(|earlier| PreviousAmounts {
                    until: earlier.until.0,
                    amounts: earlier.amounts.to_core(),
                })
                .collect(),
            shares_devices: self.shares_devices,
            start: self.start.0,
            posted_until: instant(&self.booked),
            rates: rates.collect::<Result<_, FieldError>>()?,
            ready_since: instant(&self.ready),
            draining_since: instant(&self.leaving),
            node_lost_since: instant(&self.lost),
            usage: used.collect::<Result<BTreeMap<_, _>, FieldError>>()?,
            counters: self.counters.map(Into::into).unwrap_or_default(),
        };
        Charge::restore(stored).map_err(super::invalid::invalid)
    }

    /// The units that the pod is charged for, by resource or driver; `shared` are the record's terms.
    pub fn units<'t>(&'t self, shared: &'t [ChargeTerms]) -> impl Iterator<Item = (&'t str, u32)> {
        self.terms(shared).into_iter().flat_map(|terms| {
            let others = terms.other_gpus.iter();
            let others = others.map(|other| (other.resource.as_str(), amount(other.gpus.into())));
            [(terms.resource.as_str(), amount(terms.gpus.into()))]
                .into_iter()
                .chain(others)
        })
    }

    fn terms<'t>(&'t self, shared: &'t [ChargeTerms]) -> Result<&'t ChargeTerms, FieldError> {
        let index = self.terms.and_then(|index| usize::try_from(index).ok());
        let shared = index.and_then(|index| shared.get(index));
        shared.or(self.own_terms.as_ref()).ok_or_else(|| {
            let why = match self.terms {
                Some(index) => format!("status.terms has no entry {index}"),
                None => format!("nothing says what the pod {} is charged for", self.pod),
            };
            FieldError::new("status.open[].terms", why)
        })
    }
}
