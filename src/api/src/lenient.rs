//! Objects that are read one by one: one that cannot be read does not stop its neighbours.
//!
//! The API server stores whatever a resource's schema accepts, and a schema accepts more than a
//! type of Rust does: a port of 3,000,000,000, an enum's value that a newer version knows. A typed
//! list fails as a whole for one such object. A list or a watch of [`Lenient`] objects never does.
//!
//! In a watch event `type` must precede `object`, as every API server writes it: serde reads the
//! object without its text otherwise.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::names::GROUP;
use crate::quantities::FieldError;

/// The most characters of a path, and of the words about a fault.
const MAX_CHARACTERS: usize = 240;

/// A check of what neither the schema nor the type says of an object.
pub trait Validate {
    /// # Errors
    /// The first field that cannot be read; the rules of the present schema let none through, but
    /// an object may be older than they are.
    fn validate(&self) -> Result<(), FieldError>;
}

/// An object, or why it cannot be read.
#[derive(Clone)]
pub enum Lenient<K> {
    /// The object.
    Readable(K),
    /// What is known of one that cannot be read.
    Unreadable(Box<Unreadable>),
}

/// What is known of an object that cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Its name, namespace, UID, version, generation and Bursar's labels; a part of it that cannot
    /// be read either is missing.
    pub metadata: ObjectMeta,
    /// The field that cannot be read, and the fault, of bounded length.
    pub fault: FieldError,
}

impl<K: Resource> Lenient<K> {
    /// The object if it also passes this check.
    #[must_use]
    pub fn checked(self, check: impl FnOnce(&K) -> Result<(), FieldError>) -> Self {
        match self {
            Self::Readable(object) => match check(&object) {
                Ok(()) => Self::Readable(object),
                Err(fault) => Self::Unreadable(Box::new(Unreadable {
                    metadata: essential(object.meta().clone()),
                    fault: bounded_fault(fault),
                })),
            },
            unreadable @ Self::Unreadable(_) => unreadable,
        }
    }
}

impl<K> Lenient<K> {
    /// The object.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn into_result(self) -> Result<K, Box<Unreadable>> {
        match self {
            Self::Readable(object) => Ok(object),
            Self::Unreadable(unreadable) => Err(unreadable),
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(match serde_json::from_str(text.get()) {
            Ok(object) => Self::Readable(object),
            Err(error) => {
                Self::Unreadable(Box::new(Unreadable::from_json::<K>(text.get(), &error)))
            }
        })
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Readable(object) => object.meta(),
            Self::Unreadable(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(object) => object.meta_mut(),
            Self::Unreadable(unreadable) => &mut unreadable.metadata,
        }
    }
}

/// Says whether the object can be read, and nothing of what is in it: manifests are not for logs.
impl<K> fmt::Debug for Lenient<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Readable(_) => f.write_str("Readable"),
            Self::Unreadable(unreadable) => write!(f, "Unreadable({})", unreadable.fault.field),
        }
    }
}

impl Unreadable {
    /// What can be read of an object whose decoding failed with this error.
    fn from_json<K: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: Box<RawValue>,
        }
        let metadata = serde_json::from_str(text)
            .map(|Envelope { metadata }| metadata_from_json(metadata.get()))
            .unwrap_or_default();
        // the path costs time, and only objects that cannot be read need one
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let (field, why) = match serde_path_to_error::deserialize::<_, K>(&mut deserializer) {
            Err(error) => (error.path().to_string(), error.inner().to_string()),
            Ok(_) => (".".to_owned(), error.to_string()),
        };
        Self {
            metadata,
            fault: fault(field, &why),
        }
    }
}

/// The metadata that can be read, each field alone if they cannot be read together.
fn metadata_from_json(text: &str) -> ObjectMeta {
    if let Ok(metadata) = serde_json::from_str(text) {
        return essential(metadata);
    }
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).unwrap_or_default();
    fn field<T: DeserializeOwned>(
        fields: &BTreeMap<String, Box<RawValue>>,
        name: &str,
    ) -> Option<T> {
        serde_json::from_str(fields.get(name)?.get()).ok()
    }
    essential(ObjectMeta {
        name: field(&fields, "name"),
        namespace: field(&fields, "namespace"),
        uid: field(&fields, "uid"),
        resource_version: field(&fields, "resourceVersion"),
        generation: field(&fields, "generation"),
        labels: field(&fields, "labels"),
        ..ObjectMeta::default()
    })
}

