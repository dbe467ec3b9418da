//! Priorities: who gets the money of a budget, and who stops first.

use std::time::{Duration, Instant};

use bursar_e2e::{
    Access, Cluster,
    runner::ScenarioResult,
    scenario::{
        budget_manifest, client_runtime, condition_reason, delete_services, deploy_manifest,
        expect_all_ok, get_field, get_number, job_manifest, service_manifest, wait_for_field,
        wait_until, with_min_replicas,
    },
    traffic,
};

/// Two PriorityClasses, of which kube-scheduler evicts nothing for the other.
const CLASSES: &str = "
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: paying-customers}
value: 1000000
preemptionPolicy: Never
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: spare-time}
value: 0
---
";

/// `chat` for paying customers, and `toy` with so many replicas for spare time.
fn services(namespace: &str, toys: u32) -> String {
    let service = service_manifest(namespace, "", "1h");
    let of_class = |class: &str, manifest: &str| {
        let field = format!("  engine: vLLM\n  priorityClassName: {class}");
        manifest.replace("  engine: vLLM", &field)
    };
    let toy = service.replace("name: chat", "name: toy");
    let toy = with_min_replicas(toys, &of_class("spare-time", &toy));
    format!("{}{CLASSES}{toy}", of_class("paying-customers", &service))
}

/// A request for a service of a higher class is served with the money of a lower one that has grown
/// to all that the budget pays for.
pub(crate) fn serve_the_higher_class(cluster: &Cluster) -> ScenarioResult {
    let namespace = "classes";
    let address = deploy_manifest(cluster, namespace, &services(namespace, 3))?;
    wait_for_field(
        cluster,
        namespace,
        "infd/toy",
        ".status.readyReplicas",
        "3",
        60,
    )?;
    // a replica at 6.88 an hour for 20 s, and 35 s in which it stops: 0.105; four are too many
    let spent = get_number(cluster, namespace, "infd/toy", ".status.spend.total").unwrap_or(0.0);
    let limit = format!("{:.4}", spent + 0.39);
    cluster.apply(&budget_manifest(
        namespace,
        &limit,
        ", minimumUsefulRun: 20s",
    ))?;
    wait_for_field(
        cluster,
        namespace,
        "budget/team",
        ".status.phase",
        "Active",
        20,
    )?;
    let began = Instant::now();
    let answer = client_runtime()?.block_on(traffic::complete(address, 4));
    expect_all_ok(&[answer])?;
    let toys = get_number(cluster, namespace, "deployment/toy", ".spec.replicas")?;
    if toys >= 3.0 {
        return Err(format!("{toys} toys run beside it").into());
    }
    let events = cluster.kubectl(&["-n", namespace, "get", "events"])?;
    if !events.contains("give way to chat") {
        return Err(format!("no Event says for whom the toy gave way:\n{events}").into());
    }
    println!("served after {} s", began.elapsed().as_secs());
    delete_services(cluster, namespace, &["chat", "toy"])
}

/// Of two classes under one budget the lower one stops first, and the higher one runs to the limit.
pub(crate) fn stop_the_lower_class_first(cluster: &Cluster) -> ScenarioResult {
    const LIMIT: f64 = 0.30;
    let namespace = "two-classes";
    let limit = budget_manifest(namespace, &LIMIT.to_string(), ", minimumUsefulRun: 10s");
    let address = deploy_manifest(cluster, namespace, &services(namespace, 1))?;
    cluster.apply(&limit)?;
    let runtime = client_runtime()?;
    expect_all_ok(&[runtime.block_on(traffic::complete(address, 4))])?;
    let phase = |value: &str, seconds| {
        wait_for_field(
            cluster,
            namespace,
            "budget/team",
            ".status.phase",
            value,
            seconds,
        )
    };
    phase("PartlyExhausted", 90)?;
    let partly = Instant::now();
    let reason = condition_reason("WithinBudget");
    wait_for_field(cluster, namespace, "infd/toy", &reason, "BudgetLimits", 10)?;
    wait_for_field(
        cluster,
        namespace,
        "deployment/toy",
        ".spec.replicas",
        "0",
        40,
    )?;
    expect_all_ok(&[runtime.block_on(traffic::complete(address, 4))])?;
    let below = get_field(
        cluster,
        namespace,
        "budget/team",
        ".status.latch.stopsBelow",
    )?;
    if below != "1000000" {
        return Err(format!("the latch stops workloads below {below:?}").into());
    }
    phase("Exhausted", 150)?;
    let longer = partly.elapsed();
    if longer < Duration::from_secs(30) {
        return Err(format!("the higher class ran {longer:?} longer").into());
    }
    wait_until("everything to stop", 60, || {
        Ok(get_field(cluster, namespace, "pods", ".items[*].metadata.name")?.is_empty())
    })?;
    let spent = get_number(cluster, namespace, "budget/team", ".status.spent")?;
    if spent > LIMIT {
        return Err(format!("{spent} of {LIMIT} were spent").into());
    }
    println!(
        "{spent} of {LIMIT} spent; the higher class ran {} s longer",
        longer.as_secs()
    );
    cluster.kubectl(&["-n", namespace, "delete", "infd", "chat", "toy"])?;
    Ok(())
}

/// Training holds all GPUs when a request for a service of a higher class comes: it is suspended, the
/// request is served, and it goes on once the service is gone.
pub(crate) fn give_gpus_to_a_request(cluster: &Cluster) -> ScenarioResult {
    let namespace = "gpus-back";
    let steps = r#"--steps, "100000", --step-time, 250ms, --checkpoint, /tmp/checkpoint"#;
    let train = job_manifest(namespace, "train", 8, steps);
    let manifest = format!("{}{train}", services(namespace, 0));
    let address = deploy_manifest(cluster, namespace, &manifest)?;
    let job =
        |path: &str, value: &str| wait_for_field(cluster, namespace, "tj/train", path, value, 60);
    job(".status.phase", "Running")?;
    let began = Instant::now();
    let answer = client_runtime()?.block_on(traffic::complete(address, 4));
    expect_all_ok(&[answer])?;
    println!("served after {} s", began.elapsed().as_secs());
    job(".status.phase", "Suspended")?;
    let events = cluster.kubectl(&["-n", namespace, "get", "events"])?;
    if !events.contains("gives way to service chat") {
        return Err(format!("no Event says for whom the job gave way:\n{events}").into());
    }
    cluster.kubectl(&["-n", namespace, "delete", "infd", "chat", "toy"])?;
    job(".status.phase", "Running")?;
    cluster.kubectl(&["-n", namespace, "delete", "tj", "train"])?;
    wait_until("its workers to stop", 60, || {
        Ok(get_field(cluster, namespace, "pods", ".items[*].metadata.name")?.is_empty())
    })
}
