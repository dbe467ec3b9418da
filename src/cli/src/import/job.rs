//! A Job becomes a TrainingJob of framework Plain.

use bursar_api::training::Framework;
use serde_json::{Value, json};

use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::pod_template;
use super::report::Report;
use super::training::{
    Workers, drop_lifetime, is_queued_by_kueue, set_restarts, set_suspend, set_workers,
};

/// Kubernetes' default.
const BACKOFF_LIMIT: i64 = 6;

pub(crate) fn convert(object: &Value, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind", "status"]);
    let mut draft = Draft::new(DraftKind::TrainingJob, fields.object("metadata"));
    let mut spec = fields.object("spec");
    let parallelism = spec.integer("parallelism").unwrap_or(1);
    if let Some(completions) = spec
        .integer("completions")
        .filter(|many| *many != parallelism)
    {
        let why = format!(
            "the {parallelism} workers run together and once: a Job that works off {completions} items a few at a time is no gang. An \
             InferenceDeployment of engine None takes items from a queue"
        );
        report.dropped(format!("spec.completions ({completions})"), why);
    }
    spec.ignore_value("completionMode", &json!("NonIndexed"));
    // workers of Bursar have an index in any case
    spec.ignore_value("completionMode", &json!("Indexed"));
    spec.ignore(&["selector"]);
    spec.ignore_value("manualSelector", &json!(false));
    spec.ignore_value("podReplacementPolicy", &json!("TerminatingOrFailed"));
    spec.ignore_value("podReplacementPolicy", &json!("Failed"));
    let by_kueue = is_queued_by_kueue(object);
    set_suspend(&mut draft, &mut spec, by_kueue);
    drop_lifetime(&mut spec);
    for (name, why) in [
        (
            "backoffLimitPerIndex",
            "a worker that fails ends the run of all",
        ),
        (
            "maxFailedIndexes",
            "a worker that fails ends the run of all",
        ),
        (
            "podFailurePolicy",
            "a worker that the cluster takes away counts as no failure, and any other as one",
        ),
        (
            "successPolicy",
            "the job has succeeded when all workers have",
        ),
    ] {
        spec.drop_field(name, why);
    }
    let limit = spec.integer("backoffLimit");
    let was = match limit {
        Some(_) => "backoffLimit counted pods that failed",
        None => "Kubernetes' default of backoffLimit, which counts pods that failed",
    };
    set_restarts(&mut draft, limit.unwrap_or(BACKOFF_LIMIT), was);
    let framework = Framework::Plain;
    let workers = Workers {
        role: String::new(),
        replicas: Some(parallelism),
        template: pod_template::convert(spec.object("template"), framework),
    };
    set_workers(&mut draft, framework, vec![workers]);
    let why = "a Job does not say how its workers find each other: PyTorch, JAX or another framework sets the variables of theirs";
    report.note("spec.framework", why);
    draft.finish()
}
