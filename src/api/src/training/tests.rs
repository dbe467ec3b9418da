//! What of a TrainingJob is refused, by the field that has to change.

use serde_json::{Value, json};

use super::*;

fn template(gpus: u32, env: Value) -> Value {
    let limits = json!({"nvidia.com/gpu": gpus.to_string()});
    json!({"spec": {"containers": [{"name": "c", "env": env, "resources": {"limits": limits}}]}})
}

fn role(name: &str, replicas: i32) -> Value {
    json!({"name": name, "replicas": replicas, "template": template(1, json!([]))})
}

fn launcher(command: Value) -> Value {
    let mut role = role("launcher", 1);
    role["template"]["spec"]["containers"][0]["command"] = command;
    role
}

fn fault_of(name: &str, spec: Value) -> Option<(String, String)> {
    let object = json!({"metadata": {"name": name, "namespace": "ml"}, "spec": spec});
    let object: TrainingJob = serde_json::from_value(object).unwrap();
    let fault = object.validate().err()?;
    Some((fault.field, fault.why))
}

fn fault(spec: Value) -> Option<(String, String)> {
    fault_of("train", spec)
}

#[test]
fn a_template_that_sets_what_the_framework_sets_is_refused_with_the_variable() {
    let alike = |framework: &str, variable: &str| {
        let template = template(1, json!([{"name": "A"}, {"name": variable, "value": "x"}]));
        json!({"framework": framework, "replicas": 1, "template": template})
    };
    for (framework, variable) in [
        ("TensorFlow", "TF_CONFIG"),
        ("TensorFlow", "BURSAR_ROLE_RANK"),
        ("JAX", "JAX_PROCESS_ID"),
    ] {
        let (field, why) = fault(alike(framework, variable)).unwrap();
        assert_eq!(field, "spec.template.spec.containers[0].env");
        assert!(
            why.contains(variable) && why.contains("leave it out"),
            "{why}"
        );
        // the same variable is nobody's with another framework
        assert_eq!(fault(alike("Plain", variable)), None);
    }
    // as it always could
    assert_eq!(fault(alike("PyTorch", "MASTER_PORT")), None);

    let mut with_hosts = role("worker", 2);
    with_hosts["template"] = template(
        1,
        json!([{"name": "OMPI_MCA_orte_default_hostfile", "value": "x"}]),
    );
    let roles = [launcher(json!(["mpirun"])), with_hosts];
    let (field, why) = fault(json!({"framework": "MPI", "roles": roles})).unwrap();
    assert_eq!(field, "spec.roles[1].template.spec.containers[0].env");
    assert!(why.contains("OMPI_MCA_orte_default_hostfile"), "{why}");
}

