//! `bursar uninstall`: removes what only Bursar can remove, before the chart is deleted.
//!
//! An object that is already gone counts as removed, so the command can be run again. Nothing but
//! metadata is read where that is enough, so an object that cannot be read is in nobody's way.

use std::time::Duration;

use bursar_api::InferenceDeployment;
use bursar_api::lenient::Lenient;
use bursar_api::names::{
    GATEWAY_LABEL, KIND_LABEL, SERVED_BY_GATEWAYS, SERVING_LABEL, SPEND_FINALIZER, WORKLOAD_LABEL,
};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::endpoints::{self, GivenBack};
pub use crate::error::Error;
use crate::error::{CONTROLLER_POD_SELECTOR, NotFoundAsNone};
use crate::limits::{FINALIZER_TIMEOUT, MAX_ATTEMPTS, POLL_INTERVAL, STOP_TIMEOUT};
use crate::{job_targets, targets};

const CONTROLLER: &str = "bursar-controller";
const POLICIES: [&str; 2] = ["bursar-spend-finalizer", "bursar-spend-finalizer-all"];
/// Let nobody but Bursar remove the finalizer, write its Services and change labels of replicas; whoever runs this command may be an
/// administrator.
const GUARDS: [&str; 3] = [
    "bursar-pod-accounting",
    "bursar-owned-objects",
    "bursar-workload-labels",
];
/// An API server reads its policies about once a second, so new pods still get the finalizer for a
/// moment after the policy was deleted.
const POLICY_LAG: Duration = Duration::from_secs(3);
/// The command is done with pods after this many passes, [`POLICY_LAG`] apart, found no pod with
/// the finalizer.
const CLEAN_PASSES: u32 = 2;

/// Arguments of `bursar uninstall`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Namespace in which Bursar is installed.
    #[arg(long, default_value = "bursar-system")]
    pub namespace: String,
}

/// Stops the controller, deletes the admission policy, gives workloads and jobs of targetRefs back as they were, removes the finalizer from all pods, gives the replicas back to Services whose requests went through gateways, deletes the EndpointSlices, and lists
/// the services without replicas.
///
/// # Errors
/// The first step that failed. The command can be run again.
pub async fn run(options: Options) -> Result<(), Error> {
    let client = Client::try_default().await;
    let client = client.map_err(|source| Error::Api {
        what: "client".to_owned(),
        source: Box::new(source),
    })?;
    let removed = uninstall(&client, &options.namespace).await?;
    println!(
        "removed the finalizer from {} pods, gave their replicas back to {} Services and deleted {} EndpointSlices; SpendRecords remain",
        removed.pods, removed.services, removed.slices
    );
    println!(
        "gave {} workloads of targetRefs the replicas that they had, and suspended {} jobs of targetRefs or let them run as before",
        removed.targets, removed.jobs
    );
    for name in services_without_replicas(&client).await? {
        println!(
            "deployment {name} has no replica, and nothing starts one any more; kubectl scale does"
        );
    }
    Ok(())
}

/// The number of objects that were changed or deleted.
#[derive(Debug, PartialEq, Eq)]
struct Removed {
    targets: usize,
    jobs: usize,
    pods: usize,
    services: usize,
    slices: usize,
}

/// The controller is stopped first, so that it does not add again what was removed.
async fn uninstall(client: &Client, namespace: &str) -> Result<Removed, Error> {
    stop_controller(client, namespace).await?;
    for policy in POLICIES {
        delete::<MutatingAdmissionPolicyBinding>(client, policy).await?;
        delete::<MutatingAdmissionPolicy>(client, policy).await?;
    }
    let mut was_guarded = false;
    for guard in GUARDS {
        was_guarded |= delete::<ValidatingAdmissionPolicyBinding>(client, guard).await?;
        was_guarded |= delete::<ValidatingAdmissionPolicy>(client, guard).await?;
    }
    if was_guarded {
        tokio::time::sleep(POLICY_LAG).await;
    }
    let given_back = give_replicas_back(client).await?;
    let services = given_back.len();
    // before the gateways leave the slices: a workload at zero has no other endpoint
    let targets = targets::release_all(client).await?;
    let jobs = job_targets::release_all(client).await?;
    let pods = remove_all_finalizers(client).await?;
    endpoints::wait_for_replicas(client, given_back).await?;
    Ok(Removed {
        targets,
        jobs,
        pods,
        services,
        slices: delete_slices(client).await?,
    })
}

