//! Installation: observe-only mode, pods that are not Bursar's, and uninstallation.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bursar_e2e::{Access, Cluster, operator, oracle, runner::ScenarioResult};
use jiff::Timestamp;

use bursar_e2e::scenario::{
    condition_reason, deploy_service, get_field, service_manifest, wait_for_field,
    with_min_replicas,
};

/// `observeOnly` decides and accounts, and changes no workload, Service or EndpointSlice.
pub(crate) fn observes(cluster: &Cluster) -> ScenarioResult {
    const FLAGS: &str = r#""--speedup", "20""#;
    let since = Timestamp::now().to_string();
    operator::install(
        cluster,
        operator::IMAGE,
        &["controller.leaseDuration=6s", "observeOnly=true"],
    )?;
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("watched", FLAGS, "1h"),
    ))?;
    wait_for_field(
        cluster,
        "watched",
        "infd/chat",
        ".status.desiredReplicas",
        "1",
        30,
    )?;
    wait_for_field(
        cluster,
        "watched",
        "infd/chat",
        &condition_reason("PodsHealthy"),
        "ObserveOnly",
        30,
    )?;
    // a pod that somebody else runs for the workload is charged, and its finalizer released
    cluster.apply(BY_HAND)?;
    wait_for_field(
        cluster,
        "watched",
        "pod/by-hand",
        ".status.phase",
        "Running",
        60,
    )?;
    cluster.kubectl(&["-n", "watched", "delete", "pod", "by-hand", "--timeout=30s"])?;
    let spent: f64 = get_field(cluster, "watched", "infd/chat", ".status.spend.total")?.parse()?;
    let writes = oracle::operator_writes(&cluster.audit_log(), operator::NAMESPACE, &since)?;
    let allowed = |write: &&String| {
        [
            "/status",
            "/events",
            "/spendrecords",
            "/pricelists",
            "/pods/by-hand",
            "/customresourcedefinitions",
        ]
        .iter()
        .any(|part| write.contains(part))
    };
    let others: Vec<&String> = writes.iter().filter(|write| !allowed(write)).collect();
    if !others.is_empty() || spent <= 0.0 {
        return Err(format!("it spent {spent} and wrote {others:#?}").into());
    }
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    wait_for_field(
        cluster,
        "watched",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    cluster.kubectl(&["-n", "watched", "delete", "infd", "chat"])?;
    wait_for_field(
        cluster,
        "watched",
        "pods",
        ".items[*].metadata.name",
        "",
        60,
    )
}

const BY_HAND: &str = r"
apiVersion: v1
kind: Pod
metadata:
  name: by-hand
  namespace: watched
  labels: {bursar.dev/kind: InferenceDeployment, bursar.dev/workload: chat}
spec:
  terminationGracePeriodSeconds: 5
  containers:
    - name: engine
      image: bursar.local/engine:dev
      imagePullPolicy: Never
      resources: {limits: {nvidia.com/gpu: 1}}
";

/// Pods with Bursar's labels that are no workload's: a name that is none, half of the labels, a copy without GPUs.
pub(crate) fn uncharged(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: uncharged}\n")?;
    let kind = "bursar.dev/kind: InferenceDeployment";
    let pods = [
        (
            "no-name",
            format!("{kind}, bursar.dev/workload: Foo_Bar"),
            1,
        ),
        ("no-kind", "bursar.dev/workload: chat".to_owned(), 1),
        ("no-gpus", format!("{kind}, bursar.dev/workload: chat"), 0),
    ];
    for (name, labels, gpus) in &pods {
        cluster.apply(&pod("uncharged", name, labels, *gpus, "default-scheduler"))?;
    }
    for (name, ..) in &pods {
        let object = format!("pod/{name}");
        wait_for_field(
            cluster,
            "uncharged",
            &object,
            ".status.phase",
            "Running",
            60,
        )?;
        cluster.kubectl(&["-n", "uncharged", "delete", &object, "--timeout=20s"])?;
    }
    cluster.kubectl(&["delete", "namespace", "uncharged", "--timeout=50s"])?;
    Ok(())
}

