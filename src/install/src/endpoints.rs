//! Services that select their replicas again: when the cluster has followed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bursar_api::lenient::Lenient;
use bursar_api::names::GATEWAY_LABEL;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::error::{Error, NotFoundAsNone};
use crate::limits::POLL_INTERVAL;

/// The label by which the cluster says whose a slice is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services whose replicas are not among their endpoints by then hold nothing up: the cluster's
/// controllers may not run.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(60);
/// Within this time nodes have followed a change of slices.
pub(crate) const NODES_LAG: Duration = Duration::from_secs(3);

/// A Service that selects its replicas again.
#[derive(Debug)]
pub(crate) struct GivenBack {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The labels of its replicas.
    pub(crate) selector: BTreeMap<String, String>,
}

/// Waits until each replica that is ready is a ready endpoint of its Service, and nodes know. After 60 s
/// it says which Services have not followed.
///
/// # Errors
/// A list failed.
pub(crate) async fn wait_for_replicas(
    client: &Client,
    mut services: Vec<GivenBack>,
) -> Result<(), Error> {
    if services.is_empty() {
        return Ok(());
    }
    let all_followed = async {
        loop {
            let mut looked_at = 0;
            while let Some(service) = services.get(looked_at) {
                match has_replicas(client, service).await? {
                    true => drop(services.swap_remove(looked_at)),
                    false => looked_at += 1,
                }
            }
            if services.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(REPLICAS_TIMEOUT, all_followed).await {
        Ok(followed) => followed?,
        Err(_) => {
            for GivenBack {
                namespace, name, ..
            } in &services
            {
                println!(
                    "Service {namespace}/{name} does not have all its ready replicas as endpoints after {} s, and its gateways are \
                     removed now; kubectl -n {namespace} get endpointslices -l {SERVICE_NAME_LABEL}={name} says which it has",
                    REPLICAS_TIMEOUT.as_secs()
                );
            }
        }
    }
    tokio::time::sleep(NODES_LAG).await;
    Ok(())
}

/// Whether each replica that takes requests is a ready endpoint by the slices that the cluster makes.
async fn has_replicas(client: &Client, service: &GivenBack) -> Result<bool, Error> {
    let (namespace, name) = (&service.namespace, &service.name);
    let labels: Vec<String> = service
        .selector
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let pods = Api::<Lenient<Pod>>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().labels(&labels.join(",")))
        .await
        .not_found_as_none(&format!(
            "listing the replicas of Service {namespace}/{name}"
        ))?;
    let selected = ListParams::default().labels(&format!("{SERVICE_NAME_LABEL}={name}"));
    let slices = Api::<Lenient<EndpointSlice>>::namespaced(client.clone(), namespace)
        .list(&selected)
        .await
        .not_found_as_none(&format!(
            "listing the EndpointSlices of Service {namespace}/{name}"
        ))?;
    let slices = slices.into_iter().flatten();
    let slices = slices.filter_map(|found| found.into_result().ok());
    let ready: BTreeSet<String> = slices
        .filter(|slice: &EndpointSlice| !slice.labels().contains_key(GATEWAY_LABEL))
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .filter_map(ready_pod)
        .collect();
    let pods = pods.into_iter().flatten();
    let pods = pods.filter_map(|found| found.into_result().ok());
    let mut replicas = pods.filter(takes_requests);
    Ok(replicas.all(|pod| pod.uid().is_some_and(|uid| ready.contains(&uid))))
}

/// The UID of the pod of an endpoint that is ready.
fn ready_pod(endpoint: Endpoint) -> Option<String> {
    let ready = endpoint.conditions.and_then(|conditions| conditions.ready);
    let pod = endpoint.target_ref.filter(|_| ready.unwrap_or(true));
    pod?.uid
}

fn takes_requests(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.any(|each| each.type_ == "Ready" && each.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}
