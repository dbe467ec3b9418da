//! The record of a workload and month, and its status.

use bursar_core::calendar::Month;
use bursar_core::cluster_bill::CostSource;
use bursar_core::cost_report::CostOwner;
use bursar_core::ledger::{Account, CostKey, DailyCosts, StoredAccount};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::charge::{ChargeTerms, OpenCharge, share_terms};
use super::consolidated::ConsolidatedAccount;
use super::daily_cost::{DayEntry, Hardware, ZeroReplicaStatus};
use super::invalid::invalid;
use crate::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL, WORKLOAD_LABEL};
use crate::quantities::FieldError;

/// The spend of one workload in one month, or of all workloads of a namespace in a closed month, or
/// of some of the cluster's nodes in a month. Written by Bursar alone; it outlives workload and
/// namespace.
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
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.namespace",
        priority = 1
    ),
    printcolumn(
        name = "Kind",
        type_ = "string",
        json_path = ".spec.kind",
        priority = 1
    ),
    printcolumn(
        name = "Workload",
        type_ = "string",
        json_path = ".spec.name",
        priority = 1
    ),
    printcolumn(
        name = "Month",
        type_ = "string",
        json_path = ".spec.month",
        priority = 1
    ),
    printcolumn(
        name = "Settled",
        type_ = "string",
        json_path = ".status.settled",
        description = "money of what is over"
    ),
    printcolumn(
        name = "Currency",
        type_ = "string",
        json_path = ".spec.currency",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SpendRecordSpec {
    /// The workload's namespace; empty for nodes.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(SAME).message(SAME_MESSAGE))]
    pub namespace: String,
    /// The workload's kind.
    #[x_kube(validation = Rule::new(SAME).message(SAME_MESSAGE))]
    pub kind: WorkloadKind,
    /// The workload's name; for nodes the first digit of their UIDs.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(SAME).message(SAME_MESSAGE))]
    pub name: String,
    /// The month, as `2026-11`.
    #[schemars(length(max = 7))]
    #[x_kube(validation = Rule::new(SAME).message(SAME_MESSAGE))]
    pub month: String,
    /// The accounting time zone, as its IANA name.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(SAME).message(SAME_MESSAGE))]
    pub time_zone: String,
    /// ISO 4217 code of all amounts; empty until a PriceList is known, and nothing is priced
    /// before.
    #[schemars(length(max = 3))]
    #[x_kube(validation = Rule::new("self == oldSelf || oldSelf == ''").message("the currency of a SpendRecord cannot change once it is known"))]
    pub currency: String,
}

/// One rule a field: the API server's estimate for a single rule is beyond its limit.
const SAME: &str = "self == oldSelf";
const SAME_MESSAGE: &str = "the spec of a SpendRecord cannot change";

/// The kind of account: a kind of workload, the namespace's other pods, or whole nodes.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum WorkloadKind {
    /// InferenceDeployment.
    InferenceDeployment,
    /// TrainingJob.
    TrainingJob,
    /// GPU pods of the namespace that no workload of Bursar's made.
    Unmanaged,
    /// Whole nodes that offer GPUs, whoever holds them.
    Node,
    /// All accounts of the namespace of a closed month.
    Folded,
}

/// The name of a namespace's account of [`WorkloadKind::Unmanaged`] pods.
const UNMANAGED: &str = "unmanaged";

impl WorkloadKind {
    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InferenceDeployment => "InferenceDeployment",
            Self::TrainingJob => "TrainingJob",
            Self::Unmanaged => "Unmanaged",
            Self::Node => "Node",
            Self::Folded => "Folded",
        }
    }

    /// The kind's short name.
    pub fn short(self) -> &'static str {
        match self {
            Self::InferenceDeployment => "infd",
            Self::TrainingJob => "tj",
            Self::Unmanaged => "pods",
            Self::Node => "nodes",
            Self::Folded => "ns",
        }
    }

    /// The source of the costs in accounts of this kind.
    pub fn cost_source(self) -> CostSource {
        match self {
            // a consolidated record has no cost of its own: its sections have
            Self::InferenceDeployment | Self::TrainingJob | Self::Folded => CostSource::Workloads,
            Self::Unmanaged => CostSource::Unmanaged,
            Self::Node => CostSource::Nodes,
        }
    }

    /// The kind of workload that has that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::InferenceDeployment, Self::TrainingJob]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// The ledger of one workload and month.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendRecordStatus {
    /// The charges of pods that still occupy a node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenCharge>,
    /// What prices the pods in `open`, where many of them have it in common; they refer to it by
    /// index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<ChargeTerms>,
    /// Kinds of hardware; `days` refer to them by index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<Hardware>,
    /// The posted costs, by day and kind of hardware.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<DayEntry>,
    /// UIDs of pods whose charges are settled and that may not be gone yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settling: Vec<String>,
    /// The time that the service is at zero replicas because no request needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting: Option<ZeroReplicaStatus>,
    /// Money: the sum of all days.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub settled: String,
    /// The accounts in a consolidated record, which has nothing else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folded: Vec<ConsolidatedAccount>,
}

