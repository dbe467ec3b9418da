//! Jobs that Bursar started and suspended by `targetRef` are suspended or let run as they were before, and their
//! pods lose the labels of workers. What cannot be given back holds nothing up: it is said, and stays as it is.

use bursar_api::TrainingJob;
use bursar_api::names::{
    KIND_LABEL, ROLE_LABEL, SUSPENDED_ANNOTATION, TARGET_FINALIZER, WORKLOAD_LABEL,
};
use bursar_api::training::is_suspend_field;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Client, ResourceExt, discovery};
use serde_json::{Map, Value, json};

use crate::error::{Error, NotFoundAsNone};
use crate::targets::remove_finalizer;

/// Kueue's own to suspend, by this label.
const KUEUE_QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// A `managedBy` of Kueue's begins so.
const KUEUE_DOMAIN: &str = "kueue.x-k8s.io/";

/// Gives all of them back. Returns how many were suspended or let run.
///
/// # Errors
/// The TrainingJobs cannot be listed, or one keeps its finalizer.
pub(crate) async fn release_all(client: &Client) -> Result<usize, Error> {
    let kind = ApiResource::erase::<TrainingJob>(&());
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let jobs = all
        .list(&ListParams::default())
        .await
        .not_found_as_none("listing TrainingJobs")?;
    let is_held = |object: &DynamicObject| {
        let mut finalizers = object.finalizers().iter();
        finalizers.any(|each| each == TARGET_FINALIZER)
    };
    let mut given_back = 0;
    for object in jobs.into_iter().flatten().filter(is_held) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match give_suspension_back(client, &object).await {
            Ok(was_changed) => given_back += usize::from(was_changed),
            Err(error) => println!(
                "the target of TrainingJob {namespace}/{name} could not be given back, and stays as it is: {error}"
            ),
        }
        if let Err(error) = remove_labels(client, &object).await {
            println!("pods of TrainingJob {namespace}/{name} keep the labels of workers: {error}");
        }
        if let Err(error) = remove_finalizer(client, &object, &kind).await {
            println!(
                "TrainingJob {namespace}/{name} keeps its finalizer {TARGET_FINALIZER}: {error}"
            );
        }
    }
    Ok(given_back)
}

/// An object with nothing but this value at the path of a field that suspends.
fn with_field(path: &str, value: Value) -> Option<Value> {
    is_suspend_field(path).then(|| {
        path.split('.').rev().fold(value, |value, field| {
            let mut object = Map::new();
            object.insert(field.to_owned(), value);
            Value::Object(object)
        })
    })
}

/// Whether somebody else suspends a job: Kueue, another controller, or what owns it. It may have become so after
/// Bursar wrote it last.
fn is_of_others(found: &DynamicObject, suspend: &str) -> bool {
    let mut owners = found.owner_references().iter();
    let has_owner = owners.any(|owner| owner.controller == Some(true));
    // it stands beside suspend in each kind that has it
    let beside = suspend.rsplit_once('.').map_or("", |(parent, _)| parent);
    let pointer = format!("/{}/managedBy", beside.replace('.', "/"));
    let manager = found.data.pointer(&pointer).and_then(Value::as_str);
    let is_managed = manager.is_some_and(|manager| manager.starts_with(KUEUE_DOMAIN));
    has_owner || is_managed || found.labels().contains_key(KUEUE_QUEUE_LABEL)
}

/// Suspends a job or lets it run, as it was before, if Bursar has changed that and nobody else since. Says whether
/// it was changed.
async fn give_suspension_back(
    client: &Client,
    object: &DynamicObject,
) -> Result<bool, kube::Error> {
    let (target, status) = (
        &object.data["spec"]["targetRef"],
        &object.data["status"]["target"],
    );
    let text = |field: &str| target[field].as_str().unwrap_or_default();
    let path = status["suspendField"].as_str().unwrap_or_default();
    let Some(before) = status["suspendedBefore"].as_bool() else {
        return Ok(false);
    };
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let (resource, _) = discovery::pinned_kind(client, &kind).await?;
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let Some(found) = api.get_opt(text("name")).await? else {
        return Ok(false);
    };
    let ordered = found.annotations().get(SUSPENDED_ANNOTATION);
    let ordered = ordered.and_then(|ordered| ordered.parse::<bool>().ok());
    let fields = path.split('.').filter(|field| !field.is_empty());
    let pointer: String = fields.map(|field| format!("/{field}")).collect();
    let suspended = found.data.pointer(&pointer).and_then(Value::as_bool) == Some(true);
    // one that was made anew under its name is another one
    let is_it = found.uid().as_deref() == status["uid"].as_str();
    if !is_it || is_of_others(&found, path) || ordered.is_none() {
        return Ok(false);
    }
    // whoever has changed it after Bursar has decided
    let wanted = match ordered == Some(suspended) {
        true => before,
        false => suspended,
    };
    let Some(mut patch) = with_field(path, json!(wanted)) else {
        return Ok(false);
    };
    patch["metadata"] = json!({
        "uid": found.uid(),
        // whoever writes meanwhile has decided
        "resourceVersion": found.resource_version(),
        "annotations": {SUSPENDED_ANNOTATION: null},
    });
    let patch = Patch::Merge(patch);
    api.patch(text("name"), &PatchParams::default(), &patch)
        .await?;
    Ok(wanted != suspended)
}

