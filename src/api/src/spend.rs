//! SpendRecord: the ledger of one workload and month, and the summary that a workload's status shows.

use std::collections::{BTreeMap, BTreeSet};

use bursar_core::ledger::{Account, Charge, DaySum, Rate};
use bursar_core::money::{Cost, Money};
use bursar_core::period::Month;
use bursar_core::price::Facts;
use jiff::civil::Date;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL, WORKLOAD_LABEL};
use crate::text::{self, FieldError};

/// The spend of one workload in one month. Written by Bursar alone; it outlives workload and namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "SpendRecord",
    plural = "spendrecords",
    shortname = "spend",
    category = "bursar",
    status = "SpendRecordStatus",
    derive = "PartialEq",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(
        name = "Kind",
        type_ = "string",
        json_path = ".spec.kind",
        priority = 1
    ),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "Month", type_ = "string", json_path = ".spec.month"),
    printcolumn(
        name = "Settled",
        type_ = "string",
        json_path = ".status.settled",
        description = "money of pods that have ended"
    ),
    printcolumn(name = "Currency", type_ = "string", json_path = ".spec.currency")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a SpendRecord cannot change"))]
pub struct SpendRecordSpec {
    /// The workload's namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The workload's kind.
    pub kind: WorkloadKind,
    /// The workload's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The month, as `2026-11`.
    #[schemars(length(max = 7))]
    pub month: String,
    /// The accounting time zone.
    #[schemars(length(max = 64))]
    pub time_zone: String,
    /// ISO 4217 code.
    #[schemars(length(max = 3))]
    pub currency: String,
}

/// A kind of workload.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum WorkloadKind {
    /// InferenceDeployment.
    InferenceDeployment,
    /// TrainingJob.
    TrainingJob,
}

impl WorkloadKind {
    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InferenceDeployment => "InferenceDeployment",
            Self::TrainingJob => "TrainingJob",
        }
    }

    /// The kind's short name.
    pub fn short(self) -> &'static str {
        match self {
            Self::InferenceDeployment => "infd",
            Self::TrainingJob => "tj",
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::InferenceDeployment, Self::TrainingJob]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// The ledger of one workload and month.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendRecordStatus {
    /// Pods that still hold a node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenCharge>,
    /// What ended pods cost, day by day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// UIDs of pods that are in `days` and may not be gone yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settling: Vec<String>,
    /// The sum of `days`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub settled: String,
}

/// A pod that still holds a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenCharge {
    /// The pod's UID.
    pub uid: String,
    /// The pod's name.
    pub pod: String,
    /// When it was bound.
    pub start: Time,
    /// The extended resource that it holds.
    pub resource: String,
    /// How many of it.
    pub gpus: i32,
    /// How many of it the node has.
    pub node_gpus: i32,
    /// The GPU's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The node's instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// How the node is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<crate::prices::CapacityType>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Its rates, one after the other; none while no price is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<OpenRate>,
}

/// A rate and when it began.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenRate {
    /// Since when.
    pub from: Time,
    /// Cost an hour.
    #[serde(flatten)]
    pub per_hour: Parts,
    /// The dearest listed price stands in, because none matched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
}

/// A cost in its parts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Parts {
    /// Machines and their GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
    /// Volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Electricity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// People and other overheads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labour: Option<String>,
}

/// What was settled on one day.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Day {
    /// The day, in the accounting time zone.
    pub date: String,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Parts,
    /// The part that rests on an estimated end or a provisional price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<String>,
    /// GPUs times seconds.
    pub gpu_seconds: i64,
    /// The part of them that no price was known for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpriced_gpu_seconds: Option<i64>,
}

/// What a workload's status says of its spend. Amounts are rounded to four decimals; SpendRecords have them exactly.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendSummary {
    /// Spent today, in the accounting time zone.
    pub today: String,
    /// Spent this month.
    pub month_to_date: String,
    /// Spent in all months that are on record.
    pub total: String,
    /// Money an hour now.
    pub rate_per_hour: String,
    /// GPU-hours in all months that are on record.
    pub gpu_hours: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The part of `total` that rests on an estimated end or a provisional price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated: Option<String>,
    /// GPU-hours that no price was known for, and that the amounts lack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpriced_gpu_hours: Option<String>,
    /// When these figures were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
}

