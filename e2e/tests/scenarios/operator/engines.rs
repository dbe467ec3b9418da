//! Engines other than vLLM: each example of `examples/engines`, with the test engine that speaks its dialect in the place of its image.

use std::{error::Error, fs, time::Duration};

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{
        apply_service, client_runtime, expect_all_ok, run_together, wait_for_field, wait_until,
    },
    traffic,
};
use serde_json::json;

use crate::{control_plane::root, example::Example};

/// Each example, and the dialect of its engine.
const ENGINES: [(&str, &str); 9] = [
    ("sglang", "sglang"),
    ("tgi", "tgi"),
    ("triton", "triton"),
    ("tensorrt-llm", "tensorrt-llm-1.1"),
    ("llama-cpp", "llama-cpp"),
    ("tensorflow-serving", "tensorflow-serving"),
    ("torchserve", "torchserve"),
    ("ray-serve", "ray-serve"),
    ("custom", "custom"),
];
/// The node has eight GPUs.
const AT_ONCE: usize = 5;

pub(crate) fn go_to_zero_and_back(cluster: &Cluster) -> ScenarioResult {
    let missing = fs::read_dir(root().join("examples/engines"))?.count() != ENGINES.len();
    if missing {
        return Err("an example is not in the list, or the list has one that is not there".into());
    }
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let mut problems = Vec::new();
    for engines in ENGINES.chunks(AT_ONCE) {
        problems.extend(run_together(engines, |(name, dialect)| {
            go(cluster, name, dialect).map_err(|error| format!("{name}: {error}").into())
        }));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n").into()),
    }
}

/// Requests wake the service and are served; it is read, and goes back to zero; twice.
fn go(cluster: &Cluster, name: &str, dialect: &str) -> ScenarioResult {
    let namespace = format!("engine-{name}");
    let address = apply_service(cluster, &namespace, &manifest(&namespace, name, dialect)?)?;
    for _ in 0..2 {
        let answers =
            client_runtime()?.block_on(traffic::burst(address, 6, Duration::from_millis(20), 40));
        expect_all_ok(&answers)?;
        let condition = r#".status.conditions[?(@.type=="SignalsAvailable")].status"#;
        wait_for_field(cluster, &namespace, "infd/chat", condition, "True", 30)?;
        // what cannot be read would keep it for ever
        wait_until("it to be at zero", 60, || {
            let pods = cluster.kubectl(&["-n", &namespace, "get", "pods", "-o", "name"])?;
            Ok(pods.trim().is_empty())
        })?;
    }
    cluster.kubectl(&["-n", &namespace, "delete", "infd", "chat"])?;
    Ok(())
}

/// The example with the test engine, which needs no files and is quick.
fn manifest(namespace: &str, name: &str, dialect: &str) -> Result<String, Box<dyn Error>> {
    let mut object = Example::read(&format!("engines/{name}"))?.take("InferenceDeployment")?;
    object["metadata"] = json!({"name": "chat", "namespace": namespace});
    let spec = &mut object["spec"];
    spec["maxReplicas"] = json!(1);
    spec["scaling"] = json!({"signals": [{"target": 8}], "idle": {"after": "2s"}});
    spec["drain"] = json!({"timeout": "8s"});
    let pod = &mut spec["template"]["spec"];
    pod["terminationGracePeriodSeconds"] = json!(5);
    let container = &mut pod["containers"][0];
    let mut replaced = json!({
        "name": container["name"], "resources": container["resources"],
        "image": "bursar.local/engine:dev", "imagePullPolicy": "Never",
        "args": ["--dialect", dialect, "--speedup", "20"],
    });
    if !container["readinessProbe"].is_null() {
        replaced["readinessProbe"] = container["readinessProbe"].clone();
    }
    *container = replaced;
    if let Some(pod) = pod.as_object_mut() {
        pod.remove("volumes");
    }
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    Ok(format!("{namespace}\n---\n{object}\n"))
}