/// A runtime would give such a pod all GPUs of its node, and nobody pays for them.
#[test]
fn a_role_without_gpus_that_asks_the_runtime_for_them_is_refused_with_the_field() {
    let of = |name: &str, gpus: bool, list: &str| {
        let limits = match gpus {
            true => json!({"nvidia.com/gpu": "1"}),
            false => json!({"cpu": "1"}),
        };
        let env = json!([{"name": "A"}, {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]);
        let mut servers = role(name, 1);
        let spec = &mut servers["template"]["spec"];
        spec["containers"][0]["resources"]["limits"] = limits;
        spec[list] = match list {
            "containers" => {
                json!([{"name": "c", "env": env, "resources": spec["containers"][0]["resources"]}])
            }
            _ => json!([{"name": "i"}, {"name": "j", "env": env}]),
        };
        fault(json!({"framework": "TensorFlow", "roles": [role("worker", 1), servers]}))
    };
    for name in ["ps", "evaluator"] {
        let (field, why) = of(name, false, "containers").unwrap();
        assert_eq!(field, "spec.roles[1].template.spec.containers[0].env");
        let words = ["NVIDIA_VISIBLE_DEVICES", "leave it out", "resources.limits"];
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        let (field, _) = of(name, false, "initContainers").unwrap();
        assert_eq!(field, "spec.roles[1].template.spec.initContainers[1].env");
        // whoever has GPUs is charged for them
        assert_eq!(of(name, true, "containers"), None);
    }
}

#[test]
fn precision_and_a_template_that_sets_it_are_not_both_taken() {
    let spec = |precision: Value| {
        let template = template(
            1,
            json!([{"name": "ACCELERATE_MIXED_PRECISION", "value": "no"}]),
        );
        json!({"framework": "PyTorch", "replicas": 1, "template": template, "precision": precision})
    };
    let (field, why) = fault(spec(json!("bf16"))).unwrap();
    assert_eq!(field, "spec.template.spec.containers[0].env");
    assert!(why.contains("ACCELERATE_MIXED_PRECISION"), "{why}");
    assert_eq!(fault(spec(Value::Null)), None);
}

#[test]
fn roles_of_tensorflow_are_task_types() {
    let of = |roles: &[Value]| fault(json!({"framework": "TensorFlow", "roles": roles}));
    assert_eq!(
        of(&[
            role("chief", 1),
            role("worker", 3),
            role("ps", 2),
            role("evaluator", 1)
        ]),
        None
    );
    let field = |fault: Option<(String, String)>| fault.unwrap().0;
    assert_eq!(
        field(of(&[role("worker", 1), role("writer", 1)])),
        "spec.roles[1].name"
    );
    assert_eq!(field(of(&[role("chief", 2)])), "spec.roles[0].replicas");
    assert_eq!(
        field(of(&[role("worker", 1), role("evaluator", 2)])),
        "spec.roles[1].replicas"
    );
    assert_eq!(
        field(of(&[role("chief", 1), role("master", 1)])),
        "spec.roles"
    );
}

/// A longer variable would keep all containers from starting, and Kubernetes says so of each pod alone.
#[test]
fn a_cluster_description_that_no_variable_can_hold_is_refused() {
    let of = |name: &str, workers: i32| {
        let roles = [role("worker", workers)];
        fault_of(name, json!({"framework": "TensorFlow", "roles": roles}))
    };
    assert_eq!(of(&"a".repeat(50), 900), None);
    assert_eq!(of("train", 1000), None);
    let (field, why) = of(&"a".repeat(50), 1000).unwrap();
    assert_eq!(field, "spec.roles");
    assert!(
        why.contains("TF_CONFIG") && why.contains("fewer workers"),
        "{why}"
    );
}

/// The API server stores no pod of more than 1.5 MiB, and each container has the description.
#[test]
fn a_cluster_description_that_no_pod_can_hold_in_all_its_containers_is_refused() {
    let of = |containers: usize| {
        let mut workers = role("worker", 900);
        let list = &mut workers["template"]["spec"]["containers"];
        *list = json!(vec![list[0].clone(); containers]);
        fault_of(
            &"a".repeat(50),
            json!({"framework": "TensorFlow", "roles": [workers]}),
        )
    };
    assert_eq!(of(4), None);
    let (field, why) = of(5).unwrap();
    assert_eq!(field, "spec.roles");
    assert!(
        why.contains("5 containers") && why.contains("fewer containers"),
        "{why}"
    );
}

fn launched(framework: &str, command: Value, workers: i32) -> Value {
    json!({"framework": framework, "roles": [launcher(command), role("worker", workers)]})
}

#[test]
fn workers_whose_sshd_never_ends_do_not_decide_over_success() {
    let mut spec = launched("MPI", json!(["mpirun"]), 2);
    spec["successPolicy"] = json!({"roles": ["launcher", "worker"]});
    let (field, why) = fault(spec.clone()).unwrap();
    assert_eq!(field, "spec.successPolicy.roles");
    assert!(why.contains("launcher alone"), "{why}");
    spec["roles"][1]["template"]["spec"]["containers"][0]["command"] = json!(["/start"]);
    assert_eq!(fault(spec), None);
}

#[test]
fn a_group_that_could_read_the_key_of_root_is_refused() {
    let mut spec = launched("MPI", json!(["mpirun"]), 2);
    spec["roles"][1]["template"]["spec"]["securityContext"] = json!({"fsGroup": 2000});
    let (field, why) = fault(spec.clone()).unwrap();
    assert_eq!(field, "spec.roles[1].template.spec.securityContext.fsGroup");
    assert!(why.contains("sshAuthMountPath"), "{why}");
    spec["mpi"] = json!({"sshAuthMountPath": "/home/mpiuser/.ssh"});
    assert_eq!(fault(spec), None);
}

#[test]
fn deepspeed_is_told_to_start_the_only_worker_by_ssh() {
    let of = |words: &[&str], workers| fault(launched("DeepSpeed", json!(words), workers));
    let (field, why) = of(&["/usr/bin/deepspeed", "train.py"], 1).unwrap();
    assert_eq!(field, "spec.roles[0].template.spec.containers[0].command");
    assert!(why.contains("--force_multi"), "{why}");
    assert_eq!(of(&["deepspeed", "--force_multi", "train.py"], 1), None);
    assert_eq!(of(&["deepspeed", "train.py"], 2), None);
    assert_eq!(of(&["/start.sh"], 1), None, "what a script does is its own");
}

#[test]
fn a_launcher_has_a_command_and_workers_and_is_alone() {
    let of =
        |framework: &str, roles: Vec<Value>| fault(json!({"framework": framework, "roles": roles}));
    let good = || vec![launcher(json!(["mpirun", "train"])), role("worker", 2)];
    for framework in ["MPI", "Horovod", "DeepSpeed"] {
        assert_eq!(of(framework, good()), None, "{framework}");
    }
    let field = |fault: Option<(String, String)>| fault.unwrap().0;
    assert_eq!(field(of("MPI", vec![role("worker", 2)])), "spec.roles");
    assert_eq!(of("DeepSpeed", vec![role("worker", 2)]), None);
    let silent = vec![launcher(json!([])), role("worker", 2)];
    let command = "spec.roles[0].template.spec.containers[0].command";
    assert_eq!(field(of("MPI", silent)), command);
    let mut two = good();
    two[0]["replicas"] = json!(2);
    assert_eq!(field(of("MPI", two)), "spec.roles[0].replicas");
    let mut more = good();
    more.push(role("other", 1));
    assert_eq!(field(of("Horovod", more)), "spec.roles");
    let mpi = json!({"framework": "PyTorch", "replicas": 1, "template": template(1, json!([])), "mpi": {}});
    assert_eq!(field(fault(mpi)), "spec.mpi");
}

#[test]
fn success_is_that_of_the_roles_that_are_named_and_else_as_the_framework_has_it() {
    let roles = |framework: &str, roles: Vec<Value>, policy: Value| {
        let spec = json!({"framework": framework, "roles": roles, "successPolicy": policy});
        let spec: TrainingJobSpec = serde_json::from_value(spec).unwrap();
        spec.success_roles().join(" ")
    };
    let tasks = || vec![role("worker", 2), role("ps", 1)];
    assert_eq!(
        roles("TensorFlow", tasks(), Value::Null),
        "worker",
        "servers never end"
    );
    assert_eq!(
        roles(
            "TensorFlow",
            vec![role("chief", 1), role("ps", 1)],
            Value::Null
        ),
        "chief"
    );
    assert_eq!(roles("PyTorch", tasks(), Value::Null), "", "all");
    assert_eq!(
        roles("PyTorch", tasks(), json!({"roles": ["worker"]})),
        "worker"
    );
    let launched = vec![launcher(json!(["mpirun"])), role("worker", 1)];
    assert_eq!(roles("DeepSpeed", launched, Value::Null), "launcher");
    let unknown =
        json!({"framework": "PyTorch", "roles": tasks(), "successPolicy": {"roles": ["chief"]}});
    assert_eq!(fault(unknown).unwrap().0, "spec.successPolicy.roles");
}

/// Every example of `examples/frameworks` is one that the controller reads.
#[test]
fn the_examples_of_frameworks_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/frameworks");
    let mut frameworks = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let object: TrainingJob = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(object.validate(), Ok(()), "{text}");
        frameworks.insert(object.spec.framework().as_str());
    }
    let expected = ["DeepSpeed", "Horovod", "JAX", "MPI", "Plain", "TensorFlow"];
    assert_eq!(frameworks.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_target_excludes_what_describes_workers_and_needs_nothing_else() {
    let target = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "old"});
    let with = |field: &str, value: Value| {
        let mut spec = json!({"targetRef": target, "priorityClassName": "high", "suspend": true});
        spec[field] = value;
        fault(spec).map(|(field, _)| field)
    };
    assert_eq!(with("paused", json!(true)), None);
    assert_eq!(with("restarts", json!(3)), None, "the default");
    for (field, value, expected) in [
        ("replicas", json!(2), "spec.targetRef"),
        ("template", template(1, json!([])), "spec.targetRef"),
        ("roles", json!([role("worker", 1)]), "spec.targetRef"),
        ("framework", json!("PyTorch"), "spec.framework"),
        ("precision", json!("bf16"), "spec.precision"),
        (
            "successPolicy",
            json!({"roles": ["worker"]}),
            "spec.successPolicy",
        ),
        ("mpi", json!({}), "spec.mpi"),
        ("restarts", json!(4), "spec.restarts"),
        (
            "targetRef",
            json!({"apiVersion": "v1", "kind": "", "name": "x"}),
            "spec.targetRef",
        ),
    ] {
        assert_eq!(with(field, value).as_deref(), Some(expected), "{field}");
    }
    let alike = json!({"replicas": 1, "template": template(1, json!([]))});
    assert_eq!(fault(alike).unwrap().0, "spec.framework", "it is missing");
}

/// The example of `examples/adoption` is one that the controller reads.
#[test]
fn the_examples_of_adopted_jobs_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/adoption");
    for file in ["job.yaml", "kubeflow/pytorch-job.yaml"] {
        let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
        let (target, job) = text.split_once("\n---\n").unwrap();
        let object: TrainingJob = serde_saphyr::from_str(job).unwrap();
        assert_eq!(object.validate(), Ok(()), "{file}");
        let target: Value = serde_saphyr::from_str(target).unwrap();
        let reference = object.spec.target_ref.unwrap();
        assert_eq!(target["apiVersion"], *reference.api_version);
        assert_eq!(
            (&target["kind"], &target["metadata"]["name"]),
            (&json!(reference.kind), &json!(reference.name))
        );
    }
}
