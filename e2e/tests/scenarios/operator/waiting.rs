//! Waiting is not failing: what a request or a job waits for, how long, and for whom nobody waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use bursar_e2e::{
    Access, Cluster, operator, oracle,
    runner::ScenarioResult,
    scenario::{
        budget_manifest, client_runtime, condition_reason, delete_services, deploy_manifest,
        deploy_service, expect_all_ok, get_field, job_manifest, service_manifest, wait_for_field,
        wait_until,
    },
    traffic,
};

/// A request waits for a node far longer than a start may fail, and the pod that it woke serves it.
pub(crate) fn for_a_node(cluster: &Cluster) -> ScenarioResult {
    let namespace = "late-node";
    let on_late_node = service_manifest(namespace, "", "1h").replace(
        "      terminationGracePeriodSeconds: 10",
        "      nodeSelector: {late: arrived}\n      terminationGracePeriodSeconds: 10",
    );
    let address = deploy_manifest(cluster, namespace, &on_late_node)?;
    let (answer, pods) = client_runtime()?.block_on(async {
        let asked = tokio::spawn(async move { traffic::complete(address, 4).await });
        // all its replicas have been without a node for longer than a failed start is waited for
        tokio::time::sleep(Duration::from_secs(75)).await;
        let reason = get_field(cluster, namespace, "infd/chat", ".status.reason")?;
        if !reason.contains("waits for a node") {
            return Err(format!("the reason does not name the wait: {reason}").into());
        }
        let pods = get_field(cluster, namespace, "pods", ".items[*].metadata.name")?;
        let node = &cluster
            .nodes()
            .first()
            .ok_or("the cluster has no node")?
            .name;
        cluster.kubectl(&["label", "node", node, "late=arrived"])?;
        Ok::<_, Box<dyn std::error::Error>>((asked.await?, pods))
    })?;
    expect_all_ok(&[answer])?;
    let served_by = get_field(cluster, namespace, "pods", ".items[*].metadata.name")?;
    if pods.is_empty() || served_by != pods {
        return Err(format!("{pods:?} waited, and {served_by:?} served").into());
    }
    delete_services(cluster, namespace, &["chat"])
}

/// Where nodes are made for pods, a gang starts without room, waits as pods for a node that comes far
/// later than a gang waits otherwise, and runs as a whole in its first attempt.
pub(crate) fn for_a_node_as_a_gang(cluster: &Cluster) -> ScenarioResult {
    let namespace = "late-gang";
    let autoscaled = [
        "controller.leaseDuration=6s",
        "nodeAutoscaling.enabled=Enabled",
    ];
    operator::install(cluster, operator::IMAGE, &autoscaled)?;
    let node = &cluster
        .nodes()
        .first()
        .ok_or("the cluster has no node")?
        .name;
    let gang = job(namespace, "gang", 1)
        .replace("replicas: 1", "replicas: 2")
        .replace(
            "      terminationGracePeriodSeconds: 10",
            "      nodeSelector: {gang: arrived}\n      terminationGracePeriodSeconds: 10",
        );
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n{gang}"
    ))?;
    let pods = || get_field(cluster, namespace, "pods", ".items[*].metadata.name");
    let phase = |value: &str, seconds| {
        wait_for_field(
            cluster,
            namespace,
            "tj/gang",
            ".status.phase",
            value,
            seconds,
        )
    };
    phase("Starting", 30)?;
    wait_until("both workers to wait as pods", 30, || {
        Ok(pods()?.split_whitespace().count() == 2)
    })?;
    let waiting = pods()?;
    // longer than two minutes and half as long again, after which a gang is taken back otherwise
    thread::sleep(Duration::from_secs(185));
    let reason = get_field(cluster, namespace, "tj/gang", ".status.reason")?;
    if pods()? != waiting || !reason.contains("which a node autoscaler may make") {
        return Err(format!("{waiting} waited, now {} do: {reason}", pods()?).into());
    }
    cluster.kubectl(&["label", "node", node, "gang=arrived"])?;
    phase("Succeeded", 60)?;
    let attempts = get_field(cluster, namespace, "tj/gang", ".status.attempts")?;
    operator::install(
        cluster,
        operator::IMAGE,
        &[
            "controller.leaseDuration=6s",
            "nodeAutoscaling.enabled=Auto",
        ],
    )?;
    cluster.kubectl(&["-n", namespace, "delete", "tj", "gang"])?;
    match attempts.as_str() {
        "1" => Ok(()),
        _ => Err(format!("it needed {attempts} attempts").into()),
    }
}

