//! The kinds of jobs that TrainingJobs may adopt: where each of them says whether it is suspended, what its pods
//! are, and how it has ended. It is the chart's value `jobTargets`.

use std::str::FromStr;

use bursar_api::inference::TargetRef;
use bursar_api::training::is_suspend_field;
use kube::api::ApiResource;
use serde::Deserialize;
use serde_json::Value;

use super::path::{ElementPath, FieldPath};

const MAX_KINDS: usize = 32;
const MAX_POD_SETS: usize = 8;
const MAX_COUNTS: usize = 4;
const MAX_REQUIREMENTS: usize = 4;
const MAX_NAME: usize = 253;

/// The kinds of jobs that TrainingJobs may adopt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobTargetKinds(Vec<JobKind>);

/// A kind of jobs that are suspended by a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobKind {
    pub(crate) api_group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    resource: String,
    /// The field by which it is suspended.
    pub(crate) suspend: FieldPath,
    /// What its controller asks of an object before that may be suspended.
    pub(crate) suspend_requires: Vec<Requirement>,
    /// The field that names another controller, and the value that names its own.
    pub(crate) managed_by: Option<(FieldPath, String)>,
    /// Its pod sets are those of the job of this kind, and of its own name, that it makes.
    pub(crate) pods_of: Option<(String, String)>,
    pub(crate) pod_sets: Vec<PodSetPaths>,
    /// The label of pods that names their pod set, in lower case.
    pub(crate) pod_set_label: Option<String>,
    pub(crate) succeeded: Vec<EndMark>,
    pub(crate) failed: Vec<EndMark>,
    /// Kinds that it makes between itself and its pods.
    makes: Vec<ApiResource>,
}

/// What must hold of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// It has this value; one that is missing is false.
    Is(FieldPath, bool),
    /// It is missing or empty.
    Absent(FieldPath),
}

/// Numbers of which the largest counts; 1 if none is there.
pub(crate) type Largest = Vec<FieldPath>;

/// Where a kind has pods that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSetPaths {
    pub(crate) at: ElementPath,
    pub(crate) name: PodSetName,
    pub(crate) template: FieldPath,
    /// Numbers whose product is that of its pods.
    pub(crate) count: Vec<Largest>,
    /// Numbers whose product is that of the pods that must end well; without the last one, all.
    pub(crate) completions: Vec<Largest>,
    /// Pods without the label that names their pod set are its own.
    pub(crate) is_unlabelled: bool,
}

/// What a pod set is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodSetName {
    Fixed(String),
    /// By a field of its element.
    Field(FieldPath),
    /// By the key of its element.
    Key,
}