/// Deletes an object of the whole cluster. Says whether it was there.
async fn delete<K>(client: &Client, name: &str) -> Result<bool, Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let what = format!("deleting {} {name}", K::kind(&()));
    let deleted = Api::<K>::all(client.clone())
        .delete(name, &DeleteParams::default())
        .await;
    deleted
        .not_found_as_none(&what)
        .map(|found| found.is_some())
}

/// Returns once no pod of the controller exists: one that still ends may write once more.
async fn stop_controller(client: &Client, namespace: &str) -> Result<(), Error> {
    Api::<PartialObjectMeta<Deployment>>::namespaced(client.clone(), namespace)
        .patch(
            CONTROLLER,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 0}})),
        )
        .await
        .not_found_as_none("scaling the controller to zero")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selected = ListParams::default().labels(CONTROLLER_POD_SELECTOR);
    let stopped = async {
        loop {
            let left = pods
                .list_metadata(&selected)
                .await
                .not_found_as_none("listing the controller's pods")?;
            if left.is_none_or(|left| left.items.is_empty()) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let in_time = tokio::time::timeout(STOP_TIMEOUT, stopped).await;
    in_time.map_err(|_| Error::ControllerStillRuns {
        namespace: namespace.to_owned(),
    })?
}

/// Removes the finalizer from pods until no more pods with it are found.
async fn remove_all_finalizers(client: &Client) -> Result<usize, Error> {
    let removed = async {
        let (mut removed, mut quiet) = (remove_finalizers(client).await?, 0);
        while quiet < CLEAN_PASSES {
            tokio::time::sleep(POLICY_LAG).await;
            let found = remove_finalizers(client).await?;
            removed += found;
            quiet = if found == 0 { quiet + 1 } else { 0 };
        }
        Ok(removed)
    };
    let in_time = tokio::time::timeout(FINALIZER_TIMEOUT, removed).await;
    in_time.map_err(|_| Error::FinalizersReappear)?
}

async fn remove_finalizers(client: &Client) -> Result<usize, Error> {
    let all = Api::<Pod>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await
        .not_found_as_none("listing pods")?;
    let held = all
        .into_iter()
        .flatten()
        .filter(|pod| pod.finalizers().iter().any(|each| each == SPEND_FINALIZER));
    let mut removed = 0;
    for pod in held {
        remove_finalizer(
            client,
            &pod.namespace().unwrap_or_default(),
            &pod.name_any(),
        )
        .await?;
        removed += 1;
    }
    Ok(removed)
}

async fn remove_finalizer(client: &Client, namespace: &str, name: &str) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let what = format!("removing the finalizer of pod {namespace}/{name}");
    for left in (0..MAX_ATTEMPTS).rev() {
        let Some(pod) = api.get_metadata(name).await.not_found_as_none(&what)? else {
            return Ok(());
        };
        let finalizers: Vec<&String> = pod
            .finalizers()
            .iter()
            .filter(|each| *each != SPEND_FINALIZER)
            .collect();
        if finalizers.len() == pod.finalizers().len() {
            return Ok(());
        }
        let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": finalizers});
        match api
            .patch_metadata(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({"metadata": metadata})),
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 && left > 0 => {}
            other => return other.not_found_as_none(&what).map(drop),
        }
    }
    Ok(())
}

