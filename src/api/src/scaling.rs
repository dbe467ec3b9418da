//! How fast the replicas of an InferenceDeployment follow its demand, at which times other bounds hold,
//! and what becomes of them while the demand is not known.

use std::sync::LazyLock;

use bursar_core::scaling::{
    self, Cron, LONGEST_PERIOD, MAX_CRON_LENGTH, Milli, PolicyAmount, ScheduleEnd, SignalFailure,
};
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prices::zone_rule;
use crate::quantities::{self, DURATION_MESSAGE, DURATION_RULE, FieldError};

/// The most policies of one direction.
pub const MAX_POLICIES: u32 = 8;
/// The most schedules of a service.
pub const MAX_SCHEDULES: u32 = 16;
/// The longest stabilization window and panic window, in seconds.
const LONGEST_WINDOW: i32 = 3600;
/// The largest value of a policy.
const MAX_POLICY_VALUE: i32 = 100_000;
/// The most replicas of a service.
const MAX_REPLICAS: i32 = 1000;

const TOLERANCE_RULE: &str = r"self.matches('^(0([.][0-9]{1,3})?|1)$')";
const TOLERANCE_MESSAGE: &str =
    r#"must be a fraction from "0" to "1" with at most three digits, such as "0.1""#;

/// CEL: a cron expression of five fields. Ranges that run backwards and days that never come are found
/// when it is read.
fn cron_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let field = |value: &str| {
            let part = format!("([*]|{value}(-{value})?)(/(0?[1-9]|[1-9][0-9]))?");
            format!("{part}(,{part})*")
        };
        let minute = field("[0-5]?[0-9]");
        let hour = field("([01]?[0-9]|2[0-3])");
        let day = field("(0?[1-9]|[12][0-9]|3[01])");
        let month = field("(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))");
        let weekday = field("(0?[0-7]|(?i:sun|mon|tue|wed|thu|fri|sat))");
        format!("self.matches('^ *{minute} +{hour} +{day} +{month} +{weekday} *$')")
    });
    &RULE
}
const CRON_MESSAGE: &str = r#"must be a cron expression of five fields, such as "0 8 * * 1-5": minute, hour, day of the month, month, day of the week"#;

/// How fast replicas follow what the demand asks for, in the terms of HorizontalPodAutoscaler v2. The
/// first replica and what is outside `minReplicas` and `maxReplicas` wait for nothing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// How fast they follow a higher number. Without it: at once.
    pub scale_up: ScalingRules,
    /// How fast they follow a lower number.
    pub scale_down: ScalingRules,
    /// What counts as a burst: while one goes on, and for `windowSeconds` after it, nothing of `scaleUp`
    /// limits a higher number, and no replica is taken away. Without it nothing is a burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic: Option<Panic>,
}

/// How fast replicas follow in one direction.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Another number is followed once it was asked for throughout this many seconds: for `scaleUp` the
    /// lowest of them counts, for `scaleDown` the highest. Without it: 0 for `scaleUp`; 300 for
    /// `scaleDown`, and where growth is learned the time of a start, from 60 to 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 3600").message("stabilizationWindowSeconds must be between 0 and 3600"))]
    pub stabilization_window_seconds: Option<i32>,
    /// How much may change within a period. Without any, everything may at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_POLICIES))]
    pub policies: Vec<ScalingPolicy>,
    /// Which of the policies counts.
    #[serde(default)]
    pub select_policy: SelectPolicy,
    /// Nothing changes while the number that is asked for differs from the replicas by no more than this
    /// fraction of them. Without it: "0".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new(TOLERANCE_RULE).message(TOLERANCE_MESSAGE))]
    pub tolerance: Option<String>,
}

