//! JAX: two processes initialize `jax.distributed` at the coordinator's address, and gather over gloo.

use bursar_e2e::Cluster;

use super::*;

const PROCESSES: usize = 2;

pub(super) fn gathers(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "jax")?;
    let template = template(&Program {
        command: Some(&["python3", "/programs/jax_allgather.py", "/data"]),
        packages: Some(PythonPackages::Jax),
        gpus: NODE_GPUS,
        directory: &bench.directory,
    })?;
    let spec = json!({"framework": "JAX", "replicas": PROCESSES, "template": template});
    bench.apply("gather", spec)?;
    bench.wait_for_phase("gather", "Succeeded")?;
    for process in 0..PROCESSES {
        let seen = read_json(&bench.directory.join(format!("process-{process}.json")))?;
        let expected = json!({
            "processes": PROCESSES, "devices": PROCESSES, "gathered": [1, 2],
            "host": format!("gather-{process}"),
        });
        expect_equal("what a process has seen", &seen, &expected)?;
    }
    println!("{PROCESSES} processes gathered what each has");
    bench.delete("gather")
}
