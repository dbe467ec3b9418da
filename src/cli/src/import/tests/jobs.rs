//! Sources that become a TrainingJob.

use serde_json::json;

use super::super::SourceKind::{Job, MpiJob, PyTorchJob, TrainJob};
use super::super::report::Fate;
use super::import;
use super::samples::{JOB, MPI_JOB, PYTORCH_JOB, TRAIN_JOB};

#[test]
fn a_master_and_workers_that_are_alike_are_workers() {
    let imported = import(PyTorchJob, PYTORCH_JOB);
    let container = json!({
        "name": "pytorch",
        "image": "example.com/train:1",
        "command": ["torchrun", "train.py"],
        "env": [{"name": "LEVEL", "value": "debug"}, {"name": "PET_NPROC_PER_NODE", "value": "2"}],
        "resources": {"limits": {"nvidia.com/gpu": "2"}},
    });
    let expected = json!({
        "framework": "PyTorch",
        "replicas": 4,
        "restarts": 5,
        "suspend": true,
        "priorityClassName": "high",
        "template": {"spec": {"containers": [container]}},
    });
    assert_eq!(imported.manifest["spec"], expected);
    let at = |role: &str| {
        format!("spec.pytorchReplicaSpecs.{role}.template.spec.containers[0].env (MASTER_ADDR)")
    };
    assert_eq!(imported.fields(Fate::Dropped), [at("Master"), at("Worker")]);
    assert_eq!(imported.fields(Fate::Missing), Vec::<&str>::new());
}

#[test]
fn a_master_that_differs_is_a_role_whose_end_is_the_jobs() {
    let differs = PYTORCH_JOB.replace(
        "template: *template",
        "template: {spec: {containers: [{name: pytorch, image: 'example.com/train:2'}]}}",
    );
    let imported = import(PyTorchJob, &differs);
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["successPolicy"]["roles"], json!(["master"]));
    let names: Vec<_> = (spec["roles"].as_array().unwrap().iter())
        .map(|role| (role["name"].clone(), role["replicas"].clone()))
        .collect();
    assert_eq!(
        names,
        [(json!("master"), json!(1)), (json!("worker"), json!(3))]
    );
    // several workers of a later role have no rank of their own, and these have no GPUs
    assert!(
        imported
            .why("spec.roles[1].template")
            .contains("--node-rank")
    );
    assert_eq!(
        imported.fields(Fate::Missing),
        ["spec.roles[1].template.spec.containers"]
    );
}

#[test]
fn a_job_that_never_restarts_does_not_here() {
    let never = PYTORCH_JOB.replace("restartPolicy: OnFailure", "restartPolicy: Never");
    assert_eq!(import(PyTorchJob, &never).manifest["spec"]["restarts"], 0);
}

#[test]
fn bounds_of_an_elastic_job_are_dropped_with_the_reason() {
    let elastic = PYTORCH_JOB.replace(
        "  nprocPerNode",
        "  elasticPolicy: {minReplicas: 1, maxReplicas: 4, rdzvBackend: c10d}\n  nprocPerNode",
    );
    let imported = import(PyTorchJob, &elastic);
    let dropped = imported.fields(Fate::Dropped);
    for field in [
        "minReplicas (1)",
        "maxReplicas (4)",
        "rdzvBackend (\"c10d\")",
    ] {
        assert!(
            dropped.contains(&&*format!("spec.elasticPolicy.{field}")),
            "{dropped:?}"
        );
    }
}

#[test]
fn a_launcher_and_its_workers_are_roles() {
    let imported = import(MpiJob, MPI_JOB);
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["framework"], "MPI");
    assert_eq!(
        spec["mpi"],
        json!({"slotsPerWorker": 4, "sshAuthMountPath": "/home/mpiuser/.ssh"})
    );
    assert_eq!(spec["restarts"], 2);
    assert_eq!(spec["roles"][0]["name"], "launcher");
    assert_eq!(spec["roles"][1]["replicas"], 2);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
}