/// How much may change within a period.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// What `value` counts.
    #[serde(rename = "type")]
    pub kind: PolicyType,
    /// How much may change, from the replicas when the period began.
    #[schemars(range(max = 100_000))]
    #[x_kube(validation = Rule::new("self >= 1").message("value must be at least 1; selectPolicy: Disabled lets nothing change"))]
    pub value: i32,
    /// The length of the period in seconds.
    #[x_kube(validation = Rule::new("self >= 1 && self <= 1800").message("periodSeconds must be between 1 and 1800"))]
    pub period_seconds: i32,
}

/// What the value of a policy counts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyType {
    /// Replicas.
    Pods,
    /// Percent of the replicas, rounded so that one may change at least.
    Percent,
}

/// Which of several policies counts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SelectPolicy {
    /// The one that lets the most change.
    #[default]
    Max,
    /// The one that lets the least change.
    Min,
    /// Nothing changes in this direction, but for the first replica.
    Disabled,
}

/// What counts as a burst.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Panic {
    /// Demand asks for so many percent of the replicas that there are, or more.
    #[serde(default = "default_threshold")]
    #[x_kube(validation = Rule::new("self >= 110 && self <= 1000").message("thresholdPercent must be between 110 and 1000"))]
    pub threshold_percent: i32,
    /// How many seconds a burst counts after the last time when demand asked for so much.
    #[serde(default = "default_panic_window")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 3600").message("windowSeconds must be between 1 and 3600"))]
    pub window_seconds: i32,
}

fn default_threshold() -> i32 {
    200
}

fn default_panic_window() -> i32 {
    60
}

/// Bounds that hold at times of the day, of the week or of the year, in addition to `minReplicas` and
/// `maxReplicas`: of all that hold at one time the largest minimum and the smallest maximum count.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.end) != has(self.duration)").message("give either end or duration"),
    validation = Rule::new("has(self.minReplicas) || has(self.maxReplicas)").message("give minReplicas, maxReplicas or both"),
    validation = Rule::new("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("minReplicas must not be above maxReplicas")
)]
pub struct ScheduleSpec {
    /// Its name, which reasons show.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("name must be lowercase letters, digits and dashes, such as office-hours"))]
    pub name: String,
    /// When it starts: a cron expression of five fields. A time that the clock skips is the moment at
    /// which it does, and one that it shows twice counts once, the first time.
    #[schemars(length(max = MAX_CRON_LENGTH))]
    #[x_kube(validation = Rule::new(cron_rule()).message(CRON_MESSAGE))]
    pub start: String,
    /// When it ends: a cron expression. Where it starts and ends at the same time, it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_CRON_LENGTH))]
    #[x_kube(validation = Rule::new(cron_rule()).message(CRON_MESSAGE))]
    pub end: Option<String>,
    /// How long it lasts, instead of `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE))]
    pub duration: Option<String>,
    /// The time zone of `start` and `end`, by its name in the IANA database. Without it, that of the
    /// operator's accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(zone_rule()).message("timeZone must be a name of the IANA time zone database, such as Europe/Berlin"))]
    pub time_zone: Option<String>,
    /// The fewest replicas while it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000").message("minReplicas must be between 0 and 1000"))]
    pub min_replicas: Option<i32>,
    /// The most replicas while it is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000").message("maxReplicas must be between 0 and 1000"))]
    pub max_replicas: Option<i32>,
}

/// CEL: names of schedules differ.
pub(crate) const SCHEDULE_NAMES_RULE: &str =
    "self.all(s, self.exists_one(other, other.name == s.name))";
/// The message of [`SCHEDULE_NAMES_RULE`].
pub(crate) const SCHEDULE_NAMES_MESSAGE: &str = "names of schedules must differ";

/// What becomes of a service whose demand is not known, in whole or in part.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.action == 'Replicas') == has(self.replicas)")
        .message("action Replicas needs replicas, and action Hold has none")
)]
pub struct OnSignalFailure {
    /// What is done.
    #[serde(default)]
    pub action: FailureAction,
    /// How many replicas it has then, within its bounds; more, where what is known asks for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 0 && self <= 1000").message("replicas must be between 0 and 1000"))]
    pub replicas: Option<i32>,
    /// How long a part of the demand must have been unknown.
    #[serde(default = "default_after")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE))]
    pub after: String,
}