/// A workload: what an account is kept for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadRef {
    /// Its namespace.
    pub namespace: String,
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl WorkloadRef {
    /// The name of its record of a month: `{namespace}.{infd|tj}.{name}.{YYYY-MM}`.
    pub fn record_name(&self, month: Month) -> String {
        format!(
            "{}.{}.{}.{month}",
            self.namespace,
            self.kind.short(),
            self.name
        )
    }

    /// An empty record.
    pub fn record(&self, month: Month, time_zone: &str, currency: &str) -> SpendRecord {
        let mut record = SpendRecord::new(
            &self.record_name(month),
            SpendRecordSpec {
                namespace: self.namespace.clone(),
                kind: self.kind,
                name: self.name.clone(),
                month: month.to_string(),
                time_zone: time_zone.to_owned(),
                currency: currency.to_owned(),
            },
        );
        let labels = [
            (NAMESPACE_LABEL, self.namespace.clone()),
            (KIND_LABEL, self.kind.as_str().to_owned()),
            (WORKLOAD_LABEL, self.name.clone()),
            (MONTH_LABEL, month.to_string()),
        ];
        record.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
        record
    }
}

impl SpendRecord {
    /// Whose record it is.
    pub fn workload(&self) -> WorkloadRef {
        WorkloadRef {
            namespace: self.spec.namespace.clone(),
            kind: self.spec.kind,
            name: self.spec.name.clone(),
        }
    }

    /// The account that the record holds.
    ///
    /// # Errors
    /// The first field that cannot be read. Only somebody else's edit can cause that.
    pub fn to_account(&self) -> Result<Account, FieldError> {
        let month: Month = self
            .spec
            .month
            .parse()
            .map_err(|error| FieldError::new("spec.month", error))?;
        let empty = SpendRecordStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        let open = status
            .open
            .iter()
            .map(|charge| Ok((charge.uid.clone(), charge.to_core()?)));
        let days = status.days.iter().map(|day| {
            let date: Date = day
                .date
                .parse()
                .map_err(|error| FieldError::new("status.days[].date", error))?;
            Ok((date, day.to_core()?))
        });
        Ok(Account {
            month,
            open: open.collect::<Result<BTreeMap<_, _>, FieldError>>()?,
            days: days.collect::<Result<BTreeMap<_, _>, FieldError>>()?,
            settling: status.settling.iter().cloned().collect::<BTreeSet<_>>(),
        })
    }
}

impl From<&Account> for SpendRecordStatus {
    fn from(account: &Account) -> Self {
        let settled: Money = account.days.values().map(|day| day.cost.total()).sum();
        Self {
            open: account.open.values().map(OpenCharge::from).collect(),
            days: account
                .days
                .iter()
                .map(|(date, sum)| Day::new(*date, sum))
                .collect(),
            settling: account.settling.iter().cloned().collect(),
            settled: settled.to_string(),
        }
    }
}

impl From<&Charge> for OpenCharge {
    fn from(charge: &Charge) -> Self {
        let facts = &charge.facts;
        let count = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        Self {
            uid: charge.uid.clone(),
            pod: charge.pod.clone(),
            start: Time(charge.start),
            resource: facts.resource.clone(),
            gpus: count(facts.gpus),
            node_gpus: count(facts.node_gpus),
            model: facts.model.clone(),
            instance_type: facts.instance_type.clone(),
            capacity_type: facts.capacity_type.map(Into::into),
            region: facts.region.clone(),
            rates: charge
                .rates
                .iter()
                .map(|rate| OpenRate {
                    from: Time(rate.from),
                    per_hour: Parts::from(&rate.per_hour),
                    provisional: rate.provisional,
                })
                .collect(),
        }
    }
}

impl OpenCharge {
    fn to_core(&self) -> Result<Charge, FieldError> {
        let rates = self.rates.iter().map(|rate| {
            Ok(Rate {
                from: rate.from.0,
                per_hour: rate.per_hour.to_core("status.open[].rates[]")?,
                provisional: rate.provisional,
            })
        });
        Ok(Charge {
            uid: self.uid.clone(),
            pod: self.pod.clone(),
            facts: Facts {
                resource: self.resource.clone(),
                gpus: u32::try_from(self.gpus).unwrap_or(0),
                node_gpus: u32::try_from(self.node_gpus).unwrap_or(0),
                model: self.model.clone(),
                instance_type: self.instance_type.clone(),
                capacity_type: self.capacity_type.map(Into::into),
                region: self.region.clone(),
                ..Facts::default()
            },
            start: self.start.0,
            rates: rates.collect::<Result<_, FieldError>>()?,
        })
    }
}

