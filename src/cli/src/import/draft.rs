//! The manifest that an import makes, and its comments.

use bursar_api::lenient::{Lenient, Validate};
use bursar_api::{InferenceDeployment, TrainingJob};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::report::{Fate, Finding, Report};
use super::yaml::{self, Comments};

/// The longest name of a workload.
const MAX_NAME: usize = 50;

/// A resource of Bursar's that is being made.
#[derive(Debug)]
pub(crate) struct Draft<'r> {
    kind: DraftKind,
    metadata: Map<String, Value>,
    spec: Map<String, Value>,
    report: &'r Report,
}

/// What an import makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DraftKind {
    InferenceDeployment,
    TrainingJob,
}

impl DraftKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InferenceDeployment => "InferenceDeployment",
            Self::TrainingJob => "TrainingJob",
        }
    }
}

impl<'r> Draft<'r> {
    /// An empty one with the name, namespace and labels of the source, whose `metadata` is used up.
    pub(crate) fn new(kind: DraftKind, metadata: Fields<'r>) -> Self {
        let report = metadata.report();
        Self {
            kind,
            metadata: converted_metadata(metadata),
            spec: Map::new(),
            report,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.metadata.get("namespace")?.as_str()
    }

    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// Sets a field of the specification by its path, such as `scaling.idle.after`.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut fields = &mut self.spec;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                fields.insert(name.to_owned(), value.into());
                return;
            }
            let inner = fields.entry(name).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            let Value::Object(inner) = inner else { return };
            fields = inner;
        }
    }

    /// The same, with a comment about it.
    pub(crate) fn set_with_note(&mut self, path: &str, value: impl Into<Value>, why: &str) {
        self.set(path, value);
        self.report.note(format!("spec.{path}"), why);
    }

    /// A field of the specification.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        let mut names = path.split('.');
        let first = self.spec.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }

    /// The manifest. A field that Bursar could not read is reported.
    pub(crate) fn finish(self) -> Value {
        let manifest = json!({
            "apiVersion": "bursar.dev/v1alpha1",
            "kind": self.kind.as_str(),
            "metadata": self.metadata,
            "spec": self.spec,
        });
        match self.kind {
            DraftKind::InferenceDeployment => {
                check::<InferenceDeployment>(&manifest, self.report);
            }
            DraftKind::TrainingJob => check::<TrainingJob>(&manifest, self.report),
        }
        manifest
    }
}

/// Reports the field that keeps Bursar from reading a manifest, unless it is known to be missing.
fn check<K>(manifest: &Value, report: &Report)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Validate,
{
    let read = serde_json::from_str::<Lenient<K>>(&manifest.to_string());
    let fault = match read {
        Ok(object) => match object.checked(K::validate).into_result() {
            Ok(_) => return,
            Err(unreadable) => unreadable.fault,
        },
        Err(error) => {
            report.missing(".", format!("it cannot be read: {error}"));
            return;
        }
    };
    // metrics that are to be filled in are what signals of a custom engine measure
    let is_of_metrics = fault.field.ends_with(".measure");
    let is_known = is_of_metrics && report.is_missing("spec.engineOptions.metrics");
    if !is_known && !report.is_missing(&fault.field) {
        report.missing(&fault.field, &fault.why);
    }
}

/// Annotations and labels that tools put on an object for themselves, and that say nothing of the
/// workload.
const TOOL_PREFIXES: [&str; 9] = [
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
    "autoscaling.alpha.kubernetes.io/",
    "batch.kubernetes.io/",
    "meta.helm.sh/",
    "helm.sh/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
];
/// Labels of a tool that would take the new object for one of its own.
const TOOL_LABELS: [&str; 3] = ["app.kubernetes.io/managed-by", "controller-uid", "job-name"];

fn converted_metadata(mut metadata: Fields<'_>) -> Map<String, Value> {
    let report = metadata.report();
    let given = metadata.text("name");
    let generated = metadata.text("generateName");
    if given.is_none() && generated.is_some() {
        report.changed(
            "metadata.name",
            "the source has generateName, by which each creation makes another object: give each run a name of its own",
        );
    }
    let wanted = given.or(generated).unwrap_or_default();
    let name = workload_name(&wanted);
    if name.is_empty() {
        report.missing("metadata.name", "the source has none");
    } else if name != wanted.trim_end_matches('-') {
        let why = format!(
            "was {wanted:?}: a workload's name is at most {MAX_NAME} letters in lower case, digits and dashes, and begins with a letter"
        );
        report.changed("metadata.name", why);
    }
    let mut converted = Map::from_iter([("name".to_owned(), json!(name))]);
    if let Some(namespace) = metadata.text("namespace") {
        converted.insert("namespace".to_owned(), json!(namespace));
    }
    let labels = kept_labels(metadata.object("labels"));
    if !labels.is_empty() {
        converted.insert("labels".to_owned(), Value::Object(labels));
    }
    let mut annotations = metadata.object("annotations");
    for name in annotations.names() {
        if TOOL_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            annotations.ignore(&[&name]);
        } else {
            annotations.drop_field(
                &name,
                "annotations are for the tools of the source's kind: add those again that are not",
            );
        }
    }
    metadata.ignore(&[
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
    ]);
    metadata.drop_field("ownerReferences", "what owns the source does not own this");
    metadata.drop_field("finalizers", "they are the source's own");
    converted
}