impl Default for OnSignalFailure {
    fn default() -> Self {
        Self {
            action: FailureAction::Hold,
            replicas: None,
            after: default_after(),
        }
    }
}

fn default_after() -> String {
    "5m".to_owned()
}

/// What is done while the demand is not known.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// The replicas stay; what is known may add to them.
    #[default]
    Hold,
    /// After `after` it has `replicas`.
    Replicas,
}

/// Reads a number within bounds.
fn within(field: &str, number: i32, low: i32, high: i32) -> Result<u32, FieldError> {
    let number = Some(number).filter(|number| (low..=high).contains(number));
    let number = number.and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| FieldError::new(field, format!("must be between {low} and {high}")))
}

fn seconds(field: &str, number: i32, low: i32, high: i32) -> Result<SignedDuration, FieldError> {
    within(field, number, low, high).map(|number| SignedDuration::from_secs(i64::from(number)))
}

/// Reads at most so many of a list.
fn read_list<T, U>(
    field: &str,
    list: &[T],
    most: u32,
    read: impl Fn(&str, &T) -> Result<U, FieldError>,
) -> Result<Vec<U>, FieldError> {
    if list.len() > most as usize {
        return Err(FieldError::new(field, format!("must be at most {most}")));
    }
    let each = list.iter().enumerate();
    each.map(|(index, item)| read(&format!("{field}[{index}]"), item))
        .collect()
}

impl Behavior {
    /// What it says. `field` is its path.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self, field: &str) -> Result<scaling::Behavior, FieldError> {
        let panic = |panic: &Panic| {
            let field = format!("{field}.panic");
            let threshold = format!("{field}.thresholdPercent");
            let window = format!("{field}.windowSeconds");
            Ok(scaling::Panic {
                threshold_percent: within(&threshold, panic.threshold_percent, 110, 1000)?,
                window: seconds(&window, panic.window_seconds, 1, LONGEST_WINDOW)?,
            })
        };
        Ok(scaling::Behavior {
            scale_up: self.scale_up.to_core(&format!("{field}.scaleUp"))?,
            scale_down: self.scale_down.to_core(&format!("{field}.scaleDown"))?,
            panic: self.panic.as_ref().map(panic).transpose()?,
        })
    }
}

impl ScalingRules {
    fn to_core(&self, field: &str) -> Result<scaling::ScalingRules, FieldError> {
        let window = self.stabilization_window_seconds.map(|window| {
            let field = format!("{field}.stabilizationWindowSeconds");
            seconds(&field, window, 0, LONGEST_WINDOW)
        });
        let tolerance = self.tolerance.as_ref().map(|text| {
            let nanos = quantities::nanos(&Quantity(text.clone())).ok();
            let milli = nanos.and_then(|nanos| u64::try_from(nanos / 1_000_000).ok());
            let milli = milli.filter(|milli| *milli <= 1000).map(Milli);
            milli.ok_or_else(|| FieldError::new(format!("{field}.tolerance"), TOLERANCE_MESSAGE))
        });
        let policies = format!("{field}.policies");
        Ok(scaling::ScalingRules {
            window: window.transpose()?,
            policies: read_list(&policies, &self.policies, MAX_POLICIES, |field, policy| {
                policy.to_core(field)
            })?,
            select: match self.select_policy {
                SelectPolicy::Max => scaling::SelectPolicy::Max,
                SelectPolicy::Min => scaling::SelectPolicy::Min,
                SelectPolicy::Disabled => scaling::SelectPolicy::Disabled,
            },
            tolerance: tolerance.transpose()?.unwrap_or_default(),
        })
    }
}

