//! What the converters of training jobs have in common: roles, restarts, the run policy of
//! Kubeflow.

use bursar_api::lenient::bounded_text;
use bursar_api::training::Framework;
use serde_json::{Value, json};

use super::draft::Draft;
use super::fields::Fields;
use super::pod_template::gpus;
use super::report::Report;

/// The most workers of a job, and the most restarts.
const MAX_WORKERS: i64 = 1000;
const MAX_RESTARTS: i64 = 100;
/// Roles that may be without GPUs.
const WITHOUT_GPUS: [&str; 3] = ["launcher", "ps", "evaluator"];

/// Workers that are alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Workers {
    /// The name of their role.
    pub(crate) role: String,
    /// How many; `None` if the source has something there that is no number.
    pub(crate) replicas: Option<i64>,
    pub(crate) template: Value,
}

/// Takes how many workers a replica specification has: 1 if it does not say it, and `None` if it
/// says it by something else than a number.
pub(crate) fn take_replicas(of_kind: &mut Fields<'_>) -> Option<i64> {
    match of_kind.has("replicas") {
        true => of_kind.integer("replicas"),
        false => Some(1),
    }
}

/// Sets the framework and the workers: in the short form if there is one role, else as roles.
pub(crate) fn set_workers(draft: &mut Draft<'_>, framework: Framework, roles: Vec<Workers>) {
    let report = draft.report();
    draft.set("framework", framework.as_str());
    let replicas = |workers: &Workers, path: &str| {
        let field = format!("{path}.replicas");
        let Some(replicas) = workers.replicas else {
            let why = "the number of workers: the source has no number there";
            report.missing(field, why);
            return None;
        };
        let near = replicas.clamp(1, MAX_WORKERS);
        if near != replicas {
            let why = format!("was {replicas}: Bursar takes 1 to {MAX_WORKERS}");
            report.changed(field, why);
        }
        Some(near)
    };
    let needs_gpus = |workers: &Workers, path: &str| {
        if gpus(&workers.template).is_empty() && !WITHOUT_GPUS.contains(&workers.role.as_str()) {
            let field = format!("{path}.template.spec.containers");
            let why = "GPUs: resources.limits of one container at least, such as nvidia.com/gpu: 1. Bursar runs GPU workloads only";
            report.missing(field, why);
        }
    };
    match roles.as_slice() {
        [] => report.missing("spec.template", "the source has no workers"),
        [workers] => {
            if let Some(replicas) = replicas(workers, "spec") {
                draft.set("replicas", replicas);
            }
            draft.set("template", workers.template.clone());
            needs_gpus(workers, "spec");
            needs_volumes(workers, "spec", report);
        }
        several => {
            let mut list = Vec::new();
            for (index, workers) in several.iter().enumerate() {
                let path = format!("spec.roles[{index}]");
                let mut role = json!({"name": workers.role, "template": workers.template});
                if let Some(replicas) = replicas(workers, &path) {
                    role["replicas"] = json!(replicas);
                }
                list.push(role);
                needs_gpus(workers, &path);
                needs_volumes(workers, &path, report);
            }
            draft.set("roles", list);
        }
    }
}

/// Asks for volumes that containers mount and the template lacks: pods could not be made.
fn needs_volumes(workers: &Workers, path: &str, report: &Report) {
    let spec = &workers.template["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&spec["volumes"]);
    for kind in ["initContainers", "containers"] {
        for (container, of_container) in list(&spec[kind]).iter().enumerate() {
            for (mount, of_mount) in list(&of_container["volumeMounts"]).iter().enumerate() {
                let name = &of_mount["name"];
                if !name.is_string() || volumes.iter().any(|volume| volume["name"] == *name) {
                    continue;
                }
                let field =
                    format!("{path}.template.spec.{kind}[{container}].volumeMounts[{mount}]");
                let why = format!(
                    "the template has no volume {}. One that the source's operator adds is not there, and Bursar gives its own to the \
                     first container alone: add the volume, or take out what needs it",
                    bounded_text(&name.to_string())
                );
                report.missing(field, why);
            }
        }
    }
}

/// Sets how often all workers start again. `limit` is what the source says of it.
pub(crate) fn set_restarts(draft: &mut Draft<'_>, limit: i64, was: &str) {
    let near = limit.clamp(0, MAX_RESTARTS);
    draft.set("restarts", near);
    let report = draft.report();
    if near == limit {
        let why = format!(
            "{was}; here each failure of a worker counts once, and all workers start again"
        );
        report.note("spec.restarts", why);
    } else {
        report.changed(
            "spec.restarts",
            format!("was {limit}: Bursar takes 0 to {MAX_RESTARTS}"),
        );
    }
}

/// Whether Kueue decides when an object runs: then it is Kueue that has suspended it.
pub(crate) fn is_queued_by_kueue(object: &Value) -> bool {
    object["metadata"]["labels"]["kueue.x-k8s.io/queue-name"].is_string()
}

/// Sets `suspend`, unless Kueue has set the source's.
pub(crate) fn set_suspend(draft: &mut Draft<'_>, fields: &mut Fields<'_>, by_kueue: bool) {
    if by_kueue && fields.has("suspend") {
        fields.drop_field(
            "suspend",
            "Kueue sets it while the job waits in its queue; Bursar has a queue of its own",
        );
    } else if fields.boolean("suspend") == Some(true) {
        draft.set("suspend", true);
    }
}

/// Reports the fields that jobs of several kinds have, and Bursar's have not.
pub(crate) fn drop_lifetime(fields: &mut Fields<'_>) {
    for (name, why) in [
        (
            "ttlSecondsAfterFinished",
            "a job that has ended stays until it is deleted",
        ),
        (
            "activeDeadlineSeconds",
            "a job has no deadline: a BudgetPolicy limits what it may cost",
        ),
        ("managedBy", "Bursar runs it"),
    ] {
        fields.drop_field(name, why);
    }
}

/// Takes the run policy of Kubeflow's jobs, and returns its `backoffLimit`.
pub(crate) fn take_run_policy(
    draft: &mut Draft<'_>,
    mut policy: Fields<'_>,
    by_kueue: bool,
) -> Option<i64> {
    set_suspend(draft, &mut policy, by_kueue);
    drop_lifetime(&mut policy);
    policy.drop_field("cleanPodPolicy", CLEAN_POD_POLICY);
    let mut scheduling = policy.object("schedulingPolicy");
    if let Some(class) = scheduling
        .text("priorityClass")
        .filter(|class| !class.is_empty())
    {
        draft.set("priorityClassName", class);
    }
    for (name, why) in [
        ("minAvailable", "all workers start together, or none does"),
        ("minResources", "the room is that of all workers"),
        ("queue", "a namespace has one queue"),
        (
            "scheduleTimeoutSeconds",
            "a job waits until there is room: the chart's nodeAutoscaling.nodeStartTimeout is for new nodes",
        ),
    ] {
        scheduling.drop_field(name, why);
    }
    policy.integer("backoffLimit")
}

/// Why it is not there.
pub(crate) const CLEAN_POD_POLICY: &str =
    "the pods of a run stay until the next one or until the job is deleted; they hold no GPUs";
