//! Requests: replicas follow them, and none is lost on the way to zero and back.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bursar_e2e::{
    Access, Cluster,
    runner::ScenarioResult,
    traffic::{self, Answer},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use bursar_e2e::scenario::{
    client_runtime, delete_services, deploy_manifest, deploy_service, expect_all_ok, get_field,
    service_manifest, wait_for_field, wait_for_zero, wait_until, with_min_replicas,
};

use crate::example::chat_service;

/// kube-proxy's own bound from an endpoint's change to its rules: its `minSyncPeriod` is 1 s, and a sync takes some time. How long it
/// took is measured and printed; requests are forgiven for that time only.
const SYNC_LIMIT: Duration = Duration::from_secs(2);
/// Where the node's kube-proxy says when it wrote its rules.
const KUBE_PROXY: &str = "127.0.0.1:10249";

/// `examples/inference.yaml`.
pub(crate) fn scaling(cluster: &Cluster) -> ScenarioResult {
    let manifest = chat_service("inference", "scaling", &["--startup-delay", "1s"], "5s")?;
    let address = deploy_manifest(cluster, "scaling", &manifest)?;
    let answers =
        client_runtime()?.block_on(traffic::burst(address, 24, Duration::from_millis(20), 60));
    expect_all_ok(&answers)?;
    let events = cluster.kubectl(&[
        "-n",
        "scaling",
        "get",
        "events",
        "-o",
        "jsonpath={.items[*].message}",
    ])?;
    if !events.contains("from 0 to 1") && !events.contains("from 0 to 4") {
        return Err(format!("it was not woken: {events}").into());
    }
    if !events.contains("to 4") {
        return Err(
            format!("24 requests at 4 a replica did not bring 4 replicas: {events}").into(),
        );
    }
    wait_for_zero(cluster, "scaling")
}

/// Bursts with gaps in which the service goes to zero, is draining, or has just gone.
pub(crate) fn through_zero(cluster: &Cluster) -> ScenarioResult {
    let flags = r#""--speedup", "20", "--on-sigterm", "close""#;
    let address = deploy_service(cluster, "zero", flags, "1s")?;
    let mut answers = Vec::new();
    let runtime = client_runtime()?;
    for gap in [0, 2, 4, 5, 6, 7, 8, 10, 6, 5] {
        std::thread::sleep(Duration::from_secs(gap));
        answers.extend(runtime.block_on(traffic::burst(
            address,
            100,
            Duration::from_millis(10),
            4,
        )));
    }
    expect_all_ok(&answers)?;
    wait_for_zero(cluster, "zero")
}

/// The only replica crashes under load. Kubernetes itself sends requests to it until its unreadiness is seen and the node's kube-proxy
/// has written its rules; from then on none may be refused.
pub(crate) fn last_replica_crashes(cluster: &Cluster) -> ScenarioResult {
    let flags = r#""--speedup", "20", "--startup-delay", "2s", "--allow-crash""#;
    let address = deploy_service(cluster, "crash", flags, "1h")?;
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("crash", flags, "1h"),
    ))?;
    wait_for_field(
        cluster,
        "crash",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    let (answers, (unready, synced)) = client_runtime()?.block_on(async {
        let client = cluster.client().await?;
        let began = Instant::now();
        let crash = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let crashed = SystemTime::now();
            traffic::post(address, "/crash").await;
            unready(client, "crash").await?;
            let unready = began.elapsed();
            synced(crashed).await?;
            Ok::<_, Box<dyn std::error::Error>>((unready, began.elapsed()))
        };
        let (answers, moments) = tokio::join!(
            traffic::burst(address, 400, Duration::from_millis(20), 4),
            crash
        );
        Ok::<_, Box<dyn std::error::Error>>((answers, moments?))
    })?;
    let (late, early): (Vec<Answer>, Vec<Answer>) =
        answers.into_iter().partition(|answer| answer.sent > synced);
    let refused = early
        .iter()
        .filter(|answer| answer.status != Some(200))
        .count();
    println!(
        "({refused} of {} were refused until the crash was seen, {:.1} s after the start, and kube-proxy had synced, {:.2} s later)",
        early.len(),
        unready.as_secs_f32(),
        (synced - unready).as_secs_f32()
    );
    if synced - unready > SYNC_LIMIT {
        return Err("kube-proxy took longer than it should".into());
    }
    if late.len() < 100 {
        return Err(format!("only {} requests came after the crash was seen", late.len()).into());
    }
    expect_all_ok(&late)?;
    cluster.kubectl(&["-n", "crash", "delete", "infd", "chat"])?;
    wait_for_field(cluster, "crash", "pods", ".items[*].metadata.name", "", 60)
}