/// Lets Services whose requests went through gateways select their replicas again, and returns these. The
/// slices of gateways are deleted once the cluster has followed, so requests find a replica that is ready
/// all the time.
async fn give_replicas_back(client: &Client) -> Result<Vec<GivenBack>, Error> {
    let selected = ListParams::default().labels(&format!(
        "{WORKLOAD_LABEL},{KIND_LABEL}=InferenceDeployment"
    ));
    let services = Api::<Lenient<Service>>::all(client.clone())
        .list(&selected)
        .await
        .not_found_as_none("listing Services")?;
    let services = services.into_iter().flatten();
    let services = services.filter_map(|found| found.into_result().ok());
    let is_through_gateways = |service: &Service| {
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|labels| {
            labels
                .get(SERVING_LABEL)
                .is_some_and(|value| value == SERVED_BY_GATEWAYS)
        })
    };
    let mut given_back = Vec::new();
    for service in services.filter(is_through_gateways) {
        let namespace = service.namespace().unwrap_or_default();
        let api: Api<PartialObjectMeta<Service>> = Api::namespaced(client.clone(), &namespace);
        let patch = json!({"spec": {"selector": {SERVING_LABEL: "true"}}});
        let name = service.name_any();
        let what = format!("giving its replicas back to Service {namespace}/{name}");
        let patched = api
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        if patched.not_found_as_none(&what)?.is_some() {
            let selector = service.spec.and_then(|spec| spec.selector);
            let mut selector = selector.unwrap_or_default();
            selector.insert(SERVING_LABEL.to_owned(), "true".to_owned());
            given_back.push(GivenBack {
                namespace,
                name,
                selector,
            });
        }
    }
    Ok(given_back)
}

async fn delete_slices(client: &Client) -> Result<usize, Error> {
    let selected = ListParams::default().labels(GATEWAY_LABEL);
    let slices = Api::<EndpointSlice>::all(client.clone())
        .list_metadata(&selected)
        .await
        .not_found_as_none("listing EndpointSlices")?;
    let mut deleted = 0;
    for slice in slices.into_iter().flatten() {
        let api: Api<PartialObjectMeta<EndpointSlice>> =
            Api::namespaced(client.clone(), &slice.namespace().unwrap_or_default());
        api.delete(&slice.name_any(), &DeleteParams::default())
            .await
            .not_found_as_none("deleting an EndpointSlice")?;
        deleted += 1;
    }
    Ok(deleted)
}

