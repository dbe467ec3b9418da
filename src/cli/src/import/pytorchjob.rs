//! A PyTorchJob of Kubeflow becomes a TrainingJob.

use bursar_api::training::Framework;
use serde_json::{Value, json};

use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::pod_template;
use super::report::Report;
use super::training::{
    Workers, is_queued_by_kueue, set_restarts, set_workers, take_replicas, take_run_policy,
};

/// Why the bounds of an elastic job are not there.
const ELASTIC: &str = "the number of workers does not change while a job runs";

pub(crate) fn convert(object: &Value, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind", "status"]);
    let mut draft = Draft::new(DraftKind::TrainingJob, fields.object("metadata"));
    let mut spec = fields.object("spec");
    let by_kueue = is_queued_by_kueue(object);
    let policy = spec.object("runPolicy");
    let limit = take_run_policy(&mut draft, policy, by_kueue);
    // before runPolicy there was, these were here
    for (name, why) in [
        ("cleanPodPolicy", super::training::CLEAN_POD_POLICY),
        (
            "ttlSecondsAfterFinished",
            "a job that has ended stays until it is deleted",
        ),
        (
            "activeDeadlineSeconds",
            "a job has no deadline: a BudgetPolicy limits what it may cost",
        ),
    ] {
        spec.drop_field(name, why);
    }
    let limit = limit.or_else(|| spec.integer("backoffLimit"));
    let mut elastic = spec.object("elasticPolicy");
    for name in ["minReplicas", "maxReplicas", "metrics", "standalone"] {
        elastic.drop_field(name, ELASTIC);
    }
    for name in ["rdzvBackend", "rdzvPort", "rdzvHost", "rdzvId", "rdzvConf"] {
        elastic.drop_field(
            name,
            "workers meet at worker 0 of the first role, on port 29500",
        );
    }
    let attempts = elastic.integer("maxRestarts");
    let processes = elastic.text("nProcPerNode");
    let processes = spec.text("nprocPerNode").or(processes);
    let mut restarts = Restarts::default();
    let mut replicas = spec.object("pytorchReplicaSpecs");
    let mut roles = Vec::new();
    for (kind, role) in [("Master", "master"), ("Worker", "worker")] {
        if !replicas.has(kind) {
            continue;
        }
        let mut of_kind = replicas.object(kind);
        restarts.add(&mut of_kind);
        let mut template = pod_template::convert(of_kind.object("template"), Framework::PyTorch);
        if let Some(processes) = &processes {
            set_processes(&mut template, processes);
        }
        roles.push(Workers {
            role: role.to_owned(),
            replicas: take_replicas(&mut of_kind),
            template,
        });
    }
    let is_alike = roles.len() > 1;
    let roles = merge(roles);
    if is_alike && roles.len() == 1 {
        let why = "master and workers are alike and become workers: the job has succeeded when all of them have, and had when its master had";
        report.changed("spec.replicas", why);
    }
    if roles.len() > 1 {
        draft.set_with_note(
            "successPolicy.roles",
            json!(["master"]),
            "a PyTorchJob has succeeded when its master has",
        );
        if roles[1].replicas != Some(1) {
            report.changed(
                "spec.roles[1].template",
                "workers of the second role have no RANK, since Kubernetes cannot add to an index: their command computes it, as \
                 torchrun --node-rank=$((BURSAR_RANK_OFFSET + BURSAR_ROLE_RANK)) does",
            );
        }
    }
    set_workers(&mut draft, Framework::PyTorch, roles);
    if let (Some(attempts), true) = (attempts, limit.is_some() || restarts.never) {
        let why = "torchrun started its processes again in the same pod: the template's variable PET_MAX_RESTARTS lets it do that here, \
                   and restarts counts what is beyond it";
        report.dropped(format!("spec.elasticPolicy.maxRestarts ({attempts})"), why);
    }
    match (limit, attempts, restarts.never) {
        (_, _, true) => set_restarts(&mut draft, 0, "restartPolicy was Never"),
        (Some(limit), _, false) => set_restarts(
            &mut draft,
            limit,
            "backoffLimit counted restarts of containers",
        ),
        (None, Some(attempts), false) => set_restarts(
            &mut draft,
            attempts,
            "elasticPolicy.maxRestarts counted those of torchrun's processes",
        ),
        (None, None, false) => report.changed(
            "spec.restarts",
            "it is 3 by default; a PyTorchJob without backoffLimit starts again for ever",
        ),
    }
    draft.finish()
}

/// What the replica specifications say of restarts.
#[derive(Default)]
struct Restarts {
    /// One that fails ends the job.
    never: bool,
}

impl Restarts {
    fn add(&mut self, of_kind: &mut Fields<'_>) {
        match of_kind.text("restartPolicy").as_deref() {
            Some("Never") => self.never = true,
            None | Some("OnFailure" | "Always") => {}
            Some(other) => {
                let field = format!("{} ({other:?})", of_kind.path("restartPolicy"));
                let why = "each failure of a worker counts, whatever its exit code";
                of_kind.report().dropped(field, why);
            }
        }
    }
}

/// A master and workers of the same template are alike: worker 0 is the master.
fn merge(mut roles: Vec<Workers>) -> Vec<Workers> {
    if let [master, workers] = roles.as_slice()
        && master.template == workers.template
    {
        let replicas = (master.replicas.zip(workers.replicas))
            .map(|(master, workers)| master.saturating_add(workers));
        roles.truncate(1);
        roles[0].replicas = replicas;
    }
    roles
}

/// Sets how many processes torchrun starts, as Kubeflow's operator does by this variable.
pub(crate) fn set_processes(template: &mut Value, processes: &str) {
    let containers = template.pointer_mut("/spec/containers");
    let containers = containers.and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let Value::Object(container) = container else {
            continue;
        };
        let variables = container.entry("env").or_insert_with(|| json!([]));
        if let Value::Array(variables) = variables {
            let name = "PET_NPROC_PER_NODE";
            if !variables.iter().any(|variable| variable["name"] == name) {
                variables.push(json!({"name": name, "value": processes}));
            }
        }
    }
}