/// What tells that a job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndMark {
    /// The condition of this type is True.
    Condition(String),
    /// The field has one of these values.
    Field(FieldPath, Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawKind {
    api_group: String,
    version: String,
    kind: String,
    resource: String,
    suspend: String,
    #[serde(default)]
    suspend_requires: Vec<RawRequirement>,
    managed_by: Option<RawManager>,
    pods_of: Option<RawReference>,
    #[serde(default)]
    pod_sets: Vec<RawPodSet>,
    pod_set_label: Option<String>,
    succeeded: Vec<RawEnd>,
    failed: Vec<RawEnd>,
    #[serde(default)]
    makes: Vec<RawResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawManager {
    path: String,
    own: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRequirement {
    path: String,
    value: Option<bool>,
    #[serde(default)]
    absent: bool,
}

/// A path, or several of whose numbers the largest counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawCount {
    One(String),
    Largest(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawReference {
    api_group: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPodSet {
    at: String,
    name: Option<String>,
    name_at: Option<String>,
    template: String,
    #[serde(default)]
    count: Vec<RawCount>,
    #[serde(default)]
    completions: Vec<RawCount>,
    #[serde(default)]
    unlabelled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawEnd {
    condition: Option<String>,
    path: Option<String>,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawResource {
    api_group: String,
    version: String,
    kind: String,
    resource: String,
}

impl FromStr for JobTargetKinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entries: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| format!("no JSON list of kinds: {error}"))?;
        if entries.len() > MAX_KINDS {
            return Err(format!("at most {MAX_KINDS} kinds"));
        }
        let mut kinds: Vec<JobKind> = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let kind = entry["kind"].as_str().unwrap_or_default().to_owned();
            let wrong = |why: String| format!("jobTargets[{index}] ({kind}): {why}");
            let raw: RawKind =
                serde_json::from_value(entry).map_err(|error| wrong(error.to_string()))?;
            let parsed = JobKind::parse(raw).map_err(wrong)?;
            if kinds
                .iter()
                .any(|other| other.is(&parsed.api_group, &parsed.kind))
            {
                return Err(wrong("the kind is listed twice".to_owned()));
            }
            kinds.push(parsed);
        }
        let all = Self(kinds);
        for (index, kind) in all.0.iter().enumerate() {
            let Some((group, of)) = &kind.pods_of else {
                continue;
            };
            let has_pods = |other: &JobKind| !other.pod_sets.is_empty();
            if !all.kind(group, of).is_some_and(has_pods) {
                let name = &kind.kind;
                return Err(format!(
                    "jobTargets[{index}] ({name}): podsOf names {of} of {group:?}, which is not listed with podSets"
                ));
            }
        }
        Ok(all)
    }
}

impl JobTargetKinds {
    /// The kind of an API group, whatever its version.
    pub(crate) fn kind(&self, group: &str, kind: &str) -> Option<&JobKind> {
        self.0.iter().find(|known| known.is(group, kind))
    }

    /// The kind of a target.
    pub(crate) fn of(&self, target: &TargetRef) -> Option<&JobKind> {
        self.kind(target.group(), &target.kind)
    }

    /// The kinds, as conditions list them.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self
            .0
            .iter()
            .map(|kind| format!("{} of {}", kind.kind, kind.resource().api_version))
            .collect();
        match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        }
    }

    /// The resource of a kind that may own pods, or what owns these.
    pub(crate) fn owner(&self, group: &str, kind: &str) -> Option<ApiResource> {
        let made = self.0.iter().flat_map(|known| known.makes.iter().cloned());
        let all = self.0.iter().map(JobKind::resource).chain(made);
        let mut is_it = all.filter(|known| known.group == group && known.kind == kind);
        is_it.next()
    }
}

impl JobKind {
    fn is(&self, group: &str, kind: &str) -> bool {
        self.api_group == group && self.kind == kind
    }

    /// What an object lacks that its controller asks for before that may be suspended.
    pub(crate) fn unmet(&self, object: &Value) -> Option<&Requirement> {
        let mut all = self.suspend_requires.iter();
        all.find(|requirement| !requirement.holds(object))
    }

    /// How the API server serves it.
    pub(crate) fn resource(&self) -> ApiResource {
        resource((&self.api_group, &self.version), &self.kind, &self.resource)
    }

    fn parse(raw: RawKind) -> Result<Self, String> {
        check_resource(&raw.api_group, &raw.version, &raw.kind, &raw.resource)?;
        if raw.pod_sets.is_empty() == raw.pods_of.is_none() {
            return Err("either podSets or podsOf must be given".to_owned());
        }
        if raw.pod_sets.len() > MAX_POD_SETS {
            return Err(format!("podSets must be at most {MAX_POD_SETS}"));
        }
        let suspend = FieldPath::parse(&raw.suspend)?;
        if !is_suspend_field(&raw.suspend) {
            return Err(format!(
                "suspend {:?} must be a path that begins with spec and ends in suspend",
                raw.suspend
            ));
        }
        let label = raw.pod_set_label.as_ref();
        if label.is_some_and(|label| label.is_empty() || label.len() > MAX_NAME) {
            return Err("podSetLabel must be the key of a label".to_owned());
        }
        let managed_by = raw.managed_by.map(|manager| {
            let path = FieldPath::parse(&manager.path)?;
            Ok::<_, String>((path, manager.own))
        });
        if raw.suspend_requires.len() > MAX_REQUIREMENTS {
            return Err(format!(
                "suspendRequires must be at most {MAX_REQUIREMENTS} fields"
            ));
        }
        let requires = raw.suspend_requires.into_iter().map(Requirement::parse);
        let pod_sets = raw.pod_sets.into_iter().map(PodSetPaths::parse);
        let ends = |field: &str, marks: Vec<RawEnd>| match marks.is_empty() {
            true => Err(format!("{field} must say how an end is told")),
            false => marks.into_iter().map(EndMark::parse).collect(),
        };
        let makes = raw.makes.iter().map(|made| {
            check_resource(&made.api_group, &made.version, &made.kind, &made.resource)?;
            let version = (made.api_group.as_str(), made.version.as_str());
            Ok(resource(version, &made.kind, &made.resource))
        });
        Ok(Self {
            suspend,
            suspend_requires: requires.collect::<Result<_, String>>()?,
            managed_by: managed_by.transpose()?,
            pods_of: raw.pods_of.map(|made| (made.api_group, made.kind)),
            pod_sets: pod_sets.collect::<Result<_, String>>()?,
            pod_set_label: raw.pod_set_label,
            succeeded: ends("succeeded", raw.succeeded)?,
            failed: ends("failed", raw.failed)?,
            makes: makes.collect::<Result<_, String>>()?,
            api_group: raw.api_group,
            version: raw.version,
            kind: raw.kind,
            resource: raw.resource,
        })
    }
}

impl PodSetPaths {
    fn parse(raw: RawPodSet) -> Result<Self, String> {
        let paths = |field: &str, counts: Vec<RawCount>| -> Result<Vec<Largest>, String> {
            let counts = counts.into_iter().map(|count| match count {
                RawCount::One(path) => vec![path],
                RawCount::Largest(paths) => paths,
            });
            let counts: Vec<Vec<String>> = counts.collect();
            let is_bounded = |paths: &Vec<String>| (1..=MAX_COUNTS).contains(&paths.len());
            if counts.len() > MAX_COUNTS || !counts.iter().all(is_bounded) {
                return Err(format!(
                    "{field} must be at most {MAX_COUNTS} paths, or lists of 1 to {MAX_COUNTS} paths"
                ));
            }
            let largest =
                |paths: &Vec<String>| paths.iter().map(|path| FieldPath::parse(path)).collect();
            counts.iter().map(largest).collect()
        };
        let name = match (raw.name, raw.name_at) {
            (Some(name), None) if is_name(&name) => PodSetName::Fixed(name),
            (None, Some(path)) => PodSetName::Field(FieldPath::parse(&path)?),
            (None, None) if raw.at.ends_with(".*") => PodSetName::Key,
            _ => {
                return Err(
                    "a pod set must have either a name of small letters, digits and dashes, or a nameAt; one of a map is called by its key"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            at: ElementPath::parse(&raw.at)?,
            name,
            template: FieldPath::parse(&raw.template)?,
            count: paths("count", raw.count)?,
            completions: paths("completions", raw.completions)?,
            is_unlabelled: raw.unlabelled,
        })
    }
}

impl Requirement {
    fn parse(raw: RawRequirement) -> Result<Self, String> {
        let path = FieldPath::parse(&raw.path)?;
        match (raw.value, raw.absent) {
            (Some(value), false) => Ok(Self::Is(path, value)),
            (None, true) => Ok(Self::Absent(path)),
            _ => Err(
                "suspendRequires asks for a value of true or false, or for absent: true".to_owned(),
            ),
        }
    }

    /// Whether it holds of an object.
    fn holds(&self, object: &Value) -> bool {
        match self {
            Self::Is(path, value) => {
                path.get(object).and_then(Value::as_bool).unwrap_or(false) == *value
            }
            Self::Absent(path) => path.get(object).is_none_or(|value| match value {
                Value::Null => true,
                Value::Object(fields) => fields.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::String(text) => text.is_empty(),
                Value::Bool(_) | Value::Number(_) => false,
            }),
        }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(path, value) => write!(formatter, "with {path}: {value}"),
            Self::Absent(path) => write!(formatter, "without {path}"),
        }
    }
}

impl EndMark {
    fn parse(raw: RawEnd) -> Result<Self, String> {
        match (raw.condition, raw.path) {
            (Some(condition), None) if raw.values.is_empty() => Ok(Self::Condition(condition)),
            (None, Some(path)) if !raw.values.is_empty() => {
                Ok(Self::Field(FieldPath::parse(&path)?, raw.values))
            }
            _ => Err("an end is told by a condition, or by a path and values".to_owned()),
        }
    }
}

/// Whether a text can be the name of a pod set, which becomes a label's value.
pub(super) fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && text.bytes().all(is_part)
        && ends.iter().all(|end| end.is_some_and(|byte| byte != b'-'))
}

fn resource((group, version): (&str, &str), kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: match group {
            "" => version.to_owned(),
            _ => format!("{group}/{version}"),
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Whether all of it can be a part of a request's path.
fn check_resource(group: &str, version: &str, kind: &str, plural: &str) -> Result<(), String> {
    let is_part = |text: &str| {
        let mut bytes = text.bytes();
        text.len() <= MAX_NAME
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
            && !text.starts_with('.')
    };
    let parts = [
        ("apiGroup", group),
        ("version", version),
        ("kind", kind),
        ("resource", plural),
    ];
    for (field, text) in parts {
        let may_be_empty = field == "apiGroup";
        if !is_part(text) || text.is_empty() && !may_be_empty {
            return Err(format!("{field} {text:?} is no name"));
        }
    }
    Ok(())
}