impl From<&Cost> for Parts {
    fn from(cost: &Cost) -> Self {
        let part = |amount: Money| (amount != Money::ZERO).then(|| amount.to_string());
        Self {
            compute: part(cost.compute),
            storage: part(cost.storage),
            power: part(cost.power),
            labour: part(cost.labour),
        }
    }
}

impl Parts {
    fn to_core(&self, field: &str) -> Result<Cost, FieldError> {
        let part = |text: &Option<String>| {
            text.as_deref()
                .map_or(Ok(Money::ZERO), |text| text::amount(field, text))
        };
        Ok(Cost {
            compute: part(&self.compute)?,
            storage: part(&self.storage)?,
            power: part(&self.power)?,
            labour: part(&self.labour)?,
        })
    }
}

impl Day {
    fn new(date: Date, sum: &DaySum) -> Self {
        Self {
            date: date.to_string(),
            cost: Parts::from(&sum.cost),
            estimated: (sum.estimated != Money::ZERO).then(|| sum.estimated.to_string()),
            gpu_seconds: sum.gpu_seconds,
            unpriced_gpu_seconds: Some(sum.unpriced_gpu_seconds).filter(|seconds| *seconds != 0),
        }
    }

    fn to_core(&self) -> Result<DaySum, FieldError> {
        Ok(DaySum {
            cost: self.cost.to_core("status.days[]")?,
            estimated: self.estimated.as_deref().map_or(Ok(Money::ZERO), |text| {
                text::amount("status.days[].estimated", text)
            })?,
            gpu_seconds: self.gpu_seconds,
            unpriced_gpu_seconds: self.unpriced_gpu_seconds.unwrap_or(0),
        })
    }
}

impl From<bursar_core::price::CapacityType> for crate::prices::CapacityType {
    fn from(capacity: bursar_core::price::CapacityType) -> Self {
        use bursar_core::price::CapacityType;
        match capacity {
            CapacityType::OnDemand => Self::OnDemand,
            CapacityType::Spot => Self::Spot,
            CapacityType::Reserved => Self::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use bursar_core::ledger::End;
    use bursar_core::price::Priced;
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn a_record_gives_back_the_account_that_was_written_to_it() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let facts = Facts {
            resource: "nvidia.com/gpu".into(),
            gpus: 2,
            node_gpus: 8,
            model: Some("H100".into()),
            ..Facts::default()
        };
        let charge = |uid: &str| Charge {
            uid: uid.into(),
            pod: "p".into(),
            facts: facts.clone(),
            start: at("2026-11-03T10:00:00Z"),
            rates: vec![],
        };
        let rate = Cost {
            compute: "4.76".parse().unwrap(),
            power: "0.123456789".parse().unwrap(),
            ..Cost::ZERO
        };
        let mut account = Account::new("2026-11".parse().unwrap());
        let (mut open, mut ended) = (charge("a"), charge("b"));
        open.reprice(
            &Priced::Provisional(rate.into()),
            at("2026-11-03T10:00:01Z"),
        );
        ended.reprice(&Priced::Listed(rate.into()), at("2026-11-03T10:00:01Z"));
        account.open(open);
        account.settle(
            &ended,
            End {
                at: at("2026-11-05T00:00:07Z"),
                estimated: true,
            },
            &TimeZone::UTC,
        );
        let workload = WorkloadRef {
            namespace: "ml".into(),
            kind: WorkloadKind::TrainingJob,
            name: "llama".into(),
        };
        let mut record = workload.record(account.month, "UTC", "USD");
        record.status = Some(SpendRecordStatus::from(&account));
        let text = serde_json::to_string(&record).unwrap();
        let record: SpendRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(record.metadata.name.as_deref(), Some("ml.tj.llama.2026-11"));
        assert_eq!(record.to_account().unwrap(), account);
        assert_eq!(record.workload(), workload);
    }
}
