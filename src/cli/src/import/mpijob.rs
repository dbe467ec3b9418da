//! An MPIJob of Kubeflow, v1 or v2beta1, becomes a TrainingJob with a launcher.

use bursar_api::training::Framework;
use serde_json::{Value, json};

use super::container::containers;
use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::objects::string;
use super::pod_template;
use super::report::Report;
use super::training::{
    Workers, is_queued_by_kueue, set_restarts, set_workers, take_replicas, take_run_policy,
};

/// The default of the Job that a launcher is.
const BACKOFF_LIMIT: i64 = 6;
/// How many processes a worker runs if the source does not say it.
const DEFAULT_SLOTS: i64 = 1;
/// How the launcher of version v1 reached its workers.
const KUBECTL_EXEC: &str = "the launcher reached its workers by kubectl exec, and comes by SSH now: images need ssh and sshd, and workers \
    neither command nor args, or one that runs sshd";

pub(crate) fn convert(object: &Value, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind", "status"]);
    let mut draft = Draft::new(DraftKind::TrainingJob, fields.object("metadata"));
    let mut spec = fields.object("spec");
    let by_kueue = is_queued_by_kueue(object);
    let policy = spec.object("runPolicy");
    let limit = take_run_policy(&mut draft, policy, by_kueue);
    spec.drop_field("cleanPodPolicy", super::training::CLEAN_POD_POLICY);
    spec.ignore_value("launcherCreationPolicy", &json!("AtStartup"));
    // the launcher waits for its workers in any case
    spec.ignore_value("launcherCreationPolicy", &json!("WaitForWorkersReady"));
    spec.ignore_value("mpiImplementation", &json!("OpenMPI"));
    spec.ignore_value("mpiImplementation", &json!("Intel"));
    spec.ignore_value("mpiImplementation", &json!("MPICH"));
    spec.ignore_value("runLauncherAsWorker", &json!(false));
    spec.drop_field(
        "runLauncherAsWorker",
        "processes run on the workers alone: give one more worker",
    );
    spec.drop_field("mainContainer", "the launcher is the first container");
    match spec.integer("slotsPerWorker") {
        Some(slots) => draft.set("mpi.slotsPerWorker", slots),
        None => draft.set_with_note(
            "mpi.slotsPerWorker",
            DEFAULT_SLOTS,
            "the MPI operator's default; without it Bursar starts a process for each GPU",
        ),
    }
    // v1 and the versions before it
    if string(object, "apiVersion").is_some_and(|version| version.starts_with("kubeflow.org/v1")) {
        report.changed("spec.roles", KUBECTL_EXEC);
    }
    if let Some(path) = spec.text("sshAuthMountPath") {
        draft.set("mpi.sshAuthMountPath", path);
    }
    let mut replicas = spec.object("mpiReplicaSpecs");
    let mut framework = Framework::Mpi;
    let mut roles = Vec::new();
    for (kind, role) in [("Launcher", "launcher"), ("Worker", "worker")] {
        if !replicas.has(kind) {
            report.missing("spec.roles", format!("the source has no {kind}"));
            continue;
        }
        let mut of_kind = replicas.object(kind);
        of_kind.drop_field(
            "restartPolicy",
            "a worker that fails ends the run of all, and all start again: restarts counts that",
        );
        let template = of_kind.object("template");
        if role == "launcher" {
            framework = framework_of(&object["spec"]["mpiReplicaSpecs"][kind]["template"]);
        }
        let template = pod_template::convert(template, framework);
        if role == "launcher" && template["spec"]["containers"][0]["command"].is_null() {
            report.missing(
                "spec.roles[0].template.spec.containers[0].command",
                "the launcher's program: Bursar waits for the workers before it, and cannot read it from the image",
            );
        }
        roles.push(Workers {
            role: role.to_owned(),
            replicas: take_replicas(&mut of_kind),
            template,
        });
    }
    set_workers(&mut draft, framework, roles);
    if framework != Framework::Mpi {
        report.note("spec.framework", "by the launcher's command");
    }
    let was = match limit {
        Some(_) => "backoffLimit counted launchers that failed",
        None => "Kubernetes' default of backoffLimit, which counts launchers that failed",
    };
    set_restarts(&mut draft, limit.unwrap_or(BACKOFF_LIMIT), was);
    draft.finish()
}

/// The framework whose launcher is started.
fn framework_of(template: &Value) -> Framework {
    let containers = containers(template);
    let runs = |program: &str| containers.iter().any(|each| each.runs(&[program]));
    match (runs("horovodrun"), runs("deepspeed")) {
        (true, _) => Framework::Horovod,
        (_, true) => Framework::DeepSpeed,
        _ => Framework::Mpi,
    }
}
