//! `behavior` of HorizontalPodAutoscaler v2, which is Bursar's too.

use bursar_api::quantities::nanos;
use bursar_api::scaling::MAX_POLICIES;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::draft::Draft;
use super::fields::Fields;

/// Copies an autoscaler's behavior, and says where Bursar's defaults are not those of Kubernetes.
pub(crate) fn set_behavior(draft: &mut Draft<'_>, mut behavior: Fields<'_>) {
    for direction in ["scaleUp", "scaleDown"] {
        report_defaults(draft, behavior.get(direction), direction);
        if !behavior.has(direction) {
            continue;
        }
        let mut rules = behavior.object(direction);
        let path = format!("scaling.behavior.{direction}");
        if let Some(window) = clamped(&mut rules, "stabilizationWindowSeconds", 0, 3600) {
            draft.set(&format!("{path}.stabilizationWindowSeconds"), window);
        }
        let policies = policies(&mut rules);
        if !policies.is_empty() {
            draft.set(&format!("{path}.policies"), policies);
        }
        match rules.text("selectPolicy").as_deref() {
            None => {}
            Some(policy @ ("Max" | "Min" | "Disabled")) => {
                draft.set(&format!("{path}.selectPolicy"), policy);
            }
            Some(other) => {
                let field = format!("{} ({other:?})", rules.path("selectPolicy"));
                draft
                    .report()
                    .dropped(field, "it is none of Max, Min and Disabled");
            }
        }
        if let Some(text) = rules.text("tolerance") {
            match tolerance(&text) {
                Some(tolerance) => draft.set(&format!("{path}.tolerance"), tolerance),
                None => {
                    let field = format!("{} ({text:?})", rules.path("tolerance"));
                    let why = "it is not between 0 and 1, in thousandths";
                    draft.report().dropped(field, why);
                }
            }
        }
    }
}

/// Reports what the rules of a direction leave to defaults that differ.
fn report_defaults(draft: &Draft<'_>, rules: Option<&Value>, direction: &str) {
    let field = format!("spec.scaling.behavior.{direction}");
    let rules = rules.unwrap_or(&Value::Null);
    let is_off = rules["selectPolicy"] == "Disabled";
    let policies = rules["policies"].as_array();
    if direction == "scaleUp" && !is_off && policies.is_none_or(Vec::is_empty) {
        let why = "Kubernetes' default lets 4 replicas or 100 % of them start in 15 s, and Bursar does not limit growth: give policies \
                   to keep the limit";
        draft.report().changed(&field, why);
    }
    if !is_off && rules["tolerance"].is_null() {
        let why =
            "Kubernetes' default of tolerance is 0.1, and Bursar's 0: give tolerance to keep it";
        draft.report().changed(&field, why);
    }
}

/// A number within bounds; one beyond them is reported, and the nearest is used.
fn clamped(fields: &mut Fields<'_>, name: &str, low: i64, high: i64) -> Option<i64> {
    let number = fields.integer(name)?;
    let near = number.clamp(low, high);
    if near != number {
        let why = format!("was {number}: Bursar takes {low} to {high}");
        fields.report().changed(fields.path(name), why);
    }
    Some(near)
}

fn policies(rules: &mut Fields<'_>) -> Vec<Value> {
    let mut kept = Vec::new();
    for mut policy in rules.objects("policies") {
        let kind = policy.text("type").unwrap_or_default();
        let value = clamped(&mut policy, "value", 1, 100_000);
        let period = clamped(&mut policy, "periodSeconds", 1, 1800);
        let field = policy.location().to_owned();
        let (Some(value), Some(period), "Pods" | "Percent") = (value, period, kind.as_str()) else {
            let why = "a policy has a type, Pods or Percent, a value and periodSeconds";
            rules.report().dropped(&field, why);
            continue;
        };
        if kept.len() >= MAX_POLICIES as usize {
            let why = format!("Bursar takes {MAX_POLICIES} policies");
            rules.report().dropped(&field, why);
            continue;
        }
        kept.push(json!({"type": kind, "value": value, "periodSeconds": period}));
    }
    kept
}

/// A tolerance as Bursar writes it: a fraction with at most three digits.
fn tolerance(text: &str) -> Option<String> {
    let nanos = nanos(&Quantity(text.to_owned())).ok()?;
    let (milli, rest) = (nanos / 1_000_000, nanos % 1_000_000);
    match (milli, rest) {
        (0, 0) => Some("0".to_owned()),
        (1..1000, 0) => Some(format!("0.{milli:03}").trim_end_matches('0').to_owned()),
        (1000, 0) => Some("1".to_owned()),
        _ => None,
    }
}
