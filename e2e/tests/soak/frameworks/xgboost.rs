//! XGBoost on Dask, as a plain job: the scheduler is worker 0 of the first role, by whose name the others find it. The job ends with
//! its client, and the scheduler and its workers are stopped then.

use bursar_e2e::Cluster;

use super::*;

const WORKERS: usize = 2;

pub(super) fn trains(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "xgboost")?;
    let role = |name: &str, replicas: usize, command: &[&str]| {
        let template = template(&Program {
            command: Some(command),
            packages: Some(PythonPackages::XgBoost),
            gpus: 1,
            directory: &bench.directory,
        })?;
        Ok::<_, Error>(json!({"name": name, "replicas": replicas, "template": template}))
    };
    let worker = "cd /tmp && exec dask worker $BURSAR_FIRST_ADDRESS:8786";
    let client = ["python3", "/programs/xgboost_dask.py", "/data", "2"];
    let roles = [
        role("scheduler", 1, &["dask", "scheduler"])?,
        role("worker", WORKERS, &["sh", "-c", worker])?,
        role("client", 1, &client)?,
    ];
    let ends = json!({"roles": ["client"]});
    bench.apply(
        "boost",
        json!({"framework": "Plain", "successPolicy": ends, "roles": roles}),
    )?;
    bench.wait_for_phase("boost", "Succeeded")?;
    let seen = read_json(&bench.directory.join("client.json"))?;
    let hosts: Vec<String> = (0..WORKERS)
        .map(|index| format!("boost-worker-{index}"))
        .collect();
    expect_equal("the hosts of the workers", &seen["hosts"], &json!(hosts))?;
    println!("{WORKERS} workers, {}", expect_learned(&seen["losses"])?);
    bench.delete("boost")
}
