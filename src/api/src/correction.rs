//! SpendCorrection: a credit, or the difference to an invoice, as an entry of its own next to the
//! ledger.

use bursar_core::calendar::Month;
use bursar_core::correction::Correction;
use bursar_core::cost_report::CostOwner;
use bursar_core::currency;
use bursar_core::money::Money;
use jiff::civil::Date;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient::Validate;
use crate::prices::{CURRENCY_MESSAGE, currency_rule};
use crate::quantities::{
    self, DATE_MESSAGE, DATE_RULE, FieldError, SIGNED_AMOUNT_MESSAGE, SIGNED_AMOUNT_RULE,
};
use crate::spend::{WorkloadKind, WorkloadRef};

/// An amount that counts in addition to the ledger: money that came back, or the difference to an
/// invoice. It cannot be changed; another one takes it back.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "SpendCorrection",
    plural = "spendcorrections",
    shortname = "correction",
    category = "bursar",
    status = "SpendCorrectionStatus",
    derive = "PartialEq",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(
        name = "Workload",
        type_ = "string",
        json_path = ".spec.workload.name",
        priority = 1
    ),
    printcolumn(name = "Date", type_ = "string", json_path = ".spec.date"),
    printcolumn(name = "Amount", type_ = "string", json_path = ".spec.amount"),
    printcolumn(
        name = "Currency",
        type_ = "string",
        json_path = ".spec.currency",
        priority = 1
    ),
    printcolumn(
        name = "Category",
        type_ = "string",
        json_path = ".spec.category",
        priority = 1
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
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
    validation = Rule::new("self == oldSelf")
        .message("the spec of a SpendCorrection cannot change: make another correction that takes it back"),
    validation = Rule::new("self.category != 'Credit' || self.amount.startsWith('-')")
        .message(r#"amount of a Credit must be negative, such as "-40.00"; what is to be paid in addition is an Adjustment"#),
    validation = Rule::new("!has(self.corrects) || self.corrects <= self.date")
        .message("corrects must be the month of date or an earlier one: date it on a day that is not before that month")
)]
pub struct SpendCorrectionSpec {
    /// The namespace whose spend is corrected. It may be gone.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("namespace must be the name of a namespace: small letters, digits and dashes, such as team"))]
    pub namespace: String,
    /// The workload, which may be gone; the namespace as a whole if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<CorrectedWorkload>,
    /// The day that it counts on, in the accounting time zone: its month's reports and the budgets'
    /// periods have it from then on.
    #[schemars(length(max = 10))]
    #[x_kube(validation = Rule::new(DATE_RULE).message(DATE_MESSAGE))]
    pub date: String,
    /// Money that is added to the spend; negative for money that came back.
    #[schemars(length(max = 24))]
    #[x_kube(
        validation = Rule::new(SIGNED_AMOUNT_RULE).message(SIGNED_AMOUNT_MESSAGE),
        validation = Rule::new("self.matches('[1-9]')").message("amount must not be zero: say what is added, or taken away")
    )]
    pub amount: String,
    /// ISO 4217 code of the amount: that of the month's accounts.
    #[schemars(length(max = 3))]
    #[x_kube(validation = Rule::new(currency_rule()).message(CURRENCY_MESSAGE))]
    pub currency: String,
    /// The category of the charge, as FOCUS names it.
    pub category: Category,
    /// Why, for those who read the report.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('[^ ]')").message("reason must say why, in words that the report's readers understand"))]
    pub reason: String,
    /// The number of an invoice or a ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub reference: Option<String>,
    /// The month, as `2026-10`, whose invoice was out already and is corrected by this; FOCUS wants
    /// to know. Left out for money that corrects no earlier invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 7))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-(0[1-9]|1[0-2])$')").message(r#"corrects must be a month, such as "2026-10""#))]
    pub corrects: Option<String>,
}

/// A workload whose spend is corrected.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CorrectedWorkload {
    /// The workload's kind.
    pub kind: CorrectedKind,
    /// The workload's name.
    #[schemars(length(max = 50))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')")
        .message("name must be the name of a workload: small letters, digits and dashes, such as chat"))]
    pub name: String,
}

/// A kind of workload.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectedKind {
    /// InferenceDeployment.
    InferenceDeployment,
    /// TrainingJob.
    TrainingJob,
}

/// The category of a correction, as FOCUS names it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Money that was granted: a refund, a promotion.
    Credit,
    /// Any other difference, up or down.
    Adjustment,
}

impl Category {
    /// The category's name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "Credit",
            Self::Adjustment => "Adjustment",
        }
    }
}