/// Where a quota lets no pod be made, the request is told so with the API server's words.
pub(crate) fn for_a_pod_that_a_quota_refuses(cluster: &Cluster) -> ScenarioResult {
    let namespace = "no-quota";
    let address = deploy_service(cluster, namespace, "", "1h")?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: gpus, namespace: {namespace}}}\n\
         spec: {{hard: {{requests.nvidia.com/gpu: \"0\"}}}}\n"
    ))?;
    let began = Instant::now();
    let answer = client_runtime()?.block_on(traffic::complete(address, 4));
    let seconds = began.elapsed().as_secs();
    let (status, text) = (answer.status, &answer.text);
    if status != Some(503) || !text.contains("exceeded quota") || seconds > 90 {
        return Err(format!("{status:?} after {seconds} s: {text}").into());
    }
    let reason = condition_reason("PodsHealthy");
    wait_for_field(cluster, namespace, "infd/chat", &reason, "PodsRefused", 10)?;
    delete_services(cluster, namespace, &["chat"])
}

/// What monitoring asks for wakes nothing and keeps nothing awake.
pub(crate) fn never_for_monitoring(cluster: &Cluster) -> ScenarioResult {
    let namespace = "monitored";
    let address = deploy_service(cluster, namespace, "", "5s")?;
    let ask = |path: &'static str| async move { traffic::get(address, path).await };
    let paths = ["/metrics", "/health", "/v1/models"];
    let runtime = client_runtime()?;
    runtime.block_on(async {
        for _ in 0..5 {
            for path in paths {
                let answer = ask(path).await;
                if answer.status != Some(503) {
                    let (status, text) = (answer.status, answer.text);
                    return Err(format!("{path} at zero: {status:?} {text}"));
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    })?;
    let pods = get_field(cluster, namespace, "pods", ".items[*].metadata.name")?;
    if !pods.is_empty() {
        return Err(format!("monitoring woke {pods}").into());
    }
    expect_all_ok(&[runtime.block_on(traffic::complete(address, 4))])?;
    // a scrape every second does not keep it from being idle
    let began = Instant::now();
    runtime.block_on(async {
        while began.elapsed() < Duration::from_secs(40) {
            for path in paths {
                ask(path).await;
            }
            let pods = get_field(cluster, namespace, "pods", ".items[*].metadata.name")?;
            if pods.is_empty() {
                return Ok::<_, Box<dyn std::error::Error>>(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err("it is kept awake by monitoring".into())
    })?;
    delete_services(cluster, namespace, &["chat"])
}

/// A client that gave up has started a replica all the same: it is kept, and serves the next one.
pub(crate) fn longer_than_the_client(cluster: &Cluster) -> ScenarioResult {
    let namespace = "impatient";
    let flags = r#""--startup-delay", "20s""#;
    let impatient = service_manifest(namespace, flags, "1m").replace(
        "  drain: {timeout: 15s}",
        "  drain: {timeout: 15s}\n  activation: {holdTimeout: 5s}",
    );
    let address = deploy_manifest(cluster, namespace, &impatient)?;
    let runtime = client_runtime()?;
    let answer = runtime.block_on(traffic::complete(address, 4));
    if answer.status != Some(504) {
        return Err(format!("{:?} {}", answer.status, answer.text).into());
    }
    let name = ".items[*].metadata.name";
    let started = get_field(cluster, namespace, "pods", name)?;
    let ready = ".status.readyReplicas";
    wait_for_field(cluster, namespace, "infd/chat", ready, "1", 60)?;
    let kept = get_field(cluster, namespace, "pods", name)?;
    if started.is_empty() || kept != started {
        return Err(format!("{started:?} was started, and {kept:?} is ready").into());
    }
    let began = Instant::now();
    expect_all_ok(&[runtime.block_on(traffic::complete(address, 4))])?;
    if began.elapsed() > Duration::from_secs(5) {
        return Err("the next request had to wait".into());
    }
    delete_services(cluster, namespace, &["chat"])
}

/// A job that no period of the budget could pay for says so, and the next one runs.
pub(crate) fn for_no_job_that_can_never_be_paid(cluster: &Cluster) -> ScenarioResult {
    let namespace = "unaffordable";
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n{}",
        budget_manifest(namespace, "2.00", "")
    ))?;
    // eight GPUs for five minutes cost more than four
    cluster.apply(&job(namespace, "large", 8))?;
    let limited = ".status.limitedBy";
    wait_for_field(cluster, namespace, "tj/large", limited, "Budget", 30)?;
    let reason = get_field(cluster, namespace, "tj/large", ".status.reason")?;
    if !reason.contains("never starts unless the limit is raised") {
        return Err(format!("the reason does not say that it never starts: {reason}").into());
    }
    cluster.apply(&job(namespace, "small", 1))?;
    wait_for_field(
        cluster,
        namespace,
        "tj/small",
        ".status.phase",
        "Succeeded",
        60,
    )?;
    cluster.kubectl(&["-n", namespace, "delete", "tj", "--all"])?;
    Ok(())
}

/// Without any gateway nothing is written again and again.
pub(crate) fn for_gateways_without_writing(cluster: &Cluster) -> ScenarioResult {
    let namespace = "no-gateway";
    deploy_service(cluster, namespace, "", "1h")?;
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        let words = [
            "-n",
            operator::NAMESPACE,
            "scale",
            "deployment/bursar-gateway",
            &replicas,
        ];
        cluster.kubectl(&words)
    };
    scale("0")?;
    let pods = |count: &str| {
        let path = ".status.readyReplicas";
        let deployment = "deployment/bursar-gateway";
        wait_for_field(cluster, operator::NAMESPACE, deployment, path, count, 90)
    };
    pods("")?;
    // slices follow the last gateway
    thread::sleep(Duration::from_secs(15));
    let since = jiff::Timestamp::now().to_string();
    thread::sleep(Duration::from_secs(10));
    let writes = oracle::operator_writes(&cluster.audit_log(), operator::NAMESPACE, &since)?;
    scale("2")?;
    pods("2")?;
    if writes.is_empty() {
        delete_services(cluster, namespace, &["chat"])
    } else {
        let number = writes.len();
        Err(format!("{number} writes in ten seconds without a gateway: {writes:#?}").into())
    }
}

/// A worker that ends by itself after a moment.
fn job(namespace: &str, name: &str, gpus: u32) -> String {
    let args = r#"--steps, "4", --step-time, 250ms, --checkpoint, /tmp/checkpoint"#;
    job_manifest(namespace, name, gpus, args)
}
