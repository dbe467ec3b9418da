//! MPI: process managers start a process on each worker by OpenSSH, over the hostfiles and with the keys that Bursar writes.

use bursar_e2e::Cluster;

use super::*;

const WORKERS: usize = 4;

/// Open MPI is told neither hosts nor their number.
pub(super) fn open_mpi(cluster: &Cluster) -> ScenarioResult {
    let mpirun = ["mpirun", "python3", "/programs/mpi_allreduce.py", "/data"];
    reduces(&Bench::new(cluster, "open-mpi")?, &mpirun)
}

/// Hydra passes the launcher's variables on, also those of its place in the job, unless it is told which.
pub(super) fn mpich(cluster: &Cluster) -> ScenarioResult {
    let hydra = ["mpiexec.hydra", "-genvlist", "PATH", "-n", "4"];
    let program = ["python3", "/programs/mpich_allreduce.py", "/data"];
    reduces(
        &Bench::new(cluster, "mpich")?,
        &[&hydra[..], &program].concat(),
    )
}

fn reduces(bench: &Bench, command: &[&str]) -> ScenarioResult {
    let program = |command, gpus| Program {
        command,
        packages: None,
        gpus,
        directory: &bench.directory,
    };
    let launcher = template(&program(Some(command), 0))?;
    let worker = template(&program(None, 1))?;
    let roles = json!([
        {"name": "launcher", "replicas": 1, "template": launcher},
        {"name": "worker", "replicas": WORKERS, "template": worker},
    ]);
    bench.apply("reduce", json!({"framework": "MPI", "roles": roles}))?;
    bench.wait_for_phase("reduce", "Succeeded")?;
    let mut library = Value::Null;
    for rank in 0..WORKERS {
        let mut seen = read_json(&bench.directory.join(format!("rank-{rank}.json")))?;
        library = seen["library"].take();
        // ranks are given in the order of the hostfile
        let expected = json!({
            "ranks": WORKERS, "sum": (0..WORKERS).sum::<usize>(), "library": null,
            "host": format!("reduce-worker-{rank}"), "role_rank": rank.to_string(),
        });
        expect_equal("what a rank has seen", &seen, &expected)?;
    }
    println!("{library}: {WORKERS} ranks, one on each worker");
    bench.delete("reduce")
}