/// A notebook in a namespace that asks for exact accounting: held until it is settled, charged to the namespace, named by its owner.
/// What it cost is compared with the audit log in another scenario.
pub(crate) fn exact_namespace(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let namespace = "{name: exact, labels: {bursar.dev/accounting: exact}}";
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {namespace}\n"
    ))?;
    cluster.apply(&pod(
        "exact",
        "notebook",
        "app: notebook",
        1,
        "default-scheduler",
    ))?;
    wait_for_field(
        cluster,
        "exact",
        "pod/notebook",
        ".status.phase",
        "Running",
        60,
    )?;
    let held = get_field(cluster, "exact", "pod/notebook", ".metadata.finalizers[*]")?;
    if held != "bursar.dev/spend" {
        return Err(format!("the pod's finalizers are {held:?}").into());
    }
    cluster.kubectl(&["-n", "exact", "delete", "pod/notebook", "--timeout=20s"])?;
    let record = cluster.kubectl(&[
        "get",
        "spend",
        "-l",
        "bursar.dev/namespace=exact",
        "-o",
        "jsonpath={.items[*].spec.kind} {.items[*].status.hardware[*].owner} {.items[*].status.days[*].estimated}",
    ])?;
    if record.trim() != "Unmanaged Pod/notebook" {
        return Err(format!("the namespace's record says {record:?}").into());
    }
    Ok(())
}

/// A pod that ends at once when it is told to.
fn pod(namespace: &str, name: &str, labels: &str, gpus: u32, scheduler: &str) -> String {
    let resources = match gpus {
        0 => "{}".to_owned(),
        gpus => format!("{{limits: {{nvidia.com/gpu: {gpus}}}}}"),
    };
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec:
  schedulerName: {scheduler}
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: bursar.local/pause:dev
      imagePullPolicy: Never
      resources: {resources}
"
    )
}

/// Makes and deletes a workload's pods, which no scheduler binds, until `stop`. Says how many there were.
fn churn(cluster: &Cluster, namespace: &str, stop: &AtomicBool) -> Result<usize, String> {
    let labels = "bursar.dev/kind: InferenceDeployment, bursar.dev/workload: churn";
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("churn-{made}");
        let once = cluster
            .apply(&pod(namespace, &name, labels, 1, "nobody"))
            .and_then(|_| {
                cluster.kubectl(&["-n", namespace, "delete", "pod", &name, "--wait=false"])
            });
        once.map_err(|error| error.to_string())?;
        made += 1;
    }
    Ok(made)
}

/// What is left of Bursar once it has gone: no finalizer, no slice, and pods that can go.
fn nothing_held(cluster: &Cluster, namespace: &str) -> ScenarioResult {
    let held = get_field(cluster, namespace, "pods", ".items[*].metadata.finalizers")?;
    if held.contains("bursar.dev/spend") {
        return Err(format!("a pod still has its finalizer: {held}").into());
    }
    let slices = cluster.kubectl(&[
        "get",
        "endpointslices",
        "-A",
        "-l",
        "bursar.dev/gateway",
        "-o",
        "name",
    ])?;
    if slices.is_empty() {
        Ok(())
    } else {
        Err(format!("gateways are still named by {slices}").into())
    }
}

