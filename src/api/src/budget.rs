//! BudgetPolicy: what a namespace may spend.

use std::collections::BTreeSet;

use bursar_core::{budget, calendar, money::Money};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient::Validate;
use crate::names::APPLY_NOW_ANNOTATION;
use crate::quantities::{
    self, AMOUNT_MESSAGE, AMOUNT_RULE, DURATION_MESSAGE, DURATION_RULE, FieldError,
};

/// The money that all workloads of the namespace together may spend in a period, and the action
/// when it is spent.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "BudgetPolicy",
    plural = "budgetpolicies",
    shortname = "budget",
    category = "bursar",
    namespaced,
    status = "BudgetPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Limit", type_ = "string", json_path = ".spec.limit"),
    printcolumn(name = "Period", type_ = "string", json_path = ".spec.period"),
    printcolumn(
        name = "Spent",
        type_ = "string",
        json_path = ".status.spent",
        description = "spent in this period"
    ),
    printcolumn(
        name = "Remaining",
        type_ = "string",
        json_path = ".status.remaining",
        description = "neither spent nor in reserve"
    ),
    printcolumn(
        name = "Rate/h",
        type_ = "string",
        json_path = ".status.ratePerHour",
        description = "money an hour",
        priority = 1
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Exhausts-At",
        type_ = "string",
        json_path = ".status.exhaustionTime",
        description = "when it will be exhausted",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.unmanaged == 'Leave' || self.onExhausted == 'ScaleToZero'")
        .message("unmanaged: Evict needs onExhausted: ScaleToZero: pods of others do not stop while Bursar's own run on"),
    validation = Rule::new("self.unmanaged == 'Evict' || !has(self.exemptOwners)")
        .message("exemptOwners needs unmanaged: Evict: without it every pod stays")
)]
pub struct BudgetPolicySpec {
    /// Money for one period, in the price list's currency.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub limit: String,
    /// The period, in the accounting time zone.
    pub period: Period,
    /// The action when what is spent and what stopping would cost reach the limit.
    #[serde(default)]
    pub on_exhausted: OnExhausted,
    /// What happens then to GPU pods of the namespace that no workload of Bursar made.
    #[serde(default)]
    pub unmanaged: Unmanaged,
    /// Owners whose pods stay with `unmanaged: Evict`, as records of spend name them: `Kind/name`, such
    /// as `StatefulSet/jupyter`, `Deployment/notebook`, or `Pod/name` for a pod that nothing made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 512)))]
    #[x_kube(
        validation = Rule::new("self.all(o, o.matches('^[A-Za-z][A-Za-z0-9]*/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'))")
            .message("each of exemptOwners must be Kind/name, such as StatefulSet/jupyter")
    )]
    pub exempt_owners: Vec<String>,
    /// A workload that starts must be able to run for at least this long.
    #[serde(default = "default_useful_run")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE))]
    pub minimum_useful_run: String,
}

fn default_useful_run() -> String {
    "5m".to_owned()
}

/// How long a limit lasts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
    /// A calendar month.
    Monthly,
}

/// The action when a budget is spent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// Services go to zero, training is suspended.
    #[default]
    ScaleToZero,
    /// Services go to their `minReplicas`, training is suspended.
    ScaleToMin,
    /// Nothing grows or starts, training is suspended.
    Freeze,
}

/// What happens to GPU pods that no workload of Bursar made, once the limit is spent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmanaged {
    /// They run on, and more than the limit is spent.
    #[default]
    Leave,
    /// They are evicted five minutes after a warning, as far as PodDisruptionBudgets allow. Pods of
    /// DaemonSets, of kubelets and of Kubernetes' own namespaces stay.
    Evict,
}

impl Unmanaged {
    /// The same for the core, where the pods of these owners stay.
    fn exempting(self, owners: &[String]) -> budget::Unmanaged {
        match self {
            Self::Leave => budget::Unmanaged::Leave,
            Self::Evict => {
                let exempt: BTreeSet<_> =
                    owners.iter().map(|owner| owner.as_str().into()).collect();
                budget::Unmanaged::Evict {
                    exempt: exempt.into(),
                }
            }
        }
    }
}