/// Waits until kube-proxy has heard of a change since this moment, and has written rules for all that it heard of.
async fn synced(since: SystemTime) -> ScenarioResult {
    let since = since.duration_since(UNIX_EPOCH)?.as_secs_f64();
    let address: SocketAddr = KUBE_PROXY.parse()?;
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let text = traffic::get(address, "/metrics").await.text;
        let (queued, written) = (
            gauge(
                &text,
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            ),
            gauge(&text, "kubeproxy_sync_proxy_rules_last_timestamp_seconds"),
        );
        if let (Some(queued), Some(written)) = (queued, written)
            && queued > since
            && written >= queued
        {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(format!(
                "kube-proxy queued at {queued:?} and wrote at {written:?}, not after {since}"
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The largest of a gauge's series for IPv4.
fn gauge(metrics: &str, name: &str) -> Option<f64> {
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(name) && !line.contains("IPv6"));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
        .reduce(f64::max)
}

/// Waits until no endpoint of the namespace's Service is ready.
async fn unready(client: kube::Client, namespace: &str) -> Result<(), Box<dyn std::error::Error>> {
    let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let slices = api.list(&ListParams::default()).await?;
        let endpoints = slices
            .items
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| {
            conditions.ready != Some(false)
        };
        if !endpoints
            .filter_map(|endpoint| endpoint.conditions.as_ref())
            .any(ready)
        {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err("the crash was not seen within 20 s".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A replica that has become unready ends its requests, though a ReplicaSet would delete it before
/// the idle one that leaves.
pub(crate) fn unready_replica_ends_requests(cluster: &Cluster) -> ScenarioResult {
    const GATE: &str = "bursar.test/serves";
    let namespace = "unready";
    let manifest = service_manifest(namespace, "", "1h")
        .replace("drain: {timeout: 15s}", "drain: {timeout: 5m}")
        .replace(
            "      terminationGracePeriodSeconds: 10",
            &format!("      readinessGates: [{{conditionType: {GATE}}}]\n      terminationGracePeriodSeconds: 10"),
        );
    deploy_manifest(cluster, namespace, &with_min_replicas(2, &manifest))?;
    let names = || get_field(cluster, namespace, "pods", ".items[*].metadata.name");
    wait_until("two replicas", 30, || {
        Ok(names()?.split_whitespace().count() == 2)
    })?;
    let set_gate = |pod: &str, status: &str| {
        let patch =
            format!(r#"{{"status":{{"conditions":[{{"type":"{GATE}","status":"{status}"}}]}}}}"#);
        let mut words = vec!["-n", namespace, "patch", "pod", pod];
        words.extend(["--subresource=status", "-p", &patch]);
        cluster.kubectl(&words).map(drop)
    };
    let pods = names()?;
    let pods: Vec<&str> = pods.split_whitespace().collect();
    for pod in &pods {
        set_gate(pod, "True")?;
    }
    let ready = ".status.readyReplicas";
    wait_for_field(cluster, namespace, "infd/chat", ready, "2", 60)?;
    let busy = pods.first().ok_or("there is no replica")?;
    let address = get_field(cluster, namespace, &format!("pod/{busy}"), ".status.podIP")?;
    let address: SocketAddr = format!("{address}:8000").parse()?;
    // work for half a minute and more, of which all else follows within seconds
    let clients = thread::spawn(move || {
        let runtime = client_runtime()?;
        Ok::<_, std::io::Error>(runtime.block_on(traffic::burst(address, 3, Duration::ZERO, 1600)))
    });
    thread::sleep(Duration::from_secs(2));
    set_gate(busy, "False")?;
    thread::sleep(Duration::from_secs(2));
    cluster.apply(&with_min_replicas(1, &manifest))?;
    wait_for_field(
        cluster,
        namespace,
        "infd/chat",
        ".status.desiredReplicas",
        "1",
        20,
    )?;
    if clients.is_finished() {
        return Err("the requests ended before a replica was to leave".into());
    }
    let answers = clients.join().map_err(|_| "the clients failed")??;
    expect_all_ok(&answers)?;
    wait_for_field(
        cluster,
        namespace,
        "deployment/chat",
        ".spec.replicas",
        "1",
        60,
    )?;
    delete_services(cluster, namespace, &["chat"])
}

/// A client that a service does not name wakes nothing, and gets 403 warm or cold while its connections go through a gateway; once
/// the service names it, it is served. The NetworkPolicy of a service without a rule of its own counts.
pub(crate) fn only_named_clients_wake(cluster: &Cluster) -> ScenarioResult {
    let namespace = "callers";
    let flags = r#""--startup-delay", "1s""#;
    let manifest = service_manifest(namespace, flags, "5s");
    let named = |peers: &str| {
        let activation = format!("  activation: {{allowFrom: {peers}}}\n  drain:");
        manifest.replace("  drain:", &activation)
    };
    let elsewhere = named("[{ipBlock: {cidr: 192.0.2.0/24}}]");
    let address = deploy_manifest(cluster, namespace, &elsewhere)?;
    let refused = |reason: &str| -> ScenarioResult {
        let answer = client_runtime()?.block_on(traffic::complete(address, 4));
        let desired = get_field(cluster, namespace, "infd/chat", ".status.desiredReplicas")?;
        match answer.status == Some(403) && answer.text.contains(reason) && desired == "0" {
            true => Ok(()),
            false => Err(format!("{desired} replicas are wanted after {answer:?}").into()),
        }
    };
    refused("activation.allowFrom of this service")?;
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: callers}, spec: {podSelector: {matchLabels: {bursar.dev/workload: chat}}, policyTypes: [Ingress]}}";
    cluster.apply(policy)?;
    // gateways hear of the policy long before this
    thread::sleep(Duration::from_secs(2));
    cluster.apply(&manifest)?;
    wait_until("the NetworkPolicy to count", 20, || {
        let answer = client_runtime()?.block_on(traffic::complete(address, 4));
        Ok(answer
            .text
            .contains("the NetworkPolicies that select the replicas"))
    })?;
    refused("the NetworkPolicies that select the replicas")?;
    cluster.kubectl(&["-n", namespace, "delete", "networkpolicy", "closed"])?;
    cluster.apply(&named("[{entity: All}]"))?;
    wait_until("the client to be served", 60, || {
        let answer = client_runtime()?.block_on(traffic::complete(address, 4));
        Ok(answer.status == Some(200))
    })?;
    delete_services(cluster, namespace, &["chat"])
}
