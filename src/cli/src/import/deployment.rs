//! A Deployment or StatefulSet becomes an InferenceDeployment that scales it where it is.

use serde_json::{Value, json};

use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::objects::{Objects, group_of, metadata, string};
use super::report::Report;
use super::target::{TargetRef, set_target};

/// The most replicas of a service.
pub(crate) const MAX_REPLICAS: i64 = 1000;

/// The InferenceDeployment of a Deployment or StatefulSet, whose specification stays its own: of
/// that only the number of replicas is Bursar's from then on.
pub(crate) fn convert(object: &Value, objects: &Objects, report: &Report) -> Value {
    let text = |name: &str| string(object, name).unwrap_or_default().to_owned();
    let target = TargetRef {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: metadata(object, "name").unwrap_or_default().to_owned(),
    };
    // labels and annotations stay at the target, so that none is lost here
    let metadata = json!({"name": target.name, "namespace": object["metadata"]["namespace"]});
    let metadata = Fields::new("metadata", metadata, report);
    let mut draft = Draft::new(DraftKind::InferenceDeployment, metadata);
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let most = replicas.clamp(1, MAX_REPLICAS);
    draft.set_with_note(
        "maxReplicas",
        most,
        "the replicas that it has; more let it grow with its demand",
    );
    draft.set_with_note(
        "minReplicas",
        replicas.clamp(0, most),
        "the replicas that it has; fewer let it shrink, and 0 lets it go to zero when idle",
    );
    set_target(&mut draft, objects, &target, false);
    for scaler in scalers(&target, objects, draft.namespace()) {
        report.missing(
            "spec.maxReplicas",
            format!(
                "{scaler} scales it: import that instead, and delete it before this is applied"
            ),
        );
    }
    draft.finish()
}

/// The autoscalers among the objects that scale a workload.
fn scalers(target: &TargetRef, objects: &Objects, namespace: Option<&str>) -> Vec<String> {
    let kinds = [
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("keda.sh", "ScaledObject"),
    ];
    let all = kinds
        .into_iter()
        .flat_map(|(group, kind)| objects.of_kind(group, kind));
    let scales = |scaler: &&Value| {
        let reference = &scaler["spec"]["scaleTargetRef"];
        let kind = reference["kind"].as_str().unwrap_or("Deployment");
        let group = reference["apiVersion"].as_str().map_or("apps", group_of);
        reference["name"] == target.name.as_str()
            && kind == target.kind
            && group == group_of(&target.api_version)
            && super::objects::is_in(scaler, namespace)
    };
    let name = |scaler: &Value| {
        let name = metadata(scaler, "name").unwrap_or("?");
        format!("{} {name}", string(scaler, "kind").unwrap_or("?"))
    };
    all.filter(scales).map(name).take(8).collect()
}