/// Where a budget stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is money.
    Active,
    /// There is money for workloads of higher priority; those of lower priority are stopped.
    PartlyExhausted,
    /// It is spent, up to what stopping costs.
    Exhausted,
    /// More is spent than the limit.
    OverLimit,
    /// Something runs that no price is known for.
    Unknown,
}

/// The observed state of a BudgetPolicy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetPolicyStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The start of the period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_start: Option<Time>,
    /// Its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_end: Option<Time>,
    /// Spent in this period, to four decimals. Corrections are in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub spent: String,
    /// The part of `spent` that SpendCorrections are, where they do not sum to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrections: Option<String>,
    /// Money that stopping everything now would still cost.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reserve: String,
    /// Neither spent nor in reserve.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remaining: String,
    /// Money an hour.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rate_per_hour: String,
    /// ISO 4217 code.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub currency: String,
    /// When it will be exhausted at this rate, if that is in this period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhaustion_time: Option<Time>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// That it was exhausted. Holds until the period ends, the limit is raised or a credit is
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latch: Option<Latch>,
    /// The terms that stop workloads. They differ from the specification while an edit waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<BudgetTerms>,
    /// When an edit of the BudgetPolicy or of prices takes effect that would stop something that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_effective_at: Option<Time>,
    /// No GPU pod that Bursar did not make is evicted before. It is there only while the budget evicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evictions_from: Option<Time>,
    /// When these figures were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// That a budget was exhausted, and under which terms.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Latch {
    /// The start of the period in which it was.
    pub period_start: Time,
    /// The limit that was reached.
    pub limit: String,
    /// The corrections that were a part of what was spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrections: Option<String>,
    /// Only workloads of a lower priority than this are stopped; all are without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stops_below: Option<i32>,
}

/// What of a BudgetPolicy decides when it stops workloads.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BudgetTerms {
    /// Money for one period.
    pub limit: String,
    /// The period.
    pub period: Period,
    /// The action when what is spent and what stopping would cost reach the limit.
    pub on_exhausted: OnExhausted,
    /// What happens then to GPU pods that no workload of Bursar made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<Unmanaged>,
    /// Owners whose pods stay with `unmanaged: Evict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_owners: Vec<String>,
}

impl From<&budget::Terms> for BudgetTerms {
    fn from(terms: &budget::Terms) -> Self {
        let (unmanaged, exempt_owners) = match &terms.unmanaged {
            budget::Unmanaged::Leave => (Unmanaged::Leave, vec![]),
            budget::Unmanaged::Evict { exempt } => {
                let owners = exempt.iter().map(ToString::to_string);
                (Unmanaged::Evict, owners.collect())
            }
        };
        Self {
            unmanaged: Some(unmanaged),
            exempt_owners,
            limit: terms.limit.to_string(),
            period: terms.period.into(),
            on_exhausted: terms.on_exhausted.into(),
        }
    }
}

impl From<calendar::Period> for Period {
    fn from(period: calendar::Period) -> Self {
        match period {
            calendar::Period::Daily => Self::Daily,
            calendar::Period::Weekly => Self::Weekly,
            calendar::Period::Monthly => Self::Monthly,
        }
    }
}

impl From<budget::OnExhausted> for OnExhausted {
    fn from(action: budget::OnExhausted) -> Self {
        match action {
            budget::OnExhausted::ScaleToZero => Self::ScaleToZero,
            budget::OnExhausted::ScaleToMin => Self::ScaleToMin,
            budget::OnExhausted::Freeze => Self::Freeze,
        }
    }
}

impl From<Period> for calendar::Period {
    fn from(period: Period) -> Self {
        match period {
            Period::Daily => Self::Daily,
            Period::Weekly => Self::Weekly,
            Period::Monthly => Self::Monthly,
        }
    }
}

impl From<OnExhausted> for budget::OnExhausted {
    fn from(action: OnExhausted) -> Self {
        match action {
            OnExhausted::ScaleToZero => Self::ScaleToZero,
            OnExhausted::ScaleToMin => Self::ScaleToMin,
            OnExhausted::Freeze => Self::Freeze,
        }
    }
}