fn kept_labels(mut labels: Fields<'_>) -> Map<String, Value> {
    let mut kept = Map::new();
    for name in labels.names() {
        let is_tool = TOOL_LABELS.contains(&name.as_str())
            || TOOL_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if is_tool {
            labels.ignore(&[&name]);
        } else if name.starts_with("kueue.x-k8s.io/") {
            labels.drop_field(&name, "the queue is Bursar's own");
        } else if name.starts_with("bursar.dev/") {
            labels.drop_field(&name, "labels of bursar.dev are set by Bursar");
        } else if let Some(text) = labels.text(&name) {
            kept.insert(name, json!(text));
        }
    }
    kept
}

/// The nearest name that a workload may have; empty if there is none.
fn workload_name(wanted: &str) -> String {
    let allowed = |character: char| match character.to_ascii_lowercase() {
        lower @ ('a'..='z' | '0'..='9' | '-') => lower,
        _ => '-',
    };
    let name: String = wanted.chars().map(allowed).collect();
    let name = name.trim_start_matches(|first: char| !first.is_ascii_lowercase());
    let name: String = name.chars().take(MAX_NAME).collect();
    name.trim_end_matches('-').to_owned()
}

/// What became of one object.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The kind and name of the source.
    pub(crate) source: String,
    /// The manifest.
    pub(crate) manifest: Value,
    /// What is to be known about it.
    pub(crate) findings: Vec<Finding>,
}

impl Imported {
    /// True if nothing was dropped or changed, and nothing has to be filled in.
    pub(crate) fn is_whole(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.fate == Fate::Note)
    }

    /// The manifest as YAML. Comments about a field of it stand at the field, all others at the
    /// top.
    pub(crate) fn yaml(&self) -> String {
        let mut comments = Comments::new();
        let mut text = yaml::comment(
            &format!("Made of {} by kubectl bursar import.", self.source),
            0,
        );
        for finding in &self.findings {
            let is_about_result = finding.fate != Fate::Dropped;
            match is_about_result && pointer(&self.manifest, &finding.field) {
                true => {
                    let line = match finding.fate {
                        Fate::Note => finding.why.clone(),
                        fate => format!("{}: {}", fate.as_str(), finding.why),
                    };
                    comments
                        .entry(finding.field.clone())
                        .or_default()
                        .push(line);
                }
                false => text += &yaml::comment(&finding.to_string(), 0),
            }
        }
        text + &yaml::document(&self.manifest, &comments)
    }
}

/// Whether a manifest has a field at this path.
fn pointer(manifest: &Value, path: &str) -> bool {
    let steps = path.split('.').flat_map(|step| {
        let mut parts = step.split('[');
        let name = parts.next().filter(|name| !name.is_empty());
        let indexes = parts.map(|part| part.trim_end_matches(']'));
        name.into_iter().chain(indexes)
    });
    let mut value = manifest;
    for step in steps {
        let next = match value {
            Value::Array(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
            other => other.get(step),
        };
        let Some(next) = next else { return false };
        value = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_workload_may_have() {
        for (wanted, name) in [
            ("chat", "chat"),
            ("My_Chat.v2", "my-chat-v2"),
            ("7b-chat", "b-chat"),
            ("sample-job-", "sample-job"),
            ("--", ""),
            ("", ""),
        ] {
            assert_eq!(workload_name(wanted), name, "{wanted}");
        }
        let long = workload_name(&"x".repeat(300));
        assert_eq!(long.len(), 50);
        assert!(bursar_api::names::is_workload(&long));
    }

    #[test]
    fn metadata_of_tools_goes_without_a_word_and_all_else_with_one() {
        let report = Report::default();
        let metadata = json!({
            "name": "chat", "namespace": "team", "uid": "u", "creationTimestamp": "2026-11-28T00:00:00Z",
            "labels": {"team": "nlp", "helm.sh/chart": "x", "kueue.x-k8s.io/queue-name": "q", "bursar.dev/kind": "x"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "x"},
            "finalizers": ["finalizer.keda.sh"],
        });
        let fields = Fields::new("metadata", metadata, &report);
        let draft = Draft::new(DraftKind::InferenceDeployment, fields);
        let expected = json!({"name": "chat", "namespace": "team", "labels": {"team": "nlp"}});
        assert_eq!(Value::Object(draft.metadata), expected);
        let fields: Vec<String> = (report.into_findings().into_iter())
            .map(|finding| finding.field)
            .collect();
        assert_eq!(
            fields,
            [
                "metadata.labels.bursar.dev/kind (\"x\")",
                "metadata.labels.kueue.x-k8s.io/queue-name (\"q\")",
                "metadata.annotations.mine (\"x\")",
                "metadata.finalizers",
            ]
        );
    }

    #[test]
    fn comments_about_the_result_stand_at_their_fields_and_others_at_the_top() {
        let finding = |fate, field: &str, why: &str| Finding {
            fate,
            field: field.to_owned(),
            why: why.to_owned(),
        };
        let imported = Imported {
            source: "Deployment chat".to_owned(),
            manifest: json!({"spec": {"engine": "vLLM"}}),
            findings: vec![
                finding(Fate::Missing, "spec.model", "unknown"),
                finding(Fate::Dropped, "spec.engine", "the source's"),
                finding(Fate::Note, "spec.engine", "guessed"),
            ],
        };
        assert_eq!(
            imported.yaml(),
            "# Made of Deployment chat by kubectl bursar import.\n# fill in: spec.model: unknown\n# dropped: spec.engine: the \
             source's\nspec:\n  # guessed\n  engine: vLLM\n"
        );
        assert!(!imported.is_whole());
    }
}