#[test]
fn the_older_version_of_mpijob_is_read_too() {
    let old = MPI_JOB
        .replace("kubeflow.org/v2beta1", "kubeflow.org/v1")
        .replace(
            "  runPolicy: {backoffLimit: 2}\n",
            "  runPolicy: {cleanPodPolicy: Running}\n  mainContainer: launcher\n",
        )
        .replace("[mpirun, ", "[horovodrun, ");
    let imported = import(MpiJob, &old);
    assert_eq!(imported.manifest["spec"]["framework"], "Horovod");
    assert_eq!(
        imported.fields(Fate::Dropped),
        [
            "spec.runPolicy.cleanPodPolicy (\"Running\")",
            "spec.mainContainer (\"launcher\")"
        ]
    );
}

#[test]
fn a_launcher_without_a_command_is_asked_for_it() {
    let without = MPI_JOB.replace(", command: [mpirun, -n, \"8\", ./bench]", "");
    let imported = import(MpiJob, &without);
    let field = "spec.roles[0].template.spec.containers[0].command";
    assert_eq!(imported.fields(Fate::Missing), [field]);
}

#[test]
fn a_trainjob_has_the_workers_of_its_runtime_with_its_own_command() {
    let imported = import(TrainJob, TRAIN_JOB);
    let container = json!({
        "name": "node",
        "image": "pytorch/pytorch:2",
        "command": ["torchrun", "tune.py"],
        "env": [{"name": "A", "value": "b"}, {"name": "LEVEL", "value": "debug"}, {"name": "PET_NPROC_PER_NODE", "value": "4"}],
        "resources": {"limits": {"nvidia.com/gpu": "4"}},
    });
    let expected = json!({
        "framework": "PyTorch",
        "replicas": 2,
        "restarts": 6,
        "template": {"spec": {"containers": [container]}},
    });
    assert_eq!(imported.manifest["spec"], expected);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
}

#[test]
fn a_trainjob_without_its_runtime_says_what_is_missing() {
    let alone = TRAIN_JOB.split("---").next().unwrap();
    let imported = import(TrainJob, alone);
    assert_eq!(imported.manifest["spec"]["framework"], "Plain");
    assert!(
        imported
            .why("spec.template")
            .contains("ClusterTrainingRuntime our-torch")
    );
    let missing = imported.fields(Fate::Missing);
    assert!(missing.contains(&"spec.framework"), "{missing:?}");
}

#[test]
fn a_runtime_of_a_framework_that_bursar_lacks_says_so() {
    let booster = TRAIN_JOB.replace("framework: torch", "framework: xgboost");
    let booster = booster.replace(", torch: {}", ", xgboost: {}");
    let imported = import(TrainJob, &booster);
    assert_eq!(imported.manifest["spec"]["framework"], "Plain");
    assert!(imported.fields(Fate::Changed).contains(&"spec.framework"));
    assert!(imported.why("spec.framework").contains("xgboost"));
    // without a framework nobody reads it
    let dropped = imported.fields(Fate::Dropped);
    assert!(
        dropped.contains(&"spec.trainer.numProcPerNode (4)"),
        "{dropped:?}"
    );
}

#[test]
fn a_job_whose_pods_run_together_is_a_gang() {
    let imported = import(Job, JOB);
    let spec = &imported.manifest["spec"];
    assert_eq!(
        (&spec["framework"], &spec["replicas"]),
        (&json!("Plain"), &json!(2))
    );
    assert_eq!(spec["restarts"], 1);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
}

#[test]
fn a_job_that_works_off_items_is_no_gang() {
    let imported = import(Job, &JOB.replace("completions: 2", "completions: 50"));
    assert_eq!(imported.fields(Fate::Dropped), ["spec.completions (50)"]);
}

#[test]
fn what_kueue_suspended_is_not_suspended_here() {
    let queued = JOB
        .replace(
            "namespace: team",
            "namespace: team, labels: {kueue.x-k8s.io/queue-name: q}",
        )
        .replace("  parallelism", "  suspend: true\n  parallelism");
    let imported = import(Job, &queued);
    assert!(imported.manifest["spec"]["suspend"].is_null());
    let dropped = imported.fields(Fate::Dropped);
    assert!(dropped.contains(&"spec.suspend (true)"), "{dropped:?}");
}

