//! A whole gateway with an API server in memory.

use std::sync::atomic::{AtomicU16, Ordering};

use bursar_api::InferenceDeployment;
use bursar_api::names::GATEWAY_PORTS;
use bursar_apitest::Server;
use bursar_apitest::https::TestCertificate;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{Error, Options};

/// Who has it may read the gateway's metrics.
const TOKEN: &str = "token-of-prometheus";

/// A port of the gateways' range that is free now and that no other test uses.
async fn free_gateway_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(*GATEWAY_PORTS.start());
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("::", port)).await.is_ok() {
            return port;
        }
    }
}

/// A whole gateway with an API server, at 127.0.0.1.
pub(super) struct GatewayProcess {
    pub(super) client: kube::Client,
    pub(super) stop: CancellationToken,
    ended: JoinHandle<Result<(), Error>>,
    health: SocketAddr,
    secure: SocketAddr,
    certificate: TestCertificate,
    pub(super) service: SocketAddr,
}

impl GatewayProcess {
    pub(super) async fn start(grace: Duration) -> Self {
        let server = Server::new(&["ns", "other"]);
        server.add_user("prometheus", TOKEN);
        server.grant("prometheus", "get /metrics");
        let client = server.client();
        let certificate = TestCertificate::new().unwrap();
        let (health, secure, demand) = (free_port().await, free_port().await, free_port().await);
        let port = free_gateway_port().await;
        let options = Options {
            pod_ip: "127.0.0.1".parse().unwrap(),
            pod_ips: Vec::new(),
            pod_uid: "g".into(),
            health_port: health,
            secure_port: secure,
            demand_port: demand,
            tls_cert: certificate.certificate(),
            tls_key: certificate.key(),
            controller_service_account: "none".into(),
            termination_grace: grace,
            response_header_timeout: TIMEOUT,
            response_idle_timeout: TIMEOUT,
            client_stall_timeout: TIMEOUT,
        };
        let services: Api<InferenceDeployment> = Api::namespaced(client.clone(), "ns");
        let params = PostParams::default();
        let object = super::service(json!({}), Value::Null, port);
        let status = Patch::Merge(json!({"status": object["status"]}));
        let object = serde_json::from_value(object).unwrap();
        let object = services.create(&params, &object).await.unwrap();
        let written = PatchParams::default();
        services
            .patch_status("chat", &written, &status)
            .await
            .unwrap();
        let owner = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": "chat", "uid": object.metadata.uid});
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "chat-bursar-gateway", "namespace": "ns", "ownerReferences": [owner],
                "labels": {"bursar.dev/workload": "chat", "bursar.dev/gateway": "true"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": false}}],
            "ports": [{"name": "http", "port": port}],
        }))
        .unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "ns");
        slices.create(&params, &slice).await.unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(crate::serve(options, client.clone(), stop.clone()));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            client,
            stop,
            ended,
            health: local(health),
            secure: local(secure),
            certificate,
            service: local(port),
        }
    }

    pub(super) fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), "ns")
    }

    /// Waits until `/readyz` is answered with this status.
    pub(super) async fn wait_for_readiness(&self, status: &str) {
        let request = b"GET /readyz HTTP/1.1\r\nhost: health\r\nconnection: close\r\n\r\n";
        let answered = async || {
            let mut stream = TcpStream::connect(self.health).await?;
            stream.write_all(request).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        wait_for(status, answered).await;
    }

    /// Waits until so many requests are held.
    pub(super) async fn wait_for_held(&self, number: usize) {
        let expected = format!("bursar_gateway_held_requests {number}\n");
        self.wait_for_metric(&expected).await;
    }

    /// Waits until the metrics have this text.
    pub(super) async fn wait_for_metric(&self, text: &str) {
        let headers = format!("authorization: Bearer {TOKEN}\r\n");
        let metrics = async || {
            let metrics = self.certificate.get(self.secure, "/metrics", &headers);
            metrics.await
        };
        wait_for(text, metrics).await;
    }

    /// Makes the pod of a replica that is ready at this address.
    pub(super) async fn make_replica(&self, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "chat-a", "labels": {
                "bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat", "bursar.dev/serving": "true",
            }},
            "spec": {"containers": [{"name": "engine"}]},
        }))
        .unwrap();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "ns");
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status =
            json!({"status": {"phase": "Running", "podIP": address.ip(), "conditions": ready}});
        let (written, status) = (PatchParams::default(), Patch::Merge(status));
        pods.patch_status("chat-a", &written, &status)
            .await
            .unwrap();
    }

    pub(super) async fn leave_the_slices(&self) {
        let params = DeleteParams::default();
        self.slices()
            .delete("chat-bursar-gateway", &params)
            .await
            .unwrap();
    }

    /// Waits for the process to end.
    pub(super) async fn end(self) {
        let ended = tokio::time::timeout(TIMEOUT, self.ended).await;
        ended.unwrap().unwrap().unwrap();
    }
}

/// Waits until an answer has this text.
async fn wait_for(text: &str, mut answer: impl AsyncFnMut() -> std::io::Result<String>) {
    let found = async {
        // nobody listens before the gateway is up
        while !answer().await.is_ok_and(|answer| answer.contains(text)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, found).await.unwrap();
}