impl ScalingPolicy {
    fn to_core(&self, field: &str) -> Result<scaling::ScalingPolicy, FieldError> {
        let value = within(&format!("{field}.value"), self.value, 1, MAX_POLICY_VALUE)?;
        let longest = i32::try_from(LONGEST_PERIOD.as_secs()).unwrap_or(i32::MAX);
        let period = format!("{field}.periodSeconds");
        Ok(scaling::ScalingPolicy {
            amount: match self.kind {
                PolicyType::Pods => PolicyAmount::Pods(value),
                PolicyType::Percent => PolicyAmount::Percent(value),
            },
            period: seconds(&period, self.period_seconds, 1, longest)?,
        })
    }
}

/// What schedules say. `field` is the path of the list.
///
/// # Errors
/// The first field that cannot be read. The API server's rules let none through but cron expressions
/// with a range that runs backwards or a day that never comes.
pub fn schedules_to_core(
    field: &str,
    schedules: &[ScheduleSpec],
) -> Result<Vec<scaling::Schedule>, FieldError> {
    read_list(field, schedules, MAX_SCHEDULES, |field, schedule| {
        schedule.to_core(field)
    })
}

impl ScheduleSpec {
    fn to_core(&self, field: &str) -> Result<scaling::Schedule, FieldError> {
        let cron = |name: &str, text: &str| {
            Cron::parse(text).map_err(|error| FieldError::new(format!("{field}.{name}"), error))
        };
        let bound = |name: &str, number: Option<i32>| {
            let number =
                number.map(|number| within(&format!("{field}.{name}"), number, 0, MAX_REPLICAS));
            number.transpose()
        };
        let zone = self.time_zone.as_ref().map(|zone| {
            let zone = TimeZone::get(zone);
            zone.map_err(|error| FieldError::new(format!("{field}.timeZone"), error))
        });
        let end = match (&self.end, &self.duration) {
            (Some(end), None) => ScheduleEnd::At(cron("end", end)?),
            (None, Some(duration)) => ScheduleEnd::After(quantities::duration(
                &format!("{field}.duration"),
                duration,
            )?),
            _ => return Err(FieldError::new(field, "give either end or duration")),
        };
        Ok(scaling::Schedule {
            name: self.name.clone(),
            start: cron("start", &self.start)?,
            end,
            zone: zone.transpose()?,
            min: bound("minReplicas", self.min_replicas)?,
            max: bound("maxReplicas", self.max_replicas)?,
        })
    }
}

