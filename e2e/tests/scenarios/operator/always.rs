//! `activation.mode: Always`: clients that use ready endpoints alone, as ingress controllers and meshes do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bursar_e2e::{
    Cluster,
    runner::ScenarioResult,
    scenario::{
        client_runtime, delete_services, deploy_manifest, expect_all_ok, get_field,
        service_manifest, wait_for_field, wait_for_zero, wait_until, with_min_replicas,
    },
    traffic::{self, Answer},
};
use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::example::{Example, chat_service};

const NAMESPACE: &str = "always";

/// The ready endpoints of the Service `chat`, as a proxy that reads slices keeps them.
#[derive(Clone, Default)]
struct ReadyEndpoints(Arc<Mutex<Vec<SocketAddr>>>);

impl ReadyEndpoints {
    /// Reads the slices again and again.
    async fn follow(&self, slices: Api<EndpointSlice>) -> kube::Error {
        let of_chat = ListParams::default().labels("kubernetes.io/service-name=chat");
        loop {
            match slices.list(&of_chat).await {
                Ok(list) => {
                    let ready = list.items.iter().flat_map(ready).collect();
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ready;
                }
                Err(error) => return error,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn get(&self, turn: usize) -> Option<SocketAddr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(turn % known.len().max(1)).copied()
    }

    /// Requests one after another, each to the next endpoint that is ready when it is sent.
    async fn burst(&self, count: usize, gap: Duration, tokens: u32) -> Vec<Answer> {
        let began = Instant::now();
        let requests = (0..count).map(|turn| async move {
            tokio::time::sleep(gap * u32::try_from(turn).unwrap_or(u32::MAX)).await;
            let sent = began.elapsed();
            let answer = match self.get(turn) {
                Some(address) => traffic::complete(address, tokens).await,
                None => Answer {
                    status: None,
                    text: "no ready endpoint".to_owned(),
                    retry_after: None,
                    sent,
                    first_part: None,
                },
            };
            Answer { sent, ..answer }
        });
        join_all(requests).await
    }
}

fn ready(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten();
    let port = ports
        .filter_map(|port| u16::try_from(port.port?).ok())
        .next();
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) == Some(true)
    });
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let addresses = addresses.filter_map(|address| address.parse().ok());
    addresses
        .filter_map(|address| Some(SocketAddr::new(address, port?)))
        .collect()
}

fn kind() -> ApiResource {
    ApiResource {
        group: "bursar.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "bursar.dev/v1alpha1".to_owned(),
        kind: "InferenceDeployment".to_owned(),
        plural: "inferencedeployments".to_owned(),
    }
}

fn with_mode(mode: &str, manifest: &str) -> String {
    manifest.replace(
        "  drain:",
        &format!("  activation: {{mode: {mode}}}\n  drain:"),
    )
}

/// `examples/inference-behind-ingress.yaml`: to zero and back three times, by a client that uses ready endpoints alone.
pub(crate) fn wakes_by_ready_endpoints(cluster: &Cluster) -> ScenarioResult {
    let file = "inference-behind-ingress";
    let flags = [
        "--startup-delay",
        "1s",
        "--speedup",
        "20",
        "--on-sigterm",
        "close",
    ];
    let manifest = chat_service(file, NAMESPACE, &flags, "1s")?;
    deploy_manifest(cluster, NAMESPACE, &manifest)?;
    leads_to_service(cluster, Example::read(file)?)?;
    wait_until("the Service to select no pod", 30, || {
        let selected = get_field(cluster, NAMESPACE, "service/chat", ".spec.selector")?;
        Ok(selected.contains("by-gateways"))
    })?;
    let answers = client_runtime()?.block_on(async {
        let slices: Api<EndpointSlice> = Api::namespaced(cluster.client().await?, NAMESPACE);
        let endpoints = ReadyEndpoints::default();
        let requests = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut answers = Vec::new();
            // the service is at zero, draining, or has just gone
            for gap in [0, 8, 5, 6] {
                tokio::time::sleep(Duration::from_secs(gap)).await;
                let gap = Duration::from_millis(20);
                answers.extend(endpoints.burst(100, gap, 4).await);
            }
            answers
        };
        tokio::select! {
            error = endpoints.follow(slices) => Err(error.into()),
            answers = requests => Ok::<_, Box<dyn std::error::Error>>(answers),
        }
    })?;
    expect_all_ok(&answers)?;
    let replicas = get_field(
        cluster,
        NAMESPACE,
        "service/chat-replicas",
        ".spec.clusterIP",
    )?;
    if replicas != "None" {
        return Err(format!("the Service of the replicas has the address {replicas}").into());
    }
    wait_for_zero(cluster, NAMESPACE)
}

