//! A hundred services on simulated nodes, with the operator as a process: how often it writes.
//! Times are the benchmark's subject.

use std::{collections::BTreeMap, time::Duration};

use bursar_e2e::{
    Access, Cluster, NodeOptions,
    runner::{Images, Scenario, ScenarioResult, Suite},
    scale::{
        Installation, Programs, Services,
        audit::{self, Write},
        fleet,
        services::JUMP,
    },
    scenario::{expect_all_ok, get_field},
    traffic,
};

const SERVICES: Services = Services {
    count: 100,
    namespaces: 10,
};
/// Nothing is written any more.
const QUIET: Duration = Duration::from_secs(5);
/// What takes longer is lost.
const LIMIT: u64 = 90;

pub(crate) fn suite() -> Suite {
    Suite {
        name: "scale",
        nodes: vec![NodeOptions::h100(8).simulated(); SERVICES.nodes(2)],
        gang_scheduling: false,
        images: Images::Built,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::new("simulated_pods_end_as_real_ones_do", 2, ends_of_pods),
            Scenario::new(
                "a_hundred_services_are_each_patched_once_a_change_and_nothing_is_written_at_rest",
                6,
                counts_of_writes,
            ),
        ],
    }
}

/// Jobs complete if they ask for it; a deleted pod has ended first, and stays while a finalizer
/// holds it.
fn ends_of_pods(cluster: &Cluster) -> ScenarioResult {
    cluster.apply(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {name: short, namespace: default}
spec:
  template:
    metadata: {annotations: {simulated.bursar.dev/complete-after: 1s}}
    spec: {restartPolicy: Never, containers: [{name: worker, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: held, namespace: default, finalizers: [example.com/held]}
spec: {containers: [{name: worker, image: none, resources: {limits: {nvidia.com/gpu: 8}}}]}
"#,
    )?;
    let wait = |object, event| cluster.kubectl(&["wait", object, event, "--timeout=40s"]);
    wait("job/short", "--for=condition=Complete")?;
    wait("pod/held", "--for=condition=Ready")?;
    cluster.kubectl(&["delete", "pod/held", "--wait=false"])?;
    let ended = "--for=jsonpath={.metadata.deletionGracePeriodSeconds}=0";
    wait("pod/held", ended)?;
    let path = ".status.containerStatuses[0].state.terminated.exitCode";
    let code = get_field(cluster, "default", "pod/held", path)?;
    if code != "143" {
        return Err(format!("the exit code of a deleted pod is {code:?}, not 143").into());
    }
    let patch = r#"{"metadata": {"finalizers": null}}"#;
    cluster.kubectl(&["patch", "pod/held", "--type=merge", "-p", patch])?;
    wait("pod/held", "--for=delete")?;
    Ok(())
}

fn counts_of_writes(cluster: &Cluster) -> ScenarioResult {
    let mut installation = Installation::start(cluster, &Programs::build(false)?)?;
    installation.start_operator()?;
    let client = installation.client();
    installation.run(SERVICES.create(&client))?;
    let gateway = installation.gateway_address;
    let mut ports = Vec::new();
    installation.wait_for("a port for each service", LIMIT, async || {
        ports = SERVICES
            .held_at(&client, gateway)
            .await?
            .unwrap_or_default();
        Ok(ports.len() == SERVICES.count)
    })?;
    nothing_is_written(&mut installation, "at zero")?;

    // a held request wakes each service, and is answered by the replica that comes
    let mut log = installation.writes()?;
    let asked = ports.iter().map(|&address| traffic::complete(address, 1));
    let answers = installation.run(async { Ok(futures::future::join_all(asked).await) })?;
    expect_all_ok(&answers)?;
    let writes = log.read()?;
    patched_once(&writes, 1, "woken")?;
    wait_for_replicas(&installation, 1)?;
    nothing_is_written(&mut installation, "at rest with a replica each")?;

    let replicas = installation.run(SERVICES.replicas(&client))?;
    let depths: BTreeMap<String, u64> = replicas
        .into_values()
        .flatten()
        .map(|address| (address, JUMP))
        .collect();
    let mut log = installation.writes()?;
    installation.run(fleet::set_depths(&depths))?;
    wait_for_replicas(&installation, 2)?;
    let writes = log.wait_until_quiet(audit::counts, QUIET, Duration::from_secs(LIMIT))?;
    patched_once(&writes, 2, "grown")
}

fn wait_for_replicas(installation: &Installation, each: usize) -> ScenarioResult {
    let client = installation.client();
    let what = format!("{each} ready replicas of each service");
    installation.wait_for(&what, LIMIT, async || {
        let replicas = SERVICES.replicas(&client).await?;
        Ok(replicas.len() == SERVICES.count && replicas.values().all(|all| all.len() == each))
    })?;
    Ok(())
}

/// Once it has settled, the operator writes nothing but its Lease.
fn nothing_is_written(installation: &mut Installation, when: &str) -> ScenarioResult {
    const WINDOW: Duration = Duration::from_secs(10);
    let mut log = installation.writes()?;
    log.wait_until_quiet(audit::counts, QUIET, Duration::from_secs(LIMIT))?;
    let reads = installation.run(fleet::reads())?;
    std::thread::sleep(WINDOW);
    let reads = installation.run(fleet::reads())? - reads;
    let writes = log.read()?;
    println!("{when}: {:?}, {reads} pages read", audit::by_kind(&writes));
    let counted: Vec<Write> = writes
        .iter()
        .filter(|it| audit::counts(it))
        .cloned()
        .collect();
    if !counted.is_empty() {
        return Err(format!("it wrote {when}:\n{}", audit::describe(&counted)).into());
    }
    if !writes.iter().any(|write| write.resource == "leases") {
        return Err("the log does not even show the Lease".into());
    }
    installation.operator()?;
    Ok(())
}

/// Each Deployment got this number of replicas by one patch.
fn patched_once(writes: &[Write], replicas: u64, what: &str) -> ScenarioResult {
    println!("{what}: {:?}", audit::by_kind(writes));
    let scalings = audit::scalings(writes, replicas);
    let again: Vec<_> = scalings.iter().filter(|(_, all)| all.len() != 1).collect();
    if scalings.len() != SERVICES.count || !again.is_empty() {
        return Err(format!(
            "{} of {} Deployments were {what}, and these by more than one patch: {again:#?}",
            scalings.len(),
            SERVICES.count
        )
        .into());
    }
    Ok(())
}
