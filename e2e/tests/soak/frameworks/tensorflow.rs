//! TensorFlow: MultiWorkerMirroredStrategy, whose own resolver reads `TF_CONFIG`.

use std::collections::BTreeMap;

use bursar_e2e::Cluster;

use super::*;

const PORT: u16 = 2222;

pub(super) fn alike(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "tensorflow")?;
    let template = trainer(&bench)?;
    let spec = json!({"framework": "TensorFlow", "replicas": 2, "template": template});
    bench.apply("mirrored", spec)?;
    bench.wait_for_phase("mirrored", "Succeeded")?;
    trained_as_one(
        &bench,
        "mirrored",
        &[("worker", 0, "mirrored-0"), ("worker", 1, "mirrored-1")],
    )?;
    bench.delete("mirrored")
}

pub(super) fn with_a_chief(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "tensorflow-chief")?;
    let role = |name: &str| {
        Ok::<_, Error>(json!({"name": name, "replicas": 1, "template": trainer(&bench)?}))
    };
    let spec = json!({"framework": "TensorFlow", "roles": [role("chief")?, role("worker")?]});
    bench.apply("roles", spec)?;
    bench.wait_for_phase("roles", "Succeeded")?;
    trained_as_one(
        &bench,
        "roles",
        &[
            ("chief", 0, "roles-chief-0"),
            ("worker", 0, "roles-worker-0"),
        ],
    )?;
    bench.delete("roles")
}

fn trainer(bench: &Bench) -> Result<Value, Error> {
    template(&Program {
        command: Some(&["python3", "/programs/tensorflow_mirrored.py", "/data"]),
        packages: Some(PythonPackages::TensorFlow),
        gpus: NODE_GPUS,
        directory: &bench.directory,
    })
}

/// Each task was on its worker, knew all others, and ended with the weights of all, although each had samples of its own.
fn trained_as_one(bench: &Bench, job: &str, tasks: &[(&str, u32, &str)]) -> ScenarioResult {
    let mut members: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (task_type, _, host) in tasks {
        let address = format!("{host}.{job}.{}.svc:{PORT}", bench.namespace);
        members.entry(task_type).or_default().push(address);
    }
    let mut ended = Vec::new();
    for (task_type, index, host) in tasks {
        let task = read_json(&bench.directory.join(format!("{task_type}-{index}.json")))?;
        let fields = ["cluster", "type", "index", "host", "replicas"].map(|field| &task[field]);
        let expected = json!([members, task_type, index, host, tasks.len()]);
        expect_equal("what the task has seen", &json!(fields), &expected)?;
        ended.push(task);
    }
    expect_same_weights(&ended)?;
    println!(
        "{} tasks, {}",
        tasks.len(),
        expect_learned(&ended[0]["losses"])?
    );
    Ok(())
}