/// The observed state of a SpendCorrection.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendCorrectionStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl SpendCorrection {
    /// The workload whose spend is corrected; `None` for the namespace as a whole.
    pub fn workload(&self) -> Option<WorkloadRef> {
        let workload = self.spec.workload.as_ref()?;
        Some(WorkloadRef {
            namespace: self.spec.namespace.clone(),
            kind: match workload.kind {
                CorrectedKind::InferenceDeployment => WorkloadKind::InferenceDeployment,
                CorrectedKind::TrainingJob => WorkloadKind::TrainingJob,
            },
            name: workload.name.clone(),
        })
    }

    /// The core's correction.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self) -> Result<Correction, FieldError> {
        let spec = &self.spec;
        let date: Date = spec.date.parse().map_err(|_| {
            FieldError::new("spec.date", format!("{:?}: {DATE_MESSAGE}", spec.date))
        })?;
        let amount = quantities::amount("spec.amount", &spec.amount)?;
        let refused =
            |why: &str| FieldError::new("spec.amount", format!("{:?} {why}", spec.amount));
        if amount == Money::ZERO {
            return Err(refused("corrects nothing: it must not be zero"));
        }
        if spec.category == Category::Credit && amount > Money::ZERO {
            return Err(refused("is no Credit: that must be negative"));
        }
        if currency::digits(&spec.currency).is_none() {
            let why = format!("{:?}: {CURRENCY_MESSAGE}", spec.currency);
            return Err(FieldError::new("spec.currency", why));
        }
        if let Some(month) = &spec.corrects {
            let month: Result<Month, _> = month.parse();
            month.map_err(|error| FieldError::new("spec.corrects", error))?;
        }
        let namespace = || CostOwner {
            namespace: spec.namespace.clone(),
            workload: String::new(),
        };
        Ok(Correction {
            name: self.name_any(),
            owner: self.workload().map_or_else(namespace, |of| of.cost_owner()),
            date,
            amount,
            currency: spec.currency.clone(),
        })
    }
}

impl Validate for SpendCorrection {
    fn validate(&self) -> Result<(), FieldError> {
        self.to_core().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;
    use serde_json::{Value, json};

    use super::*;

    fn correction(changes: Value) -> SpendCorrection {
        let mut spec = json!({
            "namespace": "team", "date": "2026-11-30", "amount": "-40.00", "currency": "USD", "category": "Credit",
            "reason": "GPUs that were lost", "reference": "CASE-7",
            "workload": {"kind": "TrainingJob", "name": "finetune"},
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "SpendCorrection", "metadata": {"name": "credit"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_correction_is_of_a_workload_or_of_its_namespace() {
        let of = |object: &SpendCorrection| {
            let correction = object.to_core().unwrap();
            (
                correction.owner.namespace,
                correction.owner.workload,
                correction.amount.to_string(),
            )
        };
        let expected = |workload: &str| ("team".to_owned(), workload.to_owned(), "-40.00".into());
        assert_eq!(of(&correction(json!({}))), expected("tj/finetune"));
        assert_eq!(of(&correction(json!({"workload": null}))), expected(""));
    }

    #[test]
    fn what_no_api_server_has_checked_is_refused_by_its_field() {
        for (changes, field) in [
            (json!({"date": "2026-02-29"}), "spec.date"),
            (json!({"amount": "-40,00"}), "spec.amount"),
            (json!({"amount": "-0.00"}), "spec.amount"),
            (json!({"amount": "40"}), "spec.amount"),
            (json!({"currency": "XXX"}), "spec.currency"),
            (json!({"corrects": "2026-13"}), "spec.corrects"),
        ] {
            let error = correction(changes).to_core().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        let more = json!({"category": "Adjustment", "amount": "40"});
        assert!(correction(more).to_core().is_ok());
    }

    /// The pattern of a rule of the form `self.matches('...')`.
    fn pattern(rule: &str) -> Regex {
        let inside = rule.strip_prefix("self.matches('");
        Regex::new(inside.and_then(|rest| rest.strip_suffix("')")).unwrap()).unwrap()
    }

    #[test]
    fn the_date_rule_takes_the_days_that_there_are() {
        let rule = pattern(DATE_RULE);
        for year in (1999..2010).chain([2096, 2100, 2400]) {
            for month in 0..=13 {
                for day in 0..=32 {
                    let is = Date::new(year, month, day).is_ok();
                    let text = format!("{year:04}-{month:02}-{day:02}");
                    assert_eq!(rule.is_match(&text), is, "{text}");
                }
            }
        }
        for text in [
            "2026-1-01",
            "20261130",
            "2026-11-30T00:00:00Z",
            "tomorrow",
            "",
        ] {
            assert!(!rule.is_match(text), "{text:?}");
        }
    }

    #[test]
    fn the_amount_rule_takes_what_is_read() {
        let rule = pattern(SIGNED_AMOUNT_RULE);
        for text in [
            "-40.00",
            "40",
            "-0.000000001",
            "0.0000000001",
            "+1",
            "--1",
            "-",
            "-.5",
            "1e3",
            "1,50",
            "",
            "-40.00 USD",
        ] {
            assert_eq!(
                rule.is_match(text),
                text.parse::<Money>().is_ok(),
                "{text:?}"
            );
        }
    }
}
