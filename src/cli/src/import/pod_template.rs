//! The pod template of a worker, as a TrainingJob takes it.

use std::collections::BTreeMap;

use bursar_api::training::Framework;
use bursar_core::pricing::is_gpu;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::report::Report;

/// The longest grace of a worker, in seconds.
const MAX_GRACE: i64 = 3600;

/// The variables that Bursar makes of a job's roles, by its framework.
fn own_variables(framework: Framework) -> &'static [&'static str] {
    match framework {
        Framework::PyTorch => &[
            "MASTER_ADDR",
            "MASTER_PORT",
            "WORLD_SIZE",
            "RANK",
            "PET_MASTER_ADDR",
            "PET_MASTER_PORT",
            "PET_NNODES",
            "PET_NODE_RANK",
            "PET_RDZV_ENDPOINT",
        ],
        Framework::TensorFlow => &["TF_CONFIG", "BURSAR_ROLE_RANK"],
        Framework::Jax => &[
            "JAX_COORDINATOR_ADDRESS",
            "JAX_NUM_PROCESSES",
            "JAX_PROCESS_ID",
        ],
        Framework::Mpi | Framework::Horovod | Framework::DeepSpeed => &[
            "OMPI_MCA_orte_default_hostfile",
            "PRTE_MCA_prte_default_hostfile",
            "I_MPI_HYDRA_HOST_FILE",
            "HYDRA_HOST_FILE",
        ],
        Framework::Plain => &[],
    }
}

/// Labels that a Job's controller puts on its pods.
const JOB_LABELS: [&str; 6] = [
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "training.kubeflow.org/job-name",
    "trainer.kubeflow.org/trainjob-ancestor-step",
];

/// A template without what a TrainingJob's may not have; each such field is reported.
pub(crate) fn convert(mut template: Fields<'_>, framework: Framework) -> Value {
    let report = template.report();
    let at = template.location().to_owned();
    let mut converted = Map::new();
    let metadata = metadata(template.object("metadata"));
    if !metadata.is_empty() {
        converted.insert("metadata".to_owned(), Value::Object(metadata));
    }
    let mut spec = template.object("spec");
    match spec.text("restartPolicy").as_deref() {
        None | Some("Never") => {}
        Some(other) => report.dropped(
            format!("{at}.spec.restartPolicy ({other:?})"),
            "a worker that fails ends the run of all, and all start again: restarts counts that",
        ),
    }
    for name in ["hostname", "subdomain"] {
        spec.drop_field(name, "workers have DNS names of the job's own");
    }
    spec.ignore_value("hostNetwork", &json!(false));
    spec.drop_field("hostNetwork", "workers need addresses of their own");
    spec.ignore_value("schedulerName", &json!("default-scheduler"));
    spec.ignore_value("dnsPolicy", &json!("ClusterFirst"));
    spec.ignore_value("securityContext", &json!({}));
    if let Some(grace) = spec.integer("terminationGracePeriodSeconds") {
        let near = grace.clamp(0, MAX_GRACE);
        if near != grace {
            let why = format!(
                "{grace} s are more than the hour that a budget keeps money for: {MAX_GRACE} s"
            );
            report.dropped(format!("{at}.spec.terminationGracePeriodSeconds"), why);
        }
        spec.put("terminationGracePeriodSeconds", json!(near));
    }
    for list in ["containers", "initContainers"] {
        let containers = spec.objects(list).into_iter();
        let containers: Vec<Value> = containers
            .map(|container| Value::Object(self::container(container, framework)))
            .collect();
        if !containers.is_empty() {
            spec.put(list, json!(containers));
        }
    }
    converted.insert("spec".to_owned(), Value::Object(spec.into_rest()));
    known_fields(Value::Object(converted), &at, report)
}

fn metadata(mut metadata: Fields<'_>) -> Map<String, Value> {
    let mut converted = Map::new();
    for kind in ["labels", "annotations"] {
        let mut entries = metadata.object(kind);
        entries.ignore(&JOB_LABELS);
        for name in entries.names() {
            if name.starts_with("bursar.dev/") {
                entries.drop_field(&name, "what begins with bursar.dev/ is set by Bursar");
            } else if name.starts_with("kueue.x-k8s.io/") {
                entries.drop_field(
                    &name,
                    "the queue is Bursar's own, and kube-scheduler places the pods",
                );
            }
        }
        let entries = entries.into_rest();
        if !entries.is_empty() {
            converted.insert(kind.to_owned(), Value::Object(entries));
        }
    }
    metadata.ignore(&["creationTimestamp"]);
    metadata.drop_field("name", "workers are named after the job");
    metadata.drop_field("generateName", "workers are named after the job");
    metadata.drop_field("namespace", "workers are in the job's namespace");
    converted
}

/// A container without variables that Bursar sets, and without what the API server fills in.
fn container(mut container: Fields<'_>, framework: Framework) -> Map<String, Value> {
    for (name, value) in [
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("resources", json!({})),
    ] {
        container.ignore_value(name, &value);
    }
    let report = container.report();
    let at = container.location().to_owned();
    if let Some(Value::Array(variables)) = container.take("env") {
        let own = own_variables(framework);
        let is_own = |variable: &Value| {
            let name = variable["name"].as_str();
            name.is_some_and(|name| own.contains(&name))
        };
        let (removed, kept): (Vec<Value>, Vec<Value>) = variables.into_iter().partition(is_own);
        for variable in removed {
            let name = variable["name"].as_str().unwrap_or("?");
            let why = format!("framework {} sets it", framework.as_str());
            report.dropped(format!("{at}.env ({name})"), why);
        }
        if !kept.is_empty() {
            container.put("env", Value::Array(kept));
        }
    }
    container.into_rest()
}

/// A template with the fields alone that pod templates have; others are reported. One that is no
/// pod template is left as it is: what is wrong with it is said at the end, with the field.
fn known_fields(template: Value, at: &str, report: &Report) -> Value {
    let Ok(read) = serde_json::from_value::<PodTemplateSpec>(template.clone()) else {
        return template;
    };
    let Ok(known) = serde_json::to_value(read) else {
        return template;
    };
    report_unknown(&template, &known, at, report);
    known
}

fn report_unknown(given: &Value, known: &Value, at: &str, report: &Report) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let path = format!("{at}.{name}");
                match known.get(name) {
                    Some(known) => report_unknown(value, known, &path, report),
                    None if value.is_null() => {}
                    None => report.dropped(path, "pod templates have no such field"),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                report_unknown(given, known, &format!("{at}[{index}]"), report);
            }
        }
        _ => {}
    }
}

/// How many GPUs a container of a template asks for, by the names of the resources.
pub(crate) fn gpus(template: &Value) -> BTreeMap<String, String> {
    let containers = template["spec"]["containers"].as_array();
    let limits = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["resources"]["limits"].as_object());
    let gpus = limits.flatten().filter(|(name, _)| is_gpu(name));
    gpus.map(|(name, count)| (name.clone(), count.to_string()))
        .collect()
}
