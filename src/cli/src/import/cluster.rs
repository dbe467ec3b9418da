//! What an import reads in a cluster: the source, and the objects that it refers to.

use bursar_api::lenient::bounded_text;
use bursar_api::{InferenceDeployment, TrainingJob};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::draft::Imported;
use super::fields::Fields;
use super::objects::Objects;
use super::report::Report;
use super::target::TargetRef;
use super::{Error, SourceKind, trainjob};
use crate::client::api_error;

/// The most Services or autoscalers that are looked at.
const MAX_LISTED: u32 = 1000;
/// The most TriggerAuthentications of one ScaledObject.
const MAX_REFERENCES: usize = 16;

/// Imports an object of the cluster.
pub(super) async fn import(
    client: &Client,
    kind: SourceKind,
    name: &str,
    namespace: Option<&str>,
) -> Result<Vec<Imported>, Error> {
    let namespace = namespace.unwrap_or(client.default_namespace());
    let (group, kind_name) = kind.group_kind();
    let mut found = None;
    for version in kind.versions() {
        match get(client, (group, version, kind_name), name, Some(namespace)).await {
            Ok(object) => {
                found = Some(object);
                break;
            }
            // this version is not served, or the object is not there
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                let why = api_error(&error);
                return Err(Error::Api(format!("{kind_name} {namespace}/{name}: {why}")));
            }
        }
    }
    let Some(object) = found else {
        let why = format!(
            "there is no {kind_name} {namespace}/{name}, or the cluster does not know the kind"
        );
        return Err(Error::Api(why));
    };
    let mut objects = related(client, kind, &object, namespace).await;
    // a Deployment is the target itself
    objects.all.push(object.clone());
    Ok(vec![kind.convert(&object, &objects)])
}

/// The objects that a source refers to. Those that cannot be read are named.
async fn related(client: &Client, kind: SourceKind, object: &Value, namespace: &str) -> Objects {
    let mut objects = Objects::default();
    match kind {
        SourceKind::Hpa | SourceKind::ScaledObject => {
            let report = Report::default();
            let reference = object["spec"]["scaleTargetRef"].clone();
            let target = TargetRef::take(&mut Fields::new("", reference, &report));
            let readable = target.and_then(|target| Some((target.readable()?, target)));
            if let Some(((group, version), target)) = readable {
                let target_kind = (group, version, target.kind.as_str());
                add(
                    client,
                    &mut objects,
                    target_kind,
                    &target.name,
                    Some(namespace),
                )
                .await;
            }
            for (kind, name) in authentications(object) {
                let scope = (kind == "TriggerAuthentication").then_some(namespace);
                add(
                    client,
                    &mut objects,
                    ("keda.sh", "v1alpha1", &kind),
                    &name,
                    scope,
                )
                .await;
            }
            add_services(client, &mut objects, namespace).await;
        }
        SourceKind::Deployment | SourceKind::StatefulSet => {
            add_services(client, &mut objects, namespace).await;
            add_all(
                client,
                &mut objects,
                ("autoscaling", "v2", "HorizontalPodAutoscaler"),
                namespace,
            )
            .await;
        }
        SourceKind::TrainJob => {
            if let Some((kind, name)) = trainjob::runtime_of(object) {
                let scope = (kind == "TrainingRuntime").then_some(namespace);
                add(
                    client,
                    &mut objects,
                    (trainjob::GROUP, "v1alpha1", &kind),
                    &name,
                    scope,
                )
                .await;
            }
        }
        SourceKind::PyTorchJob | SourceKind::MpiJob | SourceKind::Job => {}
    }
    objects
}

/// The TriggerAuthentications that a ScaledObject's triggers name, by kind and name.
fn authentications(object: &Value) -> Vec<(String, String)> {
    let triggers = object["spec"]["triggers"].as_array().into_iter().flatten();
    let references = triggers.filter_map(|trigger| {
        let reference = &trigger["authenticationRef"];
        let kind = match reference["kind"].as_str() {
            Some("ClusterTriggerAuthentication") => "ClusterTriggerAuthentication",
            _ => "TriggerAuthentication",
        };
        Some((kind.to_owned(), reference["name"].as_str()?.to_owned()))
    });
    let mut references: Vec<_> = references.collect();
    references.sort();
    references.dedup();
    references.truncate(MAX_REFERENCES);
    references
}

async fn add(
    client: &Client,
    objects: &mut Objects,
    kind: (&str, &str, &str),
    name: &str,
    namespace: Option<&str>,
) {
    match get(client, kind, name, namespace).await {
        Ok(object) => objects.all.push(object),
        Err(error) => {
            let why = bounded_text(&api_error(&error));
            objects.unread.push(format!("{} {name}: {why}", kind.2));
        }
    }
}

async fn add_services(client: &Client, objects: &mut Objects, namespace: &str) {
    objects.has_all_services = add_all(client, objects, ("", "v1", "Service"), namespace).await;
}

/// Adds the objects of a kind in a namespace, and returns whether these are all.
async fn add_all(
    client: &Client,
    objects: &mut Objects,
    (group, version, kind): (&str, &str, &str),
    namespace: &str,
) -> bool {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match api.list(&ListParams::default().limit(MAX_LISTED)).await {
        Ok(list) => {
            let complete = list.metadata.continue_.is_none_or(|token| token.is_empty());
            for object in list.items {
                objects.all.push(typed(object, (group, version, kind)));
            }
            complete
        }
        Err(error) => {
            let why = bounded_text(&api_error(&error));
            objects
                .unread
                .push(format!("{kind}s are not looked at: {why}"));
            false
        }
    }
}

async fn get(
    client: &Client,
    (group, version, kind): (&str, &str, &str),
    name: &str,
    namespace: Option<&str>,
) -> Result<Value, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let object = api.get(name).await?;
    Ok(typed(object, (group, version, kind)))
}

/// An object with its kind, which the items of a list lack.
fn typed(object: DynamicObject, (group, version, kind): (&str, &str, &str)) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    let api_version = match group {
        "" => version.to_owned(),
        _ => format!("{group}/{version}"),
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.into());
    }
    value
}

/// Has the API server check a manifest as an apply would, and store nothing.
///
/// # Errors
/// Its refusal in its own words, which name the field.
pub(super) async fn dry_run(
    client: &Client,
    manifest: &Value,
    namespace: Option<&str>,
) -> Result<(), String> {
    let object: DynamicObject = serde_json::from_value(manifest.clone())
        .map_err(|error| format!("it is no object: {error}"))?;
    let resource = match manifest["kind"].as_str() {
        Some("TrainingJob") => ApiResource::erase::<TrainingJob>(&()),
        _ => ApiResource::erase::<InferenceDeployment>(&()),
    };
    let namespace = object
        .metadata
        .namespace
        .clone()
        .or_else(|| namespace.map(str::to_owned));
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let name = object.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("kubectl-bursar").force()
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let answer = api.patch(&name, &params, &Patch::Apply(&object)).await;
    answer.map(drop).map_err(|error| api_error(&error))
}
