//! What takes something away waits: for the end of a grace window, and of a pause.

use std::{
    thread,
    time::{Duration, Instant},
};

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{
        condition_reason, delete_services, get_field, run_kubectl_bursar, service_manifest,
        wait_for_field, with_min_replicas,
    },
};

const NAMESPACE: &str = "careful";
const DEPLOYMENT: &str = "deployment/chat";
const REPLICAS: &str = ".spec.replicas";

/// A limit that is typed wrong stops a service that runs after the grace window, at the time that the
/// status names, and not at all if it is corrected before.
pub(crate) fn edits_wait_for_the_end_of_their_window(cluster: &Cluster) -> ScenarioResult {
    const WINDOW: Duration = Duration::from_secs(20);
    let values = ["controller.leaseDuration=6s", "changeGrace=20s"];
    operator::install(cluster, operator::IMAGE, &values)?;
    cluster.apply(&with_replicas(1))?;
    wait_for("infd/chat", ".status.readyReplicas", "1", cluster, 60)?;
    set_limit(cluster, "1000")?;
    wait_for("budget/team", ".status.phase", "Active", cluster, 30)?;
    let pending = condition_reason("BudgetChangePending");

    set_limit(cluster, "0.0001")?;
    wait_for("budget/team", &pending, "WouldStop", cluster, 10)?;
    set_limit(cluster, "1000")?;
    wait_for("budget/team", &pending, "", cluster, 10)?;
    thread::sleep(WINDOW);
    expect_replicas(cluster, "1", "an edit was corrected")?;

    let began = Instant::now();
    set_limit(cluster, "0.0001")?;
    wait_for("budget/team", &pending, "WouldStop", cluster, 10)?;
    let announced = get_field(
        cluster,
        NAMESPACE,
        "budget/team",
        ".status.changeEffectiveAt",
    )?;
    if announced.is_empty() {
        return Err("the status does not say when the edit takes effect".into());
    }
    thread::sleep(WINDOW / 2);
    expect_replicas(cluster, "1", "half of the window has passed")?;
    wait_for(DEPLOYMENT, REPLICAS, "0", cluster, 60)?;
    let took = began.elapsed();
    println!("stopped {} s after the edit", took.as_secs());
    if took < WINDOW - Duration::from_secs(1) {
        return Err("it stopped before the window ended".into());
    }
    cluster.kubectl(&["-n", NAMESPACE, "delete", "budget", "team"])?;
    wait_for(DEPLOYMENT, REPLICAS, "1", cluster, 30)
}

/// A paused namespace keeps what it has whatever its manifests say, and follows them once resumed.
pub(crate) fn a_pause_changes_nothing_until_it_ends(cluster: &Cluster) -> ScenarioResult {
    let bursar = |words: &[&str]| match run_kubectl_bursar(cluster, words)? {
        (true, _) => Ok::<_, Box<dyn std::error::Error>>(()),
        (false, said) => Err(said.into()),
    };
    bursar(&["pause", "-n", NAMESPACE])?;
    let paused = condition_reason("Paused");
    wait_for("infd/chat", &paused, "NamespacePaused", cluster, 20)?;
    cluster.apply(&with_replicas(2))?;
    wait_for("infd/chat", ".status.desiredReplicas", "2", cluster, 20)?;
    // an order would be carried out within a second
    thread::sleep(Duration::from_secs(3));
    expect_replicas(cluster, "1", "the namespace is paused")?;
    bursar(&["resume", "-n", NAMESPACE])?;
    wait_for(DEPLOYMENT, REPLICAS, "2", cluster, 20)?;
    wait_for("infd/chat", &paused, "", cluster, 20)?;
    delete_services(cluster, NAMESPACE, &["chat"])
}

fn with_replicas(replicas: u32) -> String {
    with_min_replicas(replicas, &service_manifest(NAMESPACE, "", "1h"))
}

/// A budget whose edits have a grace window.
fn set_limit(cluster: &Cluster, limit: &str) -> ScenarioResult {
    cluster.apply(&format!(
        "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {{name: team, namespace: {NAMESPACE}}}\n\
         spec: {{limit: \"{limit}\", period: Monthly}}\n"
    ))?;
    Ok(())
}

fn wait_for(
    object: &str,
    path: &str,
    value: &str,
    cluster: &Cluster,
    seconds: u64,
) -> ScenarioResult {
    wait_for_field(cluster, NAMESPACE, object, path, value, seconds)
}

fn expect_replicas(cluster: &Cluster, replicas: &str, when: &str) -> ScenarioResult {
    let found = get_field(cluster, NAMESPACE, DEPLOYMENT, REPLICAS)?;
    match found == replicas {
        true => Ok(()),
        false => Err(format!("{found} replicas and not {replicas} when {when}").into()),
    }
}
