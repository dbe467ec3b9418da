//! Who may reach a service: by its own rule, or by the NetworkPolicies of its replicas.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::net::TcpSocket;

use super::process::GatewayProcess;
use super::*;

/// A replica listens here, on the engine's port.
const REPLICA: &str = "127.83.0.2:8000";
const SCANNER: &str = "127.0.0.1";
const WEB: &str = "127.0.0.2";

/// Sends a completion request from this address.
async fn complete_from(client: &str, gateway: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    let client: IpAddr = client.parse().unwrap();
    socket.bind((client, 0).into()).unwrap();
    let exchange = async {
        let mut stream = socket.connect(gateway).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap()
}

/// Fills the directory with a pod of namespace `ns` at [`WEB`] and one of another at [`SCANNER`].
fn fill(gateway: &TestGateway) {
    for (namespace, name, address) in [("ns", "web", WEB), ("other", "scanner", SCANNER)] {
        let labels = [("app".to_owned(), name.to_owned())].into();
        let key = (namespace.to_owned(), name.to_owned());
        let addresses = vec![address.parse().unwrap()];
        gateway.directory.set_pod(&key, addresses, &labels);
    }
    gateway.directory.publish(true);
}

#[tokio::test]
async fn a_client_that_the_service_does_not_name_gets_403_warm_or_cold_and_wakes_nothing() {
    let only_own = json!({"allowFrom": [{"podSelector": {}}]});
    let mut gateway = TestGateway::new(only_own).await;
    fill(&gateway);
    let mut seen = gateway.demand.subscribe();
    seen.next().await;
    for _ in 0..3 {
        let answer = complete_from(SCANNER, gateway.address).await;
        assert!(
            answer.starts_with("HTTP/1.1 403")
                && answer.contains("\"code\":\"caller_not_allowed\"")
                && answer.contains("activation.allowFrom")
                && answer.contains("127.0.0.1, a pod of namespace other")
                && answer.contains("retry-after: "),
            "{answer}"
        );
    }
    let message = seen.next().await;
    assert!(message.services.is_empty(), "{message:?}");
    let address = gateway.address;
    let held = tokio::spawn(async move { complete_from(WEB, address).await });
    gateway.wait_for_held(1).await;
    let (listener, replica) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(replica));
    assert!(held.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(
        complete_from(WEB, address)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let answer = complete_from(SCANNER, address).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_pod_that_has_just_started_is_waited_for_and_an_unknown_client_is_refused() {
    let only_own = json!({"allowFrom": [{"podSelector": {}}]});
    let gateway = TestGateway::new(only_own).await;
    let address = gateway.address;
    let unknown = complete_from(WEB, address).await;
    assert!(
        unknown.starts_with("HTTP/1.1 503") && unknown.contains("caller_unknown"),
        "no pod was read yet: {unknown}"
    );
    gateway.directory.publish(true);
    let answer = complete_from(WEB, address).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("no pod's and no node's"),
        "{answer}"
    );
    let early = tokio::spawn(async move { complete_from(WEB, address).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!early.is_finished() && gateway.held() == 0);
    fill(&gateway);
    gateway.wait_for_held(1).await;
    early.abort();
}

#[tokio::test]
async fn a_rule_that_changes_counts_for_requests_that_are_held() {
    let mut gateway = TestGateway::new(json!({})).await;
    fill(&gateway);
    let address = gateway.address;
    let held = tokio::spawn(async move { complete_from(SCANNER, address).await });
    gateway.wait_for_held(1).await;
    let only_own = json!({"allowFrom": [{"podSelector": {}}]});
    gateway.set_service(only_own, Value::Null);
    let answer = held.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn clients_that_may_not_reach_a_service_take_none_of_its_connections() {
    let only_own = json!({"maxHeldRequests": 0, "allowFrom": [{"podSelector": {}}]});
    let gateway = TestGateway::new(only_own).await;
    fill(&gateway);
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    let answer = complete_from(WEB, gateway.address).await;
    assert!(answer.contains("queue_full"), "{answer}");
}

#[tokio::test]
async fn the_network_policies_of_the_replicas_count_where_the_service_says_nothing() {
    let process = GatewayProcess::start(Duration::from_secs(60)).await;
    process.wait_for_readiness("200 OK").await;
    let (client, params) = (process.client.clone(), PostParams::default());
    // nothing selects the replicas: everybody is let through
    let service = process.service;
    let scanner = tokio::spawn(async move { complete_from(SCANNER, service).await });
    process.wait_for_held(1).await;
    scanner.abort();
    process
        .wait_for_metric("bursar_gateway_held_requests 0\n")
        .await;
    let team = json!({"metadata": {"labels": {"team": "b"}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (written, team) = (PatchParams::default(), Patch::Merge(team));
    namespaces.patch("other", &written, &team).await.unwrap();
    for (namespace, name, address) in [("ns", "web", WEB), ("other", "scanner", SCANNER)] {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": []}});
        let pod = serde_json::from_value(pod).unwrap();
        pods.create(&params, &pod).await.unwrap();
        let status = Patch::Merge(json!({"status": {"phase": "Running", "podIP": address}}));
        pods.patch_status(name, &written, &status).await.unwrap();
    }
    let web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let policy = |from: Value| -> NetworkPolicy {
        serde_json::from_value(json!({
            "metadata": {"name": "chat"},
            "spec": {
                "podSelector": {"matchLabels": {"bursar.dev/workload": "chat"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": from, "ports": [{"port": 8000}]}, {"ports": [{"port": 9000}]}],
            },
        }))
        .unwrap()
    };
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "ns");
    policies
        .create(&params, &policy(json!([web])))
        .await
        .unwrap();
    let refused = async {
        loop {
            // a request that came before the policy was heard of is held until then
            let answer = complete_from(SCANNER, service).await;
            if answer.starts_with("HTTP/1.1 403") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, refused).await.unwrap();
    assert!(
        answer.contains("the NetworkPolicies that select the replicas"),
        "{answer}"
    );
    process.wait_for_metric("outcome=\"not_allowed\"").await;
    let held = tokio::spawn(async move { complete_from(WEB, service).await });
    process.wait_for_held(1).await;
    answer_all(TcpListener::bind(REPLICA).await.unwrap());
    process.make_replica(REPLICA).await;
    assert!(held.await.unwrap().starts_with("HTTP/1.1 200"));
    let answer = complete_from(SCANNER, service).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "warm: {answer}");
    // the policy opens to the other namespace
    let both = policy(json!([web, {"namespaceSelector": {"matchLabels": {"team": "b"}}}]));
    let spec = Patch::Merge(json!({"spec": both.spec}));
    policies.patch("chat", &written, &spec).await.unwrap();
    let opened = async {
        while !complete_from(SCANNER, service)
            .await
            .starts_with("HTTP/1.1 200")
        {}
    };
    tokio::time::timeout(TIMEOUT, opened).await.unwrap();
}