/// A workload, or another thing that an account is kept for.
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
    /// The reference of the account of a namespace's unmanaged GPU pods.
    pub fn unmanaged(namespace: String) -> Self {
        Self {
            namespace,
            kind: WorkloadKind::Unmanaged,
            name: UNMANAGED.to_owned(),
        }
    }

    /// The owner of its costs, as reports name it.
    pub fn cost_owner(&self) -> CostOwner {
        CostOwner {
            namespace: self.namespace.clone(),
            workload: format!("{}/{}", self.kind.short(), self.name),
        }
    }

    /// The reference of the account of all nodes whose UIDs begin with the same digit as this one,
    /// so that there are sixteen records a month at most, and none grows with the cluster as a
    /// whole. Nothing else of a node is known from its first moment on.
    pub fn nodes(uid: &str) -> Self {
        let digit = uid.chars().next().filter(char::is_ascii_hexdigit);
        Self {
            namespace: String::new(),
            kind: WorkloadKind::Node,
            name: digit.unwrap_or('0').to_ascii_lowercase().to_string(),
        }
    }

    /// The name of its record of a month: `{namespace}.{infd|tj|pods|ns}.{name}.{YYYY-MM}`, and
    /// `nodes.{digit}.{YYYY-MM}`.
    pub fn record_name(&self, month: Month) -> String {
        let (kind, name) = (self.kind.short(), &self.name);
        match self.namespace.as_str() {
            "" => format!("{kind}.{name}.{month}"),
            namespace => format!("{namespace}.{kind}.{name}.{month}"),
        }
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
    /// The workload that the record is of.
    pub fn workload(&self) -> WorkloadRef {
        WorkloadRef {
            namespace: self.spec.namespace.clone(),
            kind: self.spec.kind,
            name: self.spec.name.clone(),
        }
    }

    /// Its month.
    ///
    /// # Errors
    /// When `spec.month` is not a month.
    pub fn month(&self) -> Result<Month, FieldError> {
        let month = self.spec.month.parse();
        month.map_err(|error| FieldError::new("spec.month", error))
    }

    /// The account that the record holds; that of a consolidated one is empty, since its sections
    /// have their own.
    ///
    /// # Errors
    /// The first field that cannot be read. Only somebody else's edit can cause that.
    pub fn to_account(&self) -> Result<Account, FieldError> {
        let empty = SpendRecordStatus::default();
        let status = self.status.as_ref().unwrap_or(&empty);
        let open = status
            .open
            .iter()
            .map(|charge| charge.to_core(&status.terms));
        let resting = status.resting.as_ref().map(ZeroReplicaStatus::to_core);
        let stored = StoredAccount {
            month: self.month()?,
            open: open.collect::<Result<_, FieldError>>()?,
            settling: status.settling.iter().cloned().collect(),
            zero_replica_period: resting.transpose()?,
            days: lines(&status.hardware, &status.days)?,
        };
        Account::restore(stored).map_err(invalid)
    }
}

/// The posted costs, by day and hardware.
pub(super) fn lines(hardware: &[Hardware], days: &[DayEntry]) -> Result<DailyCosts, FieldError> {
    let skus = hardware
        .iter()
        .map(Hardware::to_core)
        .collect::<Result<Vec<_>, FieldError>>()?;
    let mut lines = DailyCosts::new();
    for day in days {
        let (date, line) = day.to_core()?;
        // records of early versions have no index
        let at = day.hardware.and_then(|at| usize::try_from(at).ok());
        let sku = at.and_then(|at| skus.get(at)).cloned().unwrap_or_default();
        lines.entry(date).or_default().push((sku, line));
    }
    Ok(lines)
}