/// The Ingress of an example leads to the Service of its InferenceDeployment, which is called `chat` here, by a port that it has.
fn leads_to_service(cluster: &Cluster, mut example: Example) -> ScenarioResult {
    let service = example.take("InferenceDeployment")?;
    let ingress = example.take("Ingress")?;
    let backend = &ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    let ports = get_field(cluster, NAMESPACE, "service/chat", ".spec.ports[*].name")?;
    let port = backend["port"]["name"].as_str().unwrap_or_default();
    let has_port = ports.split_whitespace().any(|name| name == port);
    match backend["name"] == service["metadata"]["name"] && has_port {
        true => Ok(()),
        false => Err(format!("the Ingress leads to {backend}; the Service has {ports}").into()),
    }
}

/// The mode changes twice under load, of clients that use ready endpoints alone and of clients that use the Service's address. The
/// Service keeps its address.
pub(crate) fn switches_under_load(cluster: &Cluster) -> ScenarioResult {
    let flags = r#""--startup-delay", "1s", "--speedup", "20", "--on-sigterm", "close""#;
    let manifest = with_min_replicas(1, &service_manifest(NAMESPACE, flags, "1h"));
    let address = deploy_manifest(cluster, NAMESPACE, &with_mode("OnDemand", &manifest))?;
    let ready = ".status.readyReplicas";
    wait_for_field(cluster, NAMESPACE, "infd/chat", ready, "1", 60)?;
    wait_until("the Service to select its replicas alone", 30, || {
        let serving = get_field(cluster, NAMESPACE, "service/chat", ".spec.selector")?;
        let services = get_field(cluster, NAMESPACE, "services", ".items[*].metadata.name")?;
        Ok(!serving.contains("by-gateways") && services == "chat")
    })?;
    let before = get_field(cluster, NAMESPACE, "service/chat", ".spec.clusterIP")?;
    let (by_endpoints, by_address) = client_runtime()?.block_on(async {
        let client = cluster.client().await?;
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        let services: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &kind());
        let endpoints = ReadyEndpoints::default();
        let switches = async {
            for mode in ["Always", "OnDemand", "Always", "OnDemand"] {
                tokio::time::sleep(Duration::from_secs(4)).await;
                let patch = Patch::Merge(json!({"spec": {"activation": {"mode": mode}}}));
                let params = PatchParams::default();
                services.patch("chat", &params, &patch).await?;
            }
            Ok::<_, kube::Error>(())
        };
        let requests = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let gap = Duration::from_millis(20);
            tokio::join!(
                endpoints.burst(1000, gap, 4),
                traffic::burst(address, 1000, gap, 4),
                switches
            )
        };
        tokio::select! {
            error = endpoints.follow(slices) => Err(error.into()),
            (by_endpoints, by_address, switched) = requests => {
                switched?;
                Ok::<_, Box<dyn std::error::Error>>((by_endpoints, by_address))
            }
        }
    })?;
    expect_all_ok(&by_address)?;
    expect_all_ok(&by_endpoints)?;
    let after = get_field(cluster, NAMESPACE, "service/chat", ".spec.clusterIP")?;
    if after != before {
        return Err(format!("the Service had the address {before}, and has {after}").into());
    }
    wait_until("the Service of the replicas to go", 30, || {
        let services = get_field(cluster, NAMESPACE, "services", ".items[*].metadata.name")?;
        Ok(services == "chat")
    })?;
    delete_services(cluster, NAMESPACE, &["chat"])
}
