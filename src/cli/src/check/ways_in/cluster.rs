//! What of a cluster says how requests get to a service, as far as the user may read it.

use std::collections::BTreeMap;

use bursar_api::InferenceDeployment;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;

use crate::client::api_error;

const GATEWAY_PODS: &str = "app.kubernetes.io/name=bursar,app.kubernetes.io/component=gateway";

/// Objects that are listed at a time.
const PAGE_SIZE: u32 = 500;

/// What was read, or why not.
pub(super) type Read<T> = Result<T, String>;

/// What of the cluster says how requests get to a service.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) object: InferenceDeployment,
    pub(super) operator_namespace: String,
    /// All Services of the namespace.
    pub(super) services: Read<Vec<Service>>,
    /// The slices of the Service by which requests come.
    pub(super) slices: Read<Vec<EndpointSlice>>,
    pub(super) gateways: Read<Vec<Pod>>,
    pub(super) policies: Read<Vec<NetworkPolicy>>,
    /// The DaemonSets of kube-system, by name.
    pub(super) daemon_sets: Read<Vec<String>>,
    pub(super) ingresses: Read<Vec<Ingress>>,
    /// The controllers of IngressClasses.
    pub(super) classes: Read<BTreeMap<String, String>>,
    pub(super) routes: Read<Vec<DynamicObject>>,
    pub(super) virtual_services: Read<Vec<DynamicObject>>,
}

/// The Service by which requests come to a service: its own, or that of its serviceRef, if it has a target.
pub(super) fn front(object: &InferenceDeployment) -> Option<String> {
    match object.spec.target_ref {
        Some(_) => Some(object.spec.service_ref.as_ref()?.name.clone()),
        None => Some(object.name_any()),
    }
}

/// Reads all of it.
pub(super) async fn read(
    client: &Client,
    object: InferenceDeployment,
    namespace: &str,
    operator_namespace: &str,
) -> Seen {
    let all = ListParams::default();
    let slices = match front(&object) {
        Some(front) => {
            let of_front = format!("kubernetes.io/service-name={front}");
            let of_front = ListParams::default().labels(&of_front);
            list(&Api::namespaced(client.clone(), namespace), &of_front).await
        }
        None => Ok(Vec::new()),
    };
    let gateways = ListParams::default().labels(GATEWAY_PODS);
    let daemon_sets: Read<Vec<PartialObjectMeta<DaemonSet>>> =
        list(&Api::namespaced(client.clone(), "kube-system"), &all).await;
    let classes: Read<Vec<IngressClass>> = list(&Api::all(client.clone()), &all).await;
    let classes = classes.map(|classes| {
        let controller = |class: &IngressClass| class.spec.as_ref()?.controller.clone();
        let known = classes
            .iter()
            .filter_map(|class| Some((class.name_any(), controller(class)?)));
        known.collect()
    });
    Seen {
        services: list(&Api::namespaced(client.clone(), namespace), &all).await,
        slices,
        gateways: list(
            &Api::namespaced(client.clone(), operator_namespace),
            &gateways,
        )
        .await,
        policies: list(&Api::namespaced(client.clone(), namespace), &all).await,
        daemon_sets: daemon_sets.map(|sets| sets.iter().map(ResourceExt::name_any).collect()),
        ingresses: list(&Api::namespaced(client.clone(), namespace), &all).await,
        classes,
        routes: list_kind(
            client,
            namespace,
            ("gateway.networking.k8s.io", "HTTPRoute", "httproutes"),
        )
        .await,
        virtual_services: list_kind(
            client,
            namespace,
            ("networking.istio.io", "VirtualService", "virtualservices"),
        )
        .await,
        operator_namespace: operator_namespace.to_owned(),
        object,
    }
}

/// All objects of a kind, a page at a time.
async fn pages<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = params.clone().limit(PAGE_SIZE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        let Some(token) = next else { return Ok(all) };
        params = params.continue_token(&token);
    }
}

async fn list<K>(api: &Api<K>, params: &ListParams) -> Read<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let listed = pages(api, params).await;
    listed.map_err(|error| api_error(&error))
}

/// The objects of a kind that a cluster may lack: then there are none.
async fn list_kind(
    client: &Client,
    namespace: &str,
    (group, kind, plural): (&str, &str, &str),
) -> Read<Vec<DynamicObject>> {
    let resource = ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    match pages(&api, &ListParams::default()).await {
        Ok(objects) => Ok(objects),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(api_error(&error)),
    }
}