#[test]
fn what_a_workers_template_may_not_have_is_dropped() {
    let odd = JOB.replace(
        "restartPolicy: Never",
        "restartPolicy: OnFailure\n      hostNetwork: true\n      terminationGracePeriodSeconds: 90000\n      tomorrow: 1",
    );
    let imported = import(Job, &odd);
    let dropped = imported.fields(Fate::Dropped);
    for field in [
        "restartPolicy (\"OnFailure\")",
        "hostNetwork (true)",
        "terminationGracePeriodSeconds",
        "tomorrow",
    ] {
        assert!(
            dropped.contains(&&*format!("spec.template.spec.{field}")),
            "{dropped:?}"
        );
    }
    assert_eq!(
        imported.manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        3600
    );
}

#[test]
fn a_template_that_is_none_is_asked_for() {
    for odd in [
        "5",
        "{spec: 5}",
        "{spec: {containers: 5}}",
        "{spec: {containers: [5]}}",
    ] {
        let job = PYTORCH_JOB.replace("template: *template", &format!("template: {odd}"));
        assert!(!import(PyTorchJob, &job).is_whole(), "{odd}");
        let (source, runtime) = TRAIN_JOB.split_once("---").unwrap();
        let runtime = runtime.split("              template:\n").next().unwrap();
        let runtime = format!("{source}---{runtime}              template: {odd}\n");
        assert!(!import(TrainJob, &runtime).is_whole(), "{odd}");
    }
}

#[test]
fn a_worker_has_the_slots_that_the_operator_gave_it() {
    let without = MPI_JOB.replace("  slotsPerWorker: 4\n", "");
    let imported = import(MpiJob, &without);
    assert_eq!(imported.manifest["spec"]["mpi"]["slotsPerWorker"], 1);
    let old = without.replace("kubeflow.org/v2beta1", "kubeflow.org/v1");
    let imported = import(MpiJob, &old);
    assert_eq!(imported.manifest["spec"]["mpi"]["slotsPerWorker"], 1);
    assert!(imported.fields(Fate::Changed).contains(&"spec.roles"));
    assert!(imported.why("spec.roles").contains("need ssh and sshd"));
}

#[test]
fn a_number_of_workers_that_is_none_is_asked_for() {
    let text = PYTORCH_JOB.replace("replicas: 3", "replicas: $NUM_NODES");
    let missing = import(PyTorchJob, &text);
    assert_eq!(missing.fields(Fate::Missing), ["spec.replicas"]);
    // none is made up
    assert!(missing.manifest["spec"]["replicas"].is_null());
    let missing = import(
        MpiJob,
        &MPI_JOB.replace("replicas: 2", "replicas: $NUM_NODES"),
    );
    assert_eq!(missing.fields(Fate::Missing), ["spec.roles[1].replicas"]);
    assert!(missing.manifest["spec"]["roles"][1]["replicas"].is_null());
}

#[test]
fn a_mount_of_a_volume_that_the_template_lacks_is_asked_for() {
    // the operator of the source adds such volumes to pods
    let waits = "initContainers: [{name: wait, image: 'example.com/mpi:1', volumeMounts: [{name: mpi-job-config, mountPath: /etc/mpi}]}]";
    let text = MPI_JOB.replace(
        "containers: [{name: launcher",
        &format!("{waits}\n          containers: [{{name: launcher"),
    );
    let imported = import(MpiJob, &text);
    let field = "spec.roles[0].template.spec.initContainers[0].volumeMounts[0]";
    assert_eq!(imported.fields(Fate::Missing), [field]);
    assert!(imported.why(field).contains("mpi-job-config"));
    let whole = text.replace(
        waits,
        &format!("volumes: [{{name: mpi-job-config}}]\n          {waits}"),
    );
    assert!(import(MpiJob, &whole).is_whole());
}