impl From<budget::Phase> for Phase {
    fn from(phase: budget::Phase) -> Self {
        match phase {
            budget::Phase::Active => Self::Active,
            budget::Phase::PartlyExhausted => Self::PartlyExhausted,
            budget::Phase::Exhausted => Self::Exhausted,
            budget::Phase::OverLimit => Self::OverLimit,
            budget::Phase::Unknown => Self::Unknown,
        }
    }
}

impl From<&budget::Latch> for Latch {
    fn from(latch: &budget::Latch) -> Self {
        Self {
            period_start: Time(latch.period_start),
            limit: latch.limit.to_string(),
            corrections: (latch.corrections != Money::ZERO).then(|| latch.corrections.to_string()),
            stops_below: latch.stops_below,
        }
    }
}

impl BudgetPolicy {
    /// What is on record of it beside its specification.
    ///
    /// # Errors
    /// The field of the status that cannot be read.
    pub fn record(&self) -> Result<budget::BudgetRecord, FieldError> {
        let status = self.status.as_ref();
        let terms = status.and_then(|status| status.in_force.as_ref());
        let in_force = terms.map(|terms| {
            Ok(budget::Terms {
                limit: quantities::amount("status.inForce.limit", &terms.limit)?,
                period: terms.period.into(),
                on_exhausted: terms.on_exhausted.into(),
                // a version before wrote none, and had no window for an edit of it
                unmanaged: match terms.unmanaged {
                    Some(unmanaged) => unmanaged.exempting(&terms.exempt_owners),
                    None => self.unmanaged(),
                },
            })
        });
        let is_new = status.is_none_or(|status| status.observed_generation.is_none());
        let apply_now = self.annotations().get(APPLY_NOW_ANNOTATION);
        Ok(budget::BudgetRecord {
            in_force: in_force.transpose()?,
            effective_at: status
                .and_then(|status| status.change_effective_at.as_ref())
                .map(|time| time.0),
            is_new,
            apply_now: apply_now.is_some_and(|value| value == "true"),
            unreadable: false,
            evictions_from: status
                .and_then(|status| status.evictions_from.as_ref())
                .map(|time| time.0),
        })
    }

    /// What happens to pods of no workload, for the core.
    pub fn unmanaged(&self) -> budget::Unmanaged {
        self.spec.unmanaged.exempting(&self.spec.exempt_owners)
    }

    /// The core's budget; `spent`, the part of it that `corrections` are, and the reserve for evictions
    /// are computed by the caller.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self, spent: Money, corrections: Money) -> Result<budget::Budget, FieldError> {
        let latch = self
            .status
            .as_ref()
            .and_then(|status| status.latch.as_ref());
        let latch = latch.map(|latch| {
            let limit = quantities::amount("status.latch.limit", &latch.limit)?;
            let corrections = latch.corrections.as_ref();
            let corrections =
                corrections.map(|amount| quantities::amount("status.latch.corrections", amount));
            Ok(budget::Latch {
                period_start: latch.period_start.0,
                limit,
                corrections: corrections.transpose()?.unwrap_or_default(),
                stops_below: latch.stops_below,
            })
        });
        Ok(budget::Budget {
            name: self.name_any(),
            limit: quantities::amount("spec.limit", &self.spec.limit)?,
            period: self.spec.period.into(),
            on_exhausted: self.spec.on_exhausted.into(),
            unmanaged: self.unmanaged(),
            eviction_reserve: Money::ZERO,
            minimum_useful_run: quantities::duration(
                "spec.minimumUsefulRun",
                &self.spec.minimum_useful_run,
            )?,
            latch: latch.transpose()?,
            doubt: None,
            spent,
            corrections,
        })
    }
}

impl Validate for BudgetPolicy {
    fn validate(&self) -> Result<(), FieldError> {
        self.record()?;
        self.to_core(Money::ZERO, Money::ZERO).map(drop)
    }
}