pub(crate) fn uninstall(cluster: &Cluster) -> ScenarioResult {
    deploy_service(cluster, "leaving", r#""--speedup", "20""#, "1h")?;
    cluster.kubectl(&["-n", "leaving", "scale", "infd/chat", "--replicas=1"])?;
    wait_for_field(
        cluster,
        "leaving",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    scales_as_a_scale_says(cluster)?;
    // pods come and go meanwhile, and the API server still has the policy for a moment after it was deleted
    let stop = AtomicBool::new(false);
    let (gone, churned) = std::thread::scope(|scope| {
        let churning = scope.spawn(|| churn(cluster, "leaving", &stop));
        let gone = operator::uninstall(cluster);
        stop.store(true, Ordering::Relaxed);
        (gone, churning.join())
    });
    gone?;
    let churned = churned.map_err(|_| "the churn ended")??;
    if churned < 5 {
        return Err(format!("only {churned} pods came and went during the uninstallation").into());
    }
    nothing_held(cluster, "leaving")?;
    let others = cluster.kubectl(&[
        "-n",
        "leaving",
        "get",
        "pods",
        "-l",
        "bursar.dev/workload=churn",
        "-o",
        "name",
    ])?;
    if !others.is_empty() {
        return Err(format!("{churned} pods came and went, and these are stuck: {others}").into());
    }
    if get_field(
        cluster,
        "leaving",
        "deployment/chat",
        ".status.readyReplicas",
    )? != "1"
    {
        return Err("the running replica went with the operator".into());
    }
    cluster.kubectl(&["get", "crd", "spendrecords.bursar.dev"])?;
    cluster.kubectl(&["delete", "namespace", "leaving", "--timeout=55s"])?;
    let records = cluster.kubectl(&["get", "spend", "-o", "name"])?;
    if records.contains("leaving.infd.chat") {
        Ok(())
    } else {
        Err(format!("the record leaving.infd.chat went with its namespace: {records}").into())
    }
}

/// `kubectl scale` has set one replica: the Deployment has it, and the scale's selector names its pod and no other.
fn scales_as_a_scale_says(cluster: &Cluster) -> ScenarioResult {
    if get_field(cluster, "leaving", "deployment/chat", ".spec.replicas")? != "1" {
        return Err("kubectl scale did not change the Deployment".into());
    }
    let scale = cluster.kubectl(&[
        "get",
        "--raw",
        "/apis/bursar.dev/v1alpha1/namespaces/leaving/inferencedeployments/chat/scale",
    ])?;
    let scale: serde_json::Value = serde_json::from_str(&scale)?;
    let selector = scale["status"]["selector"].as_str().unwrap_or_default();
    let named = cluster.kubectl(&["-n", "leaving", "get", "pods", "-l", selector, "-o", "name"])?;
    let all = cluster.kubectl(&["-n", "leaving", "get", "pods", "-o", "name"])?;
    if selector.is_empty() || scale["status"]["replicas"] != 1 || named != all {
        return Err(
            format!("the scale is {scale}, its selector names {named:?} of {all:?}").into(),
        );
    }
    Ok(())
}

/// As `docs/install.md` says for tools that run no hooks: the uninstall Job by hand, then the chart without hooks.
pub(crate) fn release(cluster: &Cluster) -> ScenarioResult {
    const LIMIT: Duration = Duration::from_secs(120);
    let chart = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/bursar")
        .display()
        .to_string();
    deploy_service(cluster, "parting", r#""--speedup", "20""#, "1h")?;
    cluster.kubectl(&["-n", "parting", "scale", "infd/chat", "--replicas=1"])?;
    wait_for_field(
        cluster,
        "parting",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    let (name, tag) = operator::IMAGE.rsplit_once(':').ok_or("no tag")?;
    let image = format!("image.repository={name},image.tag={tag}");
    let namespace = operator::NAMESPACE;
    let job = cluster.helm(
        &[
            "template",
            "bursar",
            &chart,
            "--namespace",
            namespace,
            "--set-string",
            &image,
            "--show-only",
            "templates/hook-uninstall.yaml",
        ],
        LIMIT,
    )?;
    cluster.apply(&job)?;
    let done = "--for=condition=complete";
    cluster.kubectl(&[
        "-n",
        namespace,
        "wait",
        done,
        "--timeout=55s",
        "job/bursar-uninstall",
    ])?;
    let log = cluster.kubectl(&["-n", namespace, "logs", "job/bursar-uninstall"])?;
    if !log
        .contains("removed the finalizer from 1 pods, gave their replicas back to 0 Services and ")
    {
        return Err(format!("it released something else: {log}").into());
    }
    cluster.helm(
        &[
            "uninstall",
            "bursar",
            "--namespace",
            namespace,
            "--no-hooks",
            "--wait",
        ],
        LIMIT,
    )?;
    nothing_held(cluster, "parting")?;
    cluster.kubectl(&["delete", "namespace", "parting", "--timeout=55s"])?;
    Ok(())
}