#[test]
fn restarts_are_those_that_the_source_counts() {
    let elastic = |text: &str| {
        text.replace(
            "  nprocPerNode",
            "  elasticPolicy: {maxRestarts: 7}\n  nprocPerNode",
        )
    };
    let without = PYTORCH_JOB.replace("backoffLimit: 5, ", "");
    // both: the job's own, and the other is named
    let imported = import(PyTorchJob, &elastic(PYTORCH_JOB));
    assert_eq!(imported.manifest["spec"]["restarts"], 5);
    let dropped = imported.fields(Fate::Dropped);
    assert!(
        dropped.contains(&"spec.elasticPolicy.maxRestarts (7)"),
        "{dropped:?}"
    );
    let imported = import(PyTorchJob, &elastic(&without));
    assert_eq!(imported.manifest["spec"]["restarts"], 7);
    let why = imported.why("spec.restarts");
    assert!(!why.contains("backoffLimit"), "{why}");
    let imported = import(PyTorchJob, &without);
    assert!(imported.fields(Fate::Changed).contains(&"spec.restarts"));
}

#[test]
fn a_master_that_becomes_a_worker_is_said_to_end_the_job_no_more() {
    let imported = import(PyTorchJob, PYTORCH_JOB);
    assert_eq!(imported.fields(Fate::Changed), ["spec.replicas"]);
    let why = imported.why("spec.replicas");
    assert!(why.contains("when all of them have"), "{why}");
}

#[test]
fn a_trainjob_starts_again_as_often_as_its_runtime_says() {
    let limited = TRAIN_JOB.replace(
        "          template:\n            spec:\n",
        "          template:\n            spec:\n              backoffLimit: 0\n",
    );
    assert_ne!(limited, TRAIN_JOB);
    let imported = import(TrainJob, &limited);
    assert_eq!(imported.manifest["spec"]["restarts"], 0);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
    let policy = limited.replace(
        "      replicatedJobs:",
        "      failurePolicy: {maxRestarts: 4}\n      replicatedJobs:",
    );
    let imported = import(TrainJob, &policy);
    assert_eq!(imported.manifest["spec"]["restarts"], 4);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
}

#[test]
fn a_launcher_that_is_a_node_has_no_gpus_here() {
    let node = "          template:\n            spec:\n              template:\n                spec:\n                  containers:\n                    - {name: node, image: mpi, command: [mpirun, x], resources: {limits: {nvidia.com/gpu: 4, memory: 1Gi}}}\n";
    let (source, _) = TRAIN_JOB.split_once("---").unwrap();
    let source = source.replace("numProcPerNode: 4", "numProcPerNode: 1");
    let runtime = format!(
        "---\napiVersion: trainer.kubeflow.org/v1alpha1\nkind: ClusterTrainingRuntime\nmetadata: {{name: our-torch}}\nspec:\n  \
         mlPolicy: {{numNodes: 1, mpi: {{runLauncherAsNode: true}}}}\n  template:\n    spec:\n      replicatedJobs:\n        - name: \
         launcher\n{node}        - name: node\n{node}"
    );
    let imported = import(TrainJob, &format!("{source}{runtime}"));
    let spec = &imported.manifest["spec"];
    let limits = |role: usize| {
        &spec["roles"][role]["template"]["spec"]["containers"][0]["resources"]["limits"]
    };
    assert!(limits(0)["nvidia.com/gpu"].is_null(), "{}", limits(0));
    assert_eq!(limits(1)["nvidia.com/gpu"], "4");
    assert_eq!(spec["roles"][1]["replicas"], 2);
    // as many as a worker has GPUs
    assert!(spec["mpi"]["slotsPerWorker"].is_null());
    assert_eq!(imported.fields(Fate::Changed), ["spec.roles"]);
    // one that is none keeps its own
    let apart = runtime.replace("runLauncherAsNode: true", "runLauncherAsNode: false");
    let imported = import(TrainJob, &format!("{source}{apart}"));
    let launcher = &imported.manifest["spec"]["roles"][0]["template"]["spec"]["containers"][0];
    assert_eq!(launcher["resources"]["limits"]["nvidia.com/gpu"], "4");
}
