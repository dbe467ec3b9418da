//! Manifests that were changed at random: nothing of them is trusted, and nothing is lost without a
//! word.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::SourceKind;
use super::super::draft::Imported;
use super::super::objects::{Objects, is_kind};
use super::super::report::Fate;
use super::samples::{DEPLOYMENT, HPA, JOB, MPI_JOB, PYTORCH_JOB, SCALED_OBJECT, TRAIN_JOB};

const SAMPLES: [(SourceKind, &str); 7] = [
    (SourceKind::Hpa, HPA),
    (SourceKind::ScaledObject, SCALED_OBJECT),
    (SourceKind::Deployment, DEPLOYMENT),
    (SourceKind::PyTorchJob, PYTORCH_JOB),
    (SourceKind::MpiJob, MPI_JOB),
    (SourceKind::TrainJob, TRAIN_JOB),
    (SourceKind::Job, JOB),
];

/// The steps to each value of a document.
fn places(value: &Value, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    found.push(path.clone());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                path.push(Step::Field(name.clone()));
                places(value, path, found);
                path.pop();
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                path.push(Step::Item(index));
                places(value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

#[derive(Debug, Clone)]
enum Step {
    Field(String),
    Item(usize),
}

fn at<'v>(value: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Field(name) => &mut value[name.as_str()],
        Step::Item(index) => &mut value[*index],
    })
}

fn written(path: &[Step]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        Step::Field(name) if text.is_empty() => name.clone(),
        Step::Field(name) => format!("{text}.{name}"),
        Step::Item(index) => format!("{text}[{index}]"),
    })
}

fn convert(kind: SourceKind, objects: &Objects, source: &Value) -> Imported {
    let imported = kind.convert(source, objects);
    let yaml = imported.yaml();
    let read: Value =
        serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(read, imported.manifest, "{yaml}");
    imported
}

/// The objects of a sample, and the place of its source among them.
fn sample(kind: SourceKind, text: &str) -> (Objects, usize) {
    let objects = Objects::from_text(text).unwrap();
    let (group, name) = kind.group_kind();
    let index = objects
        .all
        .iter()
        .position(|object| is_kind(object, group, name));
    (objects, index.unwrap())
}

/// A field that no version of today has, at every place of every sample, is reported: by its name,
/// or with what it is in.
#[test]
fn a_field_of_tomorrow_is_reported_wherever_it_is() {
    for (kind, text) in SAMPLES {
        // the specification of a Deployment stays where it is
        if kind == SourceKind::Deployment {
            continue;
        }
        let (objects, index) = sample(kind, text);
        let source = objects.all[index].clone();
        let mut found = Vec::new();
        places(&source, &mut Vec::new(), &mut found);
        for path in found {
            let mut changed = source.clone();
            let place = at(&mut changed, &path);
            let Value::Object(fields) = place else {
                continue;
            };
            fields.insert("fieldOfTomorrow".to_owned(), json!("x"));
            let path = written(&path);
            // what it observed is no part of what it is
            let is_status = path.starts_with("status");
            let is_label = path == "metadata.labels" || path.ends_with("matchLabels");
            // these are of the runtime, which has them
            if is_status || is_label || path.contains("resourcesPerNode") {
                continue;
            }
            let imported = convert(kind, &objects, &changed);
            let is_named = imported.findings.iter().any(|finding| {
                let around = finding.field.split(' ').next().unwrap_or_default();
                finding.field.contains("fieldOfTomorrow")
                    || (finding.fate == Fate::Dropped && path.starts_with(around))
            });
            let is_kept = imported.manifest.to_string().contains("fieldOfTomorrow");
            assert!(
                is_named || is_kept,
                "{kind:?}: {path}.fieldOfTomorrow\n{:#?}",
                imported.findings
            );
            // what is kept is a map of the user's own names
            let is_map = ["limits", "selector", "annotations"]
                .iter()
                .any(|map| path.ends_with(map));
            assert!(
                is_map || !is_kept,
                "{kind:?}: {path}.fieldOfTomorrow is kept"
            );
        }
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([[]])),
        Just(json!([{"name": 5}])),
        Just(json!({"spec": {"containers": [{}, 1, null]}})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z$(){}:/@%,. -]{0,40}".prop_map(Value::from),
        Just(json!("x".repeat(100_000))),
        Just(json!("a\u{2028}b\nkind: x")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever stands anywhere: there is a manifest, its YAML says the same, and what was not
    /// understood is said.
    #[test]
    fn odd_manifests_are_read_without_a_crash(
        which in 0..SAMPLES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..4),
    ) {
        let (kind, text) = SAMPLES[which];
        let (mut objects, index) = sample(kind, text);
        for (place, value) in changes {
            // objects that the source refers to are no more trusted
            let mut all = json!(objects.all);
            let mut found = Vec::new();
            places(&all, &mut Vec::new(), &mut found);
            let path = found[place.index(found.len())].clone();
            if path.len() < 2 {
                continue;
            }
            *at(&mut all, &path) = value;
            objects.all = all.as_array().cloned().unwrap_or_default();
        }
        let source = objects.all[index].clone();
        let imported = convert(kind, &objects, &source);
        prop_assert!(imported.yaml().len() < 400_000);
    }
}
