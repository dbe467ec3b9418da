//! DeepSpeed: its launcher finds `/job/hostfile` by itself, and starts a process for each GPU of the workers with pdsh over ssh.

use bursar_e2e::Cluster;

use super::*;

const WORKERS: u32 = 2;

pub(super) fn trains(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "deepspeed")?;
    let program = |command, gpus| Program {
        command,
        packages: Some(PythonPackages::DeepSpeed),
        gpus,
        directory: &bench.directory,
    };
    let command = ["deepspeed", "/programs/deepspeed_train.py", "/data"];
    let launcher = template(&program(Some(&command), 0))?;
    let worker = template(&program(None, NODE_GPUS))?;
    let roles = json!([
        {"name": "launcher", "replicas": 1, "template": launcher},
        {"name": "worker", "replicas": WORKERS, "template": worker},
    ]);
    let spec = json!({"framework": "DeepSpeed", "precision": "bf16", "roles": roles});
    bench.apply("train", spec)?;
    bench.wait_for_phase("train", "Succeeded")?;
    let mut ended = Vec::new();
    for rank in 0..WORKERS * NODE_GPUS {
        let process = read_json(&bench.directory.join(format!("rank-{rank}.json")))?;
        let fields = ["ranks", "local_rank", "host", "precision"].map(|field| &process[field]);
        let (worker, local_rank) = (rank / NODE_GPUS, rank % NODE_GPUS);
        let host = format!("train-worker-{worker}");
        // the precision came through the workers' sshd
        let expected = json!([WORKERS * NODE_GPUS, local_rank, host, "bf16"]);
        expect_equal("what a rank has seen", &json!(fields), &expected)?;
        ended.push(process);
    }
    expect_same_weights(&ended)?;
    println!(
        "{} ranks, {}",
        ended.len(),
        expect_learned(&ended[0]["losses"])?
    );
    bench.delete("train")
}