/// Takes the labels of workers off the pods.
async fn remove_labels(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = object.name_any();
    let selected = format!("{KIND_LABEL}=TrainingJob,{WORKLOAD_LABEL}={name}");
    let selected = ListParams::default().labels(&selected);
    for pod in pods.list_metadata(&selected).await? {
        let labels = json!({KIND_LABEL: null, WORKLOAD_LABEL: null, ROLE_LABEL: null});
        let metadata = json!({"uid": pod.uid(), "labels": labels});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams::default();
        match pods.patch_metadata(&pod.name_any(), &params, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => drop(patched?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bursar_api::names::SPEND_FINALIZER;
    use bursar_apitest::Server;
    use k8s_openapi::api::batch::v1::Job;
    use kube::Resource;
    use kube::api::PostParams;
    use serde::de::DeserializeOwned;

    use super::*;

    const TEAM: &str = "team";

    async fn create<K>(client: &Client, mut object: Value)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        let api: Api<K> = Api::namespaced(client.clone(), TEAM);
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    #[tokio::test]
    async fn jobs_of_target_refs_are_suspended_as_before_and_what_others_decided_stays() {
        let server = Server::new(&[TEAM]);
        let client = server.client();
        // name, suspended now, Bursar's last order, suspended before, suspended in the end
        let cases = [
            ("held", true, Some("true"), false, false),
            ("started", false, Some("false"), true, true),
            ("same", true, Some("true"), true, true),
            ("stopped-by-others", true, Some("false"), false, true),
            ("never-told", true, None, false, true),
        ];
        for (name, suspended, ordered, before, _) in cases {
            let annotations = json!({SUSPENDED_ANNOTATION: ordered, "theirs": "stays"});
            let mut metadata = json!({"name": name, "annotations": annotations});
            if ordered.is_none() {
                metadata["annotations"] = json!({"theirs": "stays"});
            }
            let job = json!({"metadata": metadata, "spec": {"suspend": suspended, "template": {}}});
            create::<Job>(&client, job).await;
            let labels = json!({KIND_LABEL: "TrainingJob", WORKLOAD_LABEL: name, ROLE_LABEL: "worker", "app": name});
            let pod = json!({"metadata": {"name": name, "labels": labels, "finalizers": [SPEND_FINALIZER]}, "spec": {"containers": []}});
            create::<Pod>(&client, pod).await;
            let target = json!({"apiVersion": "batch/v1", "kind": "Job", "name": name});
            let metadata =
                json!({"name": name, "finalizers": [TARGET_FINALIZER, "example.com/other"]});
            let object = json!({"metadata": metadata, "spec": {"targetRef": target}});
            create::<TrainingJob>(&client, object).await;
            let jobs: Vec<Job> = server.objects();
            let uid = jobs
                .iter()
                .find(|job| job.name_any() == name)
                .unwrap()
                .uid();
            let status = json!({"target": {"uid": uid, "suspendedBefore": before, "suspendField": "spec.suspend"}});
            let api: Api<TrainingJob> = Api::namespaced(client.clone(), TEAM);
            let patch = Patch::Merge(json!({"status": status}));
            let params = PatchParams::default();
            api.patch_status(name, &params, &patch).await.unwrap();
        }
        assert_eq!(release_all(&client).await.unwrap(), 2);
        let jobs: Vec<Job> = server.objects();
        for (name, .., expected) in cases {
            let job = jobs.iter().find(|job| job.name_any() == name).unwrap();
            let suspended = job.spec.as_ref().unwrap().suspend;
            assert_eq!(suspended, Some(expected), "{name}");
            let annotations: Vec<&String> = job.annotations().keys().collect();
            assert_eq!(annotations, ["theirs"], "{name}");
        }
        for object in server.objects::<TrainingJob>() {
            assert_eq!(object.finalizers(), ["example.com/other"]);
        }
        for pod in server.objects::<Pod>() {
            let labels: Vec<&String> = pod.labels().keys().collect();
            assert_eq!(labels, ["app"]);
        }
    }

    #[test]
    fn a_job_that_others_suspend_by_now_is_left_to_them() {
        let found = |metadata: Value, spec: Value| -> DynamicObject {
            let object = json!({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": spec});
            serde_json::from_value(object).unwrap()
        };
        let is_of_others =
            |metadata, spec| is_of_others(&found(metadata, spec), "spec.runPolicy.suspend");
        let by = |manager: &str| json!({"runPolicy": {"managedBy": manager}});
        let owner = json!([{"apiVersion": "x/v1", "kind": "Y", "name": "y", "uid": "u", "controller": true}]);
        assert!(!is_of_others(json!({}), json!({})));
        assert!(!is_of_others(
            json!({}),
            by("kubeflow.org/training-operator")
        ));
        assert!(is_of_others(json!({}), by("kueue.x-k8s.io/multikueue")));
        assert!(is_of_others(
            json!({"labels": {KUEUE_QUEUE_LABEL: "q"}}),
            json!({})
        ));
        assert!(is_of_others(json!({"ownerReferences": owner}), json!({})));
    }

    #[test]
    fn a_path_is_bounded_and_ends_in_suspend() {
        let alone = json!({"spec": {"runPolicy": {"suspend": true}}});
        let path = "spec.runPolicy.suspend";
        assert_eq!(with_field(path, json!(true)), Some(alone));
        let deep = format!("spec.{}suspend", "a.".repeat(11));
        let others = ["spec.paused", "metadata.suspend", "spec.a/b.suspend"];
        for path in ["", "suspend", "spec.replicas", "spec..suspend", &deep]
            .into_iter()
            .chain(others)
        {
            assert_eq!(with_field(path, json!(true)), None, "{path}");
        }
    }
}