async fn services_without_replicas(client: &Client) -> Result<Vec<String>, Error> {
    let services = Api::<InferenceDeployment>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await
        .not_found_as_none("listing services")?;
    let services: Vec<_> = services
        .into_iter()
        .flatten()
        .map(|service| (service.namespace(), service.name_any()))
        .collect();
    let selected = ListParams::default().labels(WORKLOAD_LABEL);
    let deployments = Api::<Lenient<Deployment>>::all(client.clone())
        .list(&selected)
        .await
        .not_found_as_none("listing Deployments")?;
    // one that cannot be read may have replicas
    let deployments = deployments.into_iter().flatten();
    let deployments = deployments.filter_map(|found| found.into_result().ok());
    let zero = deployments.filter(|found: &Deployment| {
        found.spec.replicas == Some(0) && services.contains(&(found.namespace(), found.name_any()))
    });
    Ok(zero
        .map(|found| {
            format!(
                "{}/{}",
                found.namespace().unwrap_or_default(),
                found.name_any()
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use bursar_api::names::TARGET_FINALIZER;
    use bursar_apitest::Server;
    use kube::api::PostParams;
    use serde_json::Value;

    use super::*;

    const OPERATOR: &str = "bursar-system";
    const TEAM: &str = "team";

    async fn create(client: &Client, namespace: &str, metadata: Value) {
        let pod =
            json!({"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        Api::<Pod>::namespaced(client.clone(), namespace)
            .create(
                &PostParams::default(),
                &serde_json::from_value(pod).unwrap(),
            )
            .await
            .unwrap();
    }

    fn with_finalizer(name: &str) -> Value {
        json!({"name": name, "finalizers": [SPEND_FINALIZER, "example.com/other"]})
    }

    /// Names of the pods that still have Bursar's finalizer.
    fn pods_with_finalizer(server: &Server) -> Vec<String> {
        let pods = server.objects::<Pod>().into_iter();
        pods.filter(|pod| pod.finalizers().iter().any(|each| each == SPEND_FINALIZER))
            .map(|pod| pod.name_any())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_an_old_policy_still_holds_are_freed_too() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        create(&client, TEAM, with_finalizer("first")).await;
        let late = async {
            for name in ["second", "third"] {
                tokio::time::sleep(POLICY_LAG * 3 / 2).await;
                create(&client, TEAM, with_finalizer(name)).await;
            }
        };
        let (removed, ()) = tokio::join!(uninstall(&client, OPERATOR), late);
        assert_eq!(
            removed.unwrap(),
            Removed {
                targets: 0,
                jobs: 0,
                pods: 3,
                services: 0,
                slices: 0
            }
        );
        assert_eq!(pods_with_finalizer(&server), Vec::<String>::new());
        let others = |pod: &Pod| pod.finalizers() == ["example.com/other"];
        assert!(
            server.objects::<Pod>().iter().all(others),
            "finalizers of others stay"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_is_still_ending_is_waited_for() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        let labels = json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "controller"});
        create(
            &client,
            OPERATOR,
            json!({"name": "leader", "labels": labels}),
        )
        .await;
        let ending = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            // the last writes of the controller
            create(&client, TEAM, with_finalizer("seen-last")).await;
            let slice = json!({"metadata": {"name": "chat", "labels": {GATEWAY_LABEL: "true"}}, "addressType": "IPv4", "endpoints": []});
            Api::<EndpointSlice>::namespaced(client.clone(), TEAM)
                .create(
                    &PostParams::default(),
                    &serde_json::from_value(slice).unwrap(),
                )
                .await
                .unwrap();
            Api::<Pod>::namespaced(client.clone(), OPERATOR)
                .delete("leader", &DeleteParams::default())
                .await
                .unwrap();
        };
        let (removed, ()) = tokio::join!(uninstall(&client, OPERATOR), ending);
        assert_eq!(
            removed.unwrap(),
            Removed {
                targets: 0,
                jobs: 0,
                pods: 1,
                services: 0,
                slices: 1
            }
        );
    }

    /// Creates an object that no type holds.
    async fn create_raw<K>(client: &Client, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let kind = kube::api::ApiResource::erase::<K>(&());
        let object: kube::api::DynamicObject = serde_json::from_value(object).unwrap();
        let api = Api::namespaced_with(client.clone(), TEAM, &kind);
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_cannot_be_read_are_in_nobodys_way() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        let probe = json!({"httpGet": {"path": "/", "port": 3_000_000_000_u32}});
        let template = json!({"spec": {"containers": [{"name": "c", "livenessProbe": probe}]}});
        for (name, template) in [("bad", &template), ("chat", &Value::Null)] {
            let spec = json!({"engine": "vLLM", "maxReplicas": 1, "template": template});
            let object = json!({"metadata": {"name": name}, "spec": spec});
            create_raw::<InferenceDeployment>(&client, object).await;
        }
        let labels = json!({WORKLOAD_LABEL: "chat", GATEWAY_LABEL: "true"});
        for (name, replicas) in [("bad", json!("none")), ("chat", json!(0))] {
            let metadata = json!({"name": name, "labels": labels});
            let spec = json!({"replicas": replicas, "selector": {}, "template": {}});
            let object = json!({"metadata": metadata, "spec": spec});
            create_raw::<Deployment>(&client, object).await;
            let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": replicas});
            create_raw::<EndpointSlice>(&client, slice).await;
            let pod = json!({"metadata": with_finalizer(name), "spec": {"containers": replicas}});
            create_raw::<Pod>(&client, pod).await;
        }
        let removed = uninstall(&client, OPERATOR).await.unwrap();
        assert_eq!(
            removed,
            Removed {
                targets: 0,
                jobs: 0,
                pods: 2,
                services: 0,
                slices: 2
            }
        );
        let zero = services_without_replicas(&client).await.unwrap();
        assert_eq!(zero, ["team/chat"]);
    }

    #[tokio::test(start_paused = true)]
    async fn services_behind_gateways_get_their_replicas_back_before_the_gateways_go() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        let labels = json!({WORKLOAD_LABEL: "chat", KIND_LABEL: "InferenceDeployment"});
        for (name, serving) in [("chat", SERVED_BY_GATEWAYS), ("chat-replicas", "true")] {
            let selector = json!({WORKLOAD_LABEL: "chat", SERVING_LABEL: serving});
            let spec = json!({"selector": selector, "ports": [{"port": 80}]});
            let service = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
            create_raw::<Service>(&client, service).await;
        }
        let theirs =
            json!({"selector": {SERVING_LABEL: SERVED_BY_GATEWAYS}, "ports": [{"port": 80}]});
        create_raw::<Service>(
            &client,
            json!({"metadata": {"name": "theirs"}, "spec": theirs}),
        )
        .await;
        let labels = json!({WORKLOAD_LABEL: "chat", GATEWAY_LABEL: "true"});
        let slice = json!({"metadata": {"name": "chat-bursar-gateway", "labels": labels}, "addressType": "IPv4", "endpoints": []});
        create_raw::<EndpointSlice>(&client, slice).await;
        let began = tokio::time::Instant::now();
        let removed = uninstall(&client, OPERATOR).await.unwrap();
        let expected = Removed {
            targets: 0,
            jobs: 0,
            pods: 0,
            services: 1,
            slices: 1,
        };
        assert_eq!(removed, expected);
        assert!(began.elapsed() >= endpoints::NODES_LAG);
        let serving = |name: &str| {
            let services: Vec<Service> = server.objects();
            let found = services.into_iter().find(|found| found.name_any() == name);
            found.unwrap().spec.unwrap().selector.unwrap()[SERVING_LABEL].clone()
        };
        assert_eq!(serving("chat"), "true");
        assert_eq!(serving("theirs"), SERVED_BY_GATEWAYS);
        let again = uninstall(&client, OPERATOR).await.unwrap();
        assert_eq!((again.services, again.slices), (0, 0));
    }

    /// A Service behind gateways with a replica that is ready, and the gateways' slice.
    async fn create_behind_gateways(client: &Client) {
        let labels = json!({WORKLOAD_LABEL: "chat", KIND_LABEL: "InferenceDeployment"});
        let selector = json!({WORKLOAD_LABEL: "chat", SERVING_LABEL: SERVED_BY_GATEWAYS});
        let spec = json!({"selector": selector, "ports": [{"port": 80}]});
        let service = json!({"metadata": {"name": "chat", "labels": labels}, "spec": spec});
        create_raw::<Service>(client, service).await;
        let labels = json!({WORKLOAD_LABEL: "chat", SERVING_LABEL: "true"});
        create(client, TEAM, json!({"name": "replica", "labels": labels})).await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let pods = Api::<Pod>::namespaced(client.clone(), TEAM);
        pods.patch_status("replica", &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap();
        let labels = json!({
            WORKLOAD_LABEL: "chat", GATEWAY_LABEL: "true", "kubernetes.io/service-name": "chat",
        });
        let slice = json!({"metadata": {"name": "chat-bursar-gateway", "labels": labels}, "addressType": "IPv4", "endpoints": []});
        create_raw::<EndpointSlice>(client, slice).await;
    }

    fn has_gateways(server: &Server) -> bool {
        let slices: Vec<EndpointSlice> = server.objects();
        let mut names = slices.iter().map(ResourceExt::name_any);
        names.any(|name| name == "chat-bursar-gateway")
    }

    #[tokio::test(start_paused = true)]
    async fn gateways_stay_until_the_cluster_has_put_the_replicas_into_its_slices() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        create_behind_gateways(&client).await;
        let cluster = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert!(has_gateways(&server));
            let pods: Vec<Pod> = server.objects();
            let endpoint = json!({"addresses": ["10.0.0.1"], "targetRef": {"uid": pods[0].uid()}, "conditions": {"ready": true}});
            let labels = json!({"kubernetes.io/service-name": "chat"});
            let slice = json!({"metadata": {"name": "chat-x", "labels": labels}, "addressType": "IPv4", "endpoints": [endpoint]});
            create_raw::<EndpointSlice>(&client, slice).await;
            tokio::time::sleep(endpoints::NODES_LAG / 2).await;
            assert!(has_gateways(&server), "nodes have not followed yet");
        };
        let began = tokio::time::Instant::now();
        let (removed, ()) = tokio::join!(uninstall(&client, OPERATOR), cluster);
        assert_eq!(removed.unwrap().slices, 1);
        assert!(!has_gateways(&server));
        assert!(began.elapsed() < Duration::from_secs(40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_does_not_follow_holds_the_uninstallation_up_for_a_while_only() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        create_behind_gateways(&client).await;
        let began = tokio::time::Instant::now();
        let removed = uninstall(&client, OPERATOR).await.unwrap();
        assert_eq!((removed.services, removed.slices), (1, 1));
        let waited = began.elapsed();
        let bounds = Duration::from_secs(60)..Duration::from_secs(90);
        assert!(bounds.contains(&waited), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn workloads_of_target_refs_get_back_what_they_had_and_none_holds_the_rest_up() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        for name in ["a", "b", "anew"] {
            let spec = json!({"replicas": 1, "selector": {}, "template": {}});
            create_raw::<Deployment>(&client, json!({"metadata": {"name": name}, "spec": spec}))
                .await;
            let labels = json!({WORKLOAD_LABEL: name, KIND_LABEL: "InferenceDeployment", SERVING_LABEL: "true", "app": name});
            create(&client, TEAM, json!({"name": name, "labels": labels})).await;
        }
        let uid = |name: &str| {
            let all: Vec<Deployment> = server.objects();
            let found = all
                .iter()
                .find(|found| found.name_any() == name && name != "anew");
            found
                .and_then(ResourceExt::uid)
                .unwrap_or("former".to_owned())
        };
        let service = |name: &str, kind: &str, before: i64| {
            let target = json!({"apiVersion": "apps/v1", "kind": kind, "name": name});
            json!({
                "metadata": {"name": name, "finalizers": [TARGET_FINALIZER, "example.com/other"]},
                "spec": {"engine": "vLLM", "maxReplicas": 4, "targetRef": target},
                "status": {"target": {"uid": uid(name), "replicasBefore": before}},
            })
        };
        for (name, kind, before) in [
            ("a", "Deployment", 3),
            ("b", "Deployment", 0),
            ("anew", "Deployment", 5),
            ("gone", "StatefulSet", 2),
            ("odd", "Model", 2),
        ] {
            let object = service(name, kind, before);
            create_raw::<InferenceDeployment>(&client, object.clone()).await;
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), TEAM);
            let patch = Patch::Merge(json!({"status": object["status"]}));
            api.patch_status(name, &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
        let removed = uninstall(&client, OPERATOR).await.unwrap();
        assert_eq!(
            removed.targets, 1,
            "b had none, and keeps the one that runs"
        );
        let replicas: Vec<Option<i32>> = server
            .objects::<Deployment>()
            .iter()
            .map(|found| found.spec.replicas)
            .collect();
        assert_eq!(
            replicas,
            [Some(3), Some(1), Some(1)],
            "one that was made anew is another one"
        );
        for object in server.objects::<InferenceDeployment>() {
            assert_eq!(object.finalizers(), ["example.com/other"]);
        }
        for pod in server.objects::<Pod>() {
            let labels: Vec<&String> = pod.labels().keys().collect();
            assert_eq!(labels, ["app"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_stopped_is_named_in_bounded_time() {
        let server = Server::new(&[OPERATOR, TEAM]);
        let client = server.client();
        let forever = async {
            for number in 0.. {
                create(&client, TEAM, with_finalizer(&format!("pod-{number}"))).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let error = tokio::select! {
            removed = uninstall(&client, OPERATOR) => removed.unwrap_err().to_string(),
            () = forever => String::new(),
        };
        assert!(error.contains(SPEND_FINALIZER), "{error}");
        let labels = json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "controller"});
        create(
            &client,
            OPERATOR,
            json!({"name": "stuck", "labels": labels}),
        )
        .await;
        let error = uninstall(&client, OPERATOR).await.unwrap_err().to_string();
        assert!(
            error.contains("kubectl -n bursar-system get pods"),
            "{error}"
        );
    }
}