impl OnSignalFailure {
    /// What it says. `field` is its path.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self, field: &str) -> Result<SignalFailure, FieldError> {
        let after = quantities::duration(&format!("{field}.after"), &self.after)?;
        let replicas = format!("{field}.replicas");
        match (self.action, self.replicas) {
            (FailureAction::Hold, _) => Ok(SignalFailure::Hold),
            (FailureAction::Replicas, Some(number)) => Ok(SignalFailure::Replicas {
                replicas: within(&replicas, number, 0, MAX_REPLICAS)?,
                after,
            }),
            (FailureAction::Replicas, None) => Err(FieldError::new(
                replicas,
                "is missing: action Replicas needs it",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;
    use serde_json::{Value, json};

    use super::*;

    fn schedule(changes: Value) -> Result<scaling::Schedule, FieldError> {
        let mut spec =
            json!({"name": "day", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "minReplicas": 2});
        for (field, value) in changes.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let spec: ScheduleSpec = serde_json::from_value(spec).unwrap();
        spec.to_core("spec.scaling.schedules[0]")
    }

    #[test]
    fn the_rule_of_cron_expressions_refuses_what_reading_refuses() {
        let rule = cron_rule();
        let pattern = rule.strip_prefix("self.matches('").unwrap();
        let pattern = Regex::new(pattern.strip_suffix("')").unwrap()).unwrap();
        for text in [
            "* * * * *",
            "*/15 0-23/2 1,15 jan-MAR mon",
            "59 23 31 12 7",
            "05 8 * * 1-5",
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "+5 * * * *",
            "1, * * * *",
            "1-2-3 * * * *",
            "* * * * monday",
            "* * L * *",
            "@daily",
        ] {
            assert_eq!(pattern.is_match(text), Cron::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_the_api_server_lets_through_is_refused_with_its_path() {
        assert!(schedule(json!({"timeZone": "Europe/Berlin"})).is_ok());
        for (changes, field) in [
            (json!({"start": "5-1 * * * *"}), "start"),
            (json!({"start": "0 0 30 2 *"}), "start"),
            (json!({"end": "never"}), "end"),
            (json!({"timeZone": "Europe/Atlantis"}), "timeZone"),
            (json!({"minReplicas": -1}), "minReplicas"),
            (json!({"maxReplicas": 1001}), "maxReplicas"),
        ] {
            let error = schedule(changes).unwrap_err();
            assert_eq!(
                error.field,
                format!("spec.scaling.schedules[0].{field}"),
                "{error}"
            );
        }
        let error = schedule(json!({"duration": "1h"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "spec.scaling.schedules[0]: give either end or duration"
        );
    }

    #[test]
    fn a_manifest_of_the_autoscaler_of_kubernetes_is_read_as_it_reads_it() {
        let behavior: Behavior = serde_json::from_value(json!({
            "scaleUp": {"policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ], "selectPolicy": "Min", "tolerance": "0.05"},
            "scaleDown": {"stabilizationWindowSeconds": 300, "selectPolicy": "Disabled"},
            "panic": {},
        }))
        .unwrap();
        let read = behavior.to_core("spec.scaling.behavior").unwrap();
        let period = SignedDuration::from_secs(15);
        let policy = |amount| scaling::ScalingPolicy { amount, period };
        let policies = vec![
            policy(PolicyAmount::Percent(100)),
            policy(PolicyAmount::Pods(4)),
        ];
        assert_eq!(read.scale_up.policies, policies);
        assert_eq!(read.scale_up.select, scaling::SelectPolicy::Min);
        assert_eq!(read.scale_up.tolerance, Milli(50));
        assert_eq!(read.scale_down.window, Some(SignedDuration::from_secs(300)));
        assert_eq!(read.scale_down.select, scaling::SelectPolicy::Disabled);
        let panic = read.panic.unwrap();
        assert_eq!((panic.threshold_percent, panic.window.as_secs()), (200, 60));
        assert_eq!(
            Behavior::default().to_core("").unwrap(),
            scaling::Behavior::default()
        );
    }

    #[test]
    fn numbers_beyond_their_bounds_are_refused_again() {
        for (behavior, field) in [
            (
                json!({"scaleUp": {"tolerance": "1.5"}}),
                "scaleUp.tolerance",
            ),
            (
                json!({"scaleUp": {"tolerance": "-0.1"}}),
                "scaleUp.tolerance",
            ),
            (
                json!({"scaleDown": {"stabilizationWindowSeconds": 3601}}),
                "scaleDown.stabilizationWindowSeconds",
            ),
            (
                json!({"scaleDown": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 15}]}}),
                "scaleDown.policies[0].value",
            ),
            (
                json!({"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]}}),
                "scaleDown.policies[0].periodSeconds",
            ),
            (
                json!({"panic": {"thresholdPercent": 100}}),
                "panic.thresholdPercent",
            ),
        ] {
            let behavior: Behavior = serde_json::from_value(behavior).unwrap();
            assert_eq!(
                behavior.to_core("b").unwrap_err().field,
                format!("b.{field}")
            );
        }
        let missing = OnSignalFailure {
            action: FailureAction::Replicas,
            ..OnSignalFailure::default()
        };
        assert_eq!(missing.to_core("f").unwrap_err().field, "f.replicas");
    }
}