/// The metadata that is kept of an object that cannot be read.
fn essential(metadata: ObjectMeta) -> ObjectMeta {
    let ours = |(key, _): &(String, String)| key.split('/').next() == Some(GROUP);
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        generation: metadata.generation,
        labels: metadata
            .labels
            .map(|labels| labels.into_iter().filter(ours).collect()),
        ..ObjectMeta::default()
    }
}

/// What an error of serde says of a field, in words of the API.
fn fault(field: String, why: &str) -> FieldError {
    // the position is one in a text that nobody sees
    let why = why.split(" at line ").next().unwrap_or_default();
    let why = match why.rsplit_once("expected ") {
        Some((found, expected)) => format!("{found}expected {}", in_words(&field, expected)),
        None => why.to_owned(),
    };
    bounded_fault(FieldError { field, why })
}

/// A type of Rust in words of the API.
fn in_words<'a>(field: &str, expected: &'a str) -> &'a str {
    let is_port = matches!(
        field.rsplit('.').next(),
        Some("port" | "containerPort" | "hostPort")
    );
    match expected {
        "i32" | "u16" | "a 32-bit integer" if is_port => "a port from 1 to 65535",
        "i32" | "a 32-bit integer" => "a whole number from -2147483648 to 2147483647",
        "i64" => "a whole number from -9223372036854775808 to 9223372036854775807",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number from 0 to 18446744073709551615",
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// A fault of bounded length.
fn bounded_fault(fault: FieldError) -> FieldError {
    FieldError {
        field: bounded_text(&fault.field),
        why: bounded_text(&fault.why),
    }
}

/// A text on one line, at most some 240 characters long. The middle of a longer one goes: what was
/// expected is at the end.
pub fn bounded_text(text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    if characters.len() > MAX_CHARACTERS {
        let half = MAX_CHARACTERS / 2;
        characters.splice(half..characters.len() - half, " ... ".chars());
    }
    let printable = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    characters.into_iter().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::{Value, json};

    use super::*;
    use crate::{BudgetPolicy, InferenceDeployment};

    fn service(name: &str, port: Value) -> Value {
        let probe = json!({"httpGet": {"path": "/", "port": port}});
        let container = json!({"name": "engine", "image": "secret-image", "livenessProbe": probe});
        json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {
                "name": name, "namespace": "tenant", "uid": "u", "resourceVersion": "7", "generation": 3,
                "labels": {"bursar.dev/kind": "x", "bursar.development/a": "b", "mine": "c"}, "annotations": {"a": "b"},
            },
            "spec": {"engine": "vLLM", "maxReplicas": 1, "template": {"spec": {"containers": [container]}}},
        })
    }

    fn read<K: DeserializeOwned>(object: &Value) -> Result<K, Box<Unreadable>> {
        let read: Lenient<K> = serde_json::from_str(&object.to_string()).unwrap();
        read.into_result()
    }

    fn fault_of<K: DeserializeOwned>(object: &Value) -> String {
        match read::<K>(object) {
            Ok(_) => "none".to_owned(),
            Err(unreadable) => unreadable.fault.to_string(),
        }
    }

    #[test]
    fn a_list_is_read_although_one_of_its_objects_cannot_be() {
        let items = [
            service("a", json!(80)),
            service("bad", json!(3_000_000_000_u32)),
            service("b", json!("http")),
        ];
        let list = json!({"apiVersion": "v1", "kind": "InferenceDeploymentList", "metadata": {"resourceVersion": "9"}, "items": items});
        let list: ObjectList<Lenient<InferenceDeployment>> =
            serde_json::from_str(&list.to_string()).unwrap();
        let readable = |each: &Lenient<InferenceDeployment>| matches!(each, Lenient::Readable(_));
        let seen: Vec<(String, bool)> = list
            .iter()
            .map(|each| (each.name_any(), readable(each)))
            .collect();
        let expected = [("a", true), ("bad", false), ("b", true)];
        assert_eq!(seen, expected.map(|(name, is)| (name.to_owned(), is)));
    }

    #[test]
    fn the_fault_names_the_field_and_what_would_be_right_and_no_more() {
        let bad = service("bad", json!(3_000_000_000_u32));
        let unreadable = read::<InferenceDeployment>(&bad).unwrap_err();
        assert_eq!(
            unreadable.fault.to_string(),
            "spec.template.spec.containers[0].livenessProbe.httpGet.port: invalid value: integer `3000000000`, expected a port from 1 to 65535"
        );
        let expected = json!({
            "name": "bad", "namespace": "tenant", "uid": "u", "resourceVersion": "7", "generation": 3,
            "labels": {"bursar.dev/kind": "x"},
        });
        assert_eq!(
            serde_json::to_value(&unreadable.metadata).unwrap(),
            expected
        );
        let whole = format!("{:?}", Lenient::<Pod>::Unreadable(unreadable));
        assert!(!whole.contains("secret-image"), "{whole}");
    }

    #[test]
    fn long_values_and_odd_characters_are_cut() {
        let mut bad = service("bad", json!("http"));
        bad["spec"]["maxReplicas"] = json!(format!("one\ntwo{}", "x".repeat(100_000)));
        let fault = fault_of::<InferenceDeployment>(&bad);
        assert!(
            fault.starts_with("spec.maxReplicas: invalid type: string \"one"),
            "{fault}"
        );
        assert!(
            fault.ends_with("expected a whole number from -2147483648 to 2147483647"),
            "{fault}"
        );
        assert!(fault.len() < 300 && !fault.contains('\n'), "{fault}");
    }

    #[test]
    fn odd_metadata_is_read_as_far_as_it_goes() {
        for (metadata, name, version) in [
            (
                json!({"name": "a", "resourceVersion": "7", "labels": 5}),
                Some("a"),
                Some("7"),
            ),
            (
                json!({"name": "a", "creationTimestamp": "yesterday"}),
                Some("a"),
                None,
            ),
            (
                json!({"name": ["a"], "resourceVersion": "7", "generation": "x"}),
                None,
                Some("7"),
            ),
            (json!("a"), None, None),
        ] {
            let unreadable = read::<Pod>(&json!({"metadata": metadata})).unwrap_err();
            let read = &unreadable.metadata;
            let seen = (read.name.as_deref(), read.resource_version.as_deref());
            assert_eq!(seen, (name, version), "{metadata}");
            assert!(
                unreadable.fault.field.starts_with("metadata"),
                "{:?}",
                unreadable.fault
            );
        }
        assert_eq!(
            fault_of::<Pod>(&json!(5)),
            ".: invalid type: integer `5`, expected Pod"
        );
    }

    #[test]
    fn a_watch_event_is_read_although_its_object_cannot_be() {
        let line = |object: &Value| format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}");
        let event: WatchEvent<Lenient<InferenceDeployment>> =
            serde_json::from_str(&line(&service("bad", json!(-1.5)))).unwrap();
        let WatchEvent::Modified(Lenient::Unreadable(unreadable)) = event else {
            unreachable!("{event:?}");
        };
        assert!(unreadable.fault.field.ends_with("httpGet.port"));
        let bookmark =
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "8"}});
        let event: WatchEvent<Lenient<Pod>> =
            serde_json::from_str(&format!("{{\"type\":\"BOOKMARK\",\"object\":{bookmark}}}"))
                .unwrap();
        assert!(matches!(event, WatchEvent::Bookmark(_)));
    }

    #[test]
    fn what_the_schema_does_not_say_is_checked_too() {
        let policy = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "BudgetPolicy",
            "metadata": {"name": "broken", "namespace": "odd", "resourceVersion": "7"},
            "spec": {"limit": "10.00", "period": "Monthly"},
            "status": {"latch": {"limit": "ten", "periodStart": "2026-12-01T00:00:00Z"}},
        });
        let policy: Lenient<BudgetPolicy> = serde_json::from_str(&policy.to_string()).unwrap();
        let unreadable = policy
            .checked(Validate::validate)
            .into_result()
            .unwrap_err();
        assert_eq!(unreadable.fault.field, "status.latch.limit");
        assert_eq!(unreadable.metadata.name.as_deref(), Some("broken"));
    }
}
