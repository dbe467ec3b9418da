//! The InferenceDeployments of a run, over the API.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use futures::{StreamExt, TryStreamExt};
use http::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Requests to the API server at the same time, where nothing is measured.
const CONCURRENCY: usize = 16;
/// Requests that one replica carries.
const TARGET: u64 = 4;
/// The queue depth of one replica that asks for a second one.
pub const JUMP: u64 = 2 * TARGET;
const OBJECTS: &str = "inferencedeployments";
pub(super) const MERGE: &str = "application/merge-patch+json";

/// A number of services, spread over namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Services {
    /// How many there are.
    pub count: usize,
    /// Over how many namespaces they are spread.
    pub namespaces: usize,
}

impl Services {
    /// Nodes of 8 GPUs on which each service has room for `replicas`.
    pub fn nodes(&self, replicas: usize) -> usize {
        (self.count * replicas).div_ceil(8) + 2
    }

    fn namespace(&self, index: usize) -> String {
        format!("team-{}", index % self.namespaces)
    }

    fn path(&self, index: usize) -> String {
        format!("{}/chat-{index}", collection(&self.namespace(index)))
    }

    /// Makes the namespaces, with a budget that is never reached, and the services.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn create(&self, client: &Client) -> Result<()> {
        for index in 0..self.namespaces.min(self.count) {
            let namespace = self.namespace(index);
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            send(
                client,
                Method::POST,
                "/api/v1/namespaces",
                "application/json",
                &object,
            )
            .await?;
            let path = format!("/apis/bursar.dev/v1alpha1/namespaces/{namespace}/budgetpolicies");
            let budget = json!({
                "apiVersion": "bursar.dev/v1alpha1", "kind": "BudgetPolicy", "metadata": {"name": "team"},
                "spec": {"limit": "100000000", "period": "Monthly"},
            });
            send(client, Method::POST, &path, "application/json", &budget).await?;
        }
        let all = (0..self.count).map(|index| async move {
            let path = collection(&self.namespace(index));
            send(
                client,
                Method::POST,
                &path,
                "application/json",
                &service(index),
            )
            .await
        });
        concurrently(all).await
    }

    /// Sets the fewest replicas of all services.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn set_min_replicas(&self, client: &Client, replicas: u64) -> Result<()> {
        let patch = json!({"spec": {"minReplicas": replicas}});
        let all = (0..self.count).map(|index| {
            let patch = &patch;
            async move { send(client, Method::PATCH, &self.path(index), MERGE, patch).await }
        });
        concurrently(all).await
    }

    /// Where requests to each service are held, once every service has a port on the gateway.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn held_at(
        &self,
        client: &Client,
        gateway: IpAddr,
    ) -> Result<Option<Vec<SocketAddr>>> {
        let path = format!("/apis/bursar.dev/v1alpha1/{OBJECTS}");
        let list = send(client, Method::GET, &path, "application/json", &Value::Null).await?;
        let ports: Vec<u16> = items(&list)
            .filter_map(|object| {
                u16::try_from(object["status"]["activation"]["port"].as_u64()?).ok()
            })
            .collect();
        let addresses = || ports.iter().map(|port| SocketAddr::new(gateway, *port));
        Ok((ports.len() == self.count).then(|| addresses().collect()))
    }

    /// The addresses of the ready replicas, by service as `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn replicas(&self, client: &Client) -> Result<BTreeMap<String, Vec<String>>> {
        let api: Api<Pod> = Api::all(client.clone());
        let selector = ListParams::default().labels("bursar.dev/kind=InferenceDeployment");
        let pods = api.list(&selector).await.map_err(client_error)?;
        let mut replicas: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods {
            let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();
            let status = pod.status.unwrap_or_default();
            let mut conditions = status.conditions.iter().flatten();
            let is_ready = conditions.any(|each| each.type_ == "Ready" && each.status == "True");
            if let (Some(namespace), Some(name), Some(address), true) = (
                pod.metadata.namespace.clone(),
                label("bursar.dev/workload"),
                status.pod_ip,
                is_ready,
            ) {
                let service = format!("{namespace}/{name}");
                replicas.entry(service).or_default().push(address);
            }
        }
        Ok(replicas)
    }

    /// The resourceVersion of each service's Deployment, by `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn deployment_versions(&self, client: &Client) -> Result<BTreeMap<String, String>> {
        let path =
            "/apis/apps/v1/deployments?labelSelector=bursar.dev%2Fkind%3DInferenceDeployment";
        let list = send(client, Method::GET, path, "application/json", &Value::Null).await?;
        let version = |object: &Value| {
            let metadata = &object["metadata"];
            let text = |name: &str| metadata[name].as_str().map(str::to_owned);
            let object = format!("{}/{}", text("namespace")?, text("name")?);
            Some((object, text("resourceVersion")?))
        };
        Ok(items(&list).filter_map(version).collect())
    }
}

/// Sends a request to the API server and returns the object of its answer.
///
/// # Errors
/// The API server's answer when it refuses.
pub(super) async fn send(
    client: &Client,
    method: Method,
    path: &str,
    content_type: &str,
    body: &Value,
) -> Result<Value> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body)
        .map_err(client_error)?;
    client.request::<Value>(request).await.map_err(client_error)
}

fn client_error(error: impl std::fmt::Display) -> Error {
    Error::Client(error.to_string())
}

async fn concurrently<F: Future<Output = Result<Value>>>(
    all: impl Iterator<Item = F>,
) -> Result<()> {
    let all = futures::stream::iter(all).buffer_unordered(CONCURRENCY);
    all.try_for_each(|_| async { Ok(()) }).await
}

fn collection(namespace: &str) -> String {
    format!("/apis/bursar.dev/v1alpha1/namespaces/{namespace}/{OBJECTS}")
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// At zero until somebody asks, and at most two replicas.
fn service(index: usize) -> Value {
    json!({
        "apiVersion": "bursar.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": format!("chat-{index}")},
        "spec": {
            "engine": "vLLM",
            "maxReplicas": 2,
            "scaling": {"signals": [{"type": "Engine", "target": TARGET}], "idle": {"after": "6h"}},
            "activation": {"holdTimeout": "10m"},
            "template": {
                "metadata": {"annotations": {"simulated.bursar.dev/ready-after": "2s"}},
                "spec": {"containers": [{
                    "name": "vllm",
                    "image": "vllm/vllm-openai:v0.11.0",
                    "args": ["--model", "Qwen/Qwen3-8B", "--max-model-len", "131072"],
                    "env": [{"name": "HF_HOME", "value": "/models"}],
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                }]},
            },
        },
    })
}