impl From<&Account> for SpendRecordStatus {
    fn from(account: &Account) -> Self {
        let lines = || {
            account
                .days()
                .iter()
                .flat_map(|(date, lines)| lines.iter().map(move |(sku, line)| (date, sku, line)))
        };
        let mut hardware: Vec<&CostKey> = Vec::new();
        let days = lines().map(|(date, sku, line)| {
            let at = hardware
                .iter()
                .position(|known| *known == sku)
                .unwrap_or_else(|| {
                    hardware.push(sku);
                    hardware.len() - 1
                });
            DayEntry::new(*date, i32::try_from(at).unwrap_or(i32::MAX), line)
        });
        let days = days.collect();
        let charges = account.open_charges().values();
        let mut open: Vec<OpenCharge> = charges.map(|charge| OpenCharge::from(&**charge)).collect();
        let terms = share_terms(&mut open);
        Self {
            open,
            terms,
            hardware: hardware.into_iter().map(Hardware::from).collect(),
            days,
            settling: account.settling().iter().cloned().collect(),
            resting: account.zero_replica_period().map(ZeroReplicaStatus::from),
            settled: account.settled_total().to_string(),
            folded: Vec::new(),
        }
    }
}

impl From<bursar_core::pricing::CapacityType> for crate::prices::CapacityType {
    fn from(capacity: bursar_core::pricing::CapacityType) -> Self {
        use bursar_core::pricing::CapacityType;
        match capacity {
            CapacityType::OnDemand => Self::OnDemand,
            CapacityType::Spot => Self::Spot,
            CapacityType::Reserved => Self::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use bursar_core::ledger::{
        Charge, ChargeEnd, EngineCounters, PreviousAmounts, RatePeriod, StoredCharge,
        ZeroReplicaPeriod,
    };
    use bursar_core::money::Cost;
    use bursar_core::pricing::{
        CapacityType, HourlyRate, PricingAttributes, ResourceAmounts, Share,
    };
    use jiff::Timestamp;
    use jiff::civil::date;
    use jiff::tz::TimeZone;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn amounts(cpu_milli: u32) -> ResourceAmounts {
        ResourceAmounts {
            cpu_milli,
            volumes: [("fast".to_owned(), 100)].into(),
            watts: Some(650),
            ..ResourceAmounts::default()
        }
    }

    fn charge(uid: &str, gpus: u32) -> Charge {
        let facts = PricingAttributes {
            resource: "nvidia.com/mig-1g.10gb".into(),
            gpus,
            node_gpus: 8,
            share: Share { part: 1, whole: 7 },
            model: Some("H100".into()),
            capacity_type: Some(CapacityType::Spot),
            node: Some("node-1".into()),
            amounts: amounts(4_000),
            ..PricingAttributes::default()
        };
        let other = PricingAttributes {
            resource: "amd.com/gpu".into(),
            gpus: 3,
            node_gpus: 4,
            model: Some("MI300X".into()),
            ..PricingAttributes::default()
        };
        let facts = facts.with_other_gpus([other]);
        let start = at("2026-11-03T10:00:00Z");
        let cost = Cost {
            compute: "4.76".parse().unwrap(),
            power: "0.123456789".parse().unwrap(),
            ..Cost::ZERO
        };
        let previous = PreviousAmounts {
            until: at("2026-11-03T10:30:00Z"),
            amounts: amounts(2_000),
        };
        let rate = RatePeriod {
            from: start,
            quote: HourlyRate {
                cost,
                carbon_mg: 300_000,
            },
            provisional: true,
        };
        let mut charge = Charge::restore(StoredCharge {
            previous_amounts: vec![previous],
            rates: vec![rate],
            ready_since: Some(at("2026-11-03T10:01:00Z")),
            draining_since: Some(at("2026-11-04T09:00:00Z")),
            ..StoredCharge::new(uid.into(), "p".into(), facts, start)
        })
        .unwrap();
        let counters = EngineCounters {
            requests: 7,
            input_tokens: 70,
            output_tokens: 700,
        };
        charge.add_usage(date(2026, 11, 3), Some(counters), 60);
        charge
    }

    #[test]
    fn a_record_gives_back_the_account_that_was_written_to_it() {
        let mut account = Account::new("2026-11".parse().unwrap());
        let mut open = charge("a", 2).with_owner("Deployment/notebook".into());
        open.note_node_lost(at("2026-11-04T10:00:00Z"));
        account.open(open);
        account.open(charge("c", 1));
        account.post_days_until("c", at("2026-11-04T00:00:00Z"), &TimeZone::UTC);
        let end = ChargeEnd {
            at: at("2026-11-05T00:00:07Z"),
            estimated: true,
        };
        account.settle(&charge("b", 4), end, &TimeZone::UTC);
        let resting = ZeroReplicaPeriod::after_last_replica(&charge("b", 4), end).unwrap();
        account.begin_zero_replica_period(resting.clone());
        account.end_zero_replica_period(at("2026-11-05T01:00:00Z"), &TimeZone::UTC);
        account.begin_zero_replica_period(resting);
        let workload = WorkloadRef {
            namespace: "ml".into(),
            kind: WorkloadKind::TrainingJob,
            name: "llama".into(),
        };
        let mut record = workload.record(account.month(), "UTC", "USD");
        record.status = Some(SpendRecordStatus::from(&account));
        let text = serde_json::to_string(&record).unwrap();
        let record: SpendRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(record.metadata.name.as_deref(), Some("ml.tj.llama.2026-11"));
        assert_eq!(record.to_account().unwrap(), account);
        assert_eq!(record.workload(), workload);
    }

    #[test]
    fn pods_of_one_kind_say_once_what_prices_them() {
        let mut account = Account::new("2026-11".parse().unwrap());
        let at = |second: u32| Timestamp::from_second(1_794_500_000 + i64::from(second)).unwrap();
        for pod in 0..2_000 {
            let attributes = PricingAttributes {
                resource: "nvidia.com/gpu".into(),
                // one in a thousand is like no other
                gpus: 1 + u32::from(pod % 1_000 == 7) * pod,
                node: Some(format!("node-{pod}")),
                ..PricingAttributes::default()
            };
            let uid = format!("6a0b2f0e-6d3c-4f35-9c5e-{pod:012}");
            let name = format!("notebook-7d4b9c5f6d-{pod:05}");
            let stored = StoredCharge {
                rates: vec![RatePeriod {
                    from: at(pod),
                    quote: HourlyRate {
                        cost: Cost {
                            compute: "4.76".parse().unwrap(),
                            ..Cost::ZERO
                        },
                        carbon_mg: 300_000,
                    },
                    provisional: false,
                }],
                ready_since: Some(at(pod + 30)),
                ..StoredCharge::new(uid, name, attributes, at(pod))
            };
            let charge = Charge::restore(stored).unwrap();
            account.open(charge.with_owner("Deployment/notebook".into()));
        }
        let status = SpendRecordStatus::from(&account);
        assert_eq!(status.terms.len(), 1);
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.len() < 500_000, "{} bytes", text.len());
        let mut record = WorkloadRef::unmanaged("ml".into()).record(account.month(), "UTC", "USD");
        record.status = Some(serde_json::from_str(&text).unwrap());
        assert_eq!(record.to_account().unwrap(), account);
        let status = record.status.as_mut().unwrap();
        status.terms.clear();
        let why = record.to_account().unwrap_err().to_string();
        assert!(why.contains("status.terms has no entry 0"), "{why}");
    }

    #[test]
    fn nodes_are_told_apart_by_the_first_digit_of_their_uids_in_no_namespace() {
        for (uid, name) in [
            ("e3b0c442-98fc", "nodes.e.2026-11"),
            ("E3b0c442-98fc", "nodes.e.2026-11"),
            ("not-a-uuid", "nodes.0.2026-11"),
        ] {
            let nodes = WorkloadRef::nodes(uid);
            let record = nodes.record("2026-11".parse().unwrap(), "UTC", "USD");
            assert_eq!(record.metadata.name.as_deref(), Some(name));
            assert_eq!(
                (record.workload(), nodes.namespace.as_str()),
                (nodes.clone(), "")
            );
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let status = serde_json::json!({
            "days": [{"date": "2026-11-03", "compute": "1.50", "gpuSeconds": 60}], "settled": "1.50",
        });
        let mut record = WorkloadRef {
            namespace: "ml".into(),
            kind: WorkloadKind::TrainingJob,
            name: "llama".into(),
        }
        .record("2026-11".parse().unwrap(), "UTC", "USD");
        record.status = Some(serde_json::from_value(status).unwrap());
        let account = record.to_account().unwrap();
        let days = account.days();
        let (_, line) = &days[&date(2026, 11, 3)][0];
        assert_eq!(
            (line.cost.total().to_string(), line.gpu_seconds),
            ("1.50".to_owned(), 60)
        );
    }
}
