//! On which nodes a pod may be placed, and whether a scheduler looks for one, as the model's values.
//! Tenants write all of it: what is larger than any pod needs is not kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::Scheduling;
use bursar_core::placement::{
    NodeTerm, Operator, Placement, Requirement, Taint, TaintEffect, Toleration,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

/// More tolerations, requirements, values or selected labels in all than this are not kept: the pod counts as
/// one that no node takes.
const MAX_ENTRIES: usize = 512;
/// The scheduler of pods that name none.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Where the pods of a spec may be placed.
pub(super) fn placement(spec: &core::PodSpec) -> Arc<Placement> {
    let affinity = spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let terms = required.map(|required| required.node_selector_terms.as_slice());
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let selected = spec.node_selector.as_ref().map_or(0, BTreeMap::len);
    if selected + tolerations.len() + terms.map_or(0, entries) > MAX_ENTRIES {
        return Arc::new(Placement::nowhere());
    }
    let tolerations = tolerations
        .iter()
        .filter(|toleration| !is_default(toleration));
    let tolerations: Vec<Toleration> = tolerations.filter_map(toleration).collect();
    if tolerations.is_empty() && terms.is_none() {
        return Arc::default();
    }
    Arc::new(Placement {
        tolerations,
        terms: terms.map(|terms| terms.iter().filter_map(term).collect()),
    })
}

/// Whether the API server adds it to every pod (DefaultTolerationSeconds). A node with such a taint has one of the same
/// key by which nothing is scheduled, so it makes no difference to where a pod finds room, and templates lack it.
fn is_default(toleration: &core::Toleration) -> bool {
    let keys = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
    let key = toleration.key.as_deref();
    key.is_some_and(|key| keys.contains(&key)) && toleration.effect.as_deref() == Some("NoExecute")
}

/// The labels that the node of a spec's pods must have. Of more than [`MAX_ENTRIES`] none is kept:
/// [`placement`] says that no node takes the pods.
pub(super) fn node_selector(spec: &core::PodSpec) -> BTreeMap<String, String> {
    let selector = spec.node_selector.as_ref();
    let kept = selector.filter(|selector| selector.len() <= MAX_ENTRIES);
    kept.cloned().unwrap_or_default()
}

fn requirements(
    term: &core::NodeSelectorTerm,
) -> impl Iterator<Item = &core::NodeSelectorRequirement> {
    let labels = term.match_expressions.iter().flatten();
    labels.chain(term.match_fields.iter().flatten())
}

fn entries(terms: &[core::NodeSelectorTerm]) -> usize {
    let all = terms.iter().flat_map(requirements);
    let values = all.map(|one| 1 + one.values.as_ref().map_or(0, Vec::len));
    terms.len() + values.sum::<usize>()
}

/// A toleration; `None` for one with an operator or effect that is not known, which counts as none.
fn toleration(toleration: &core::Toleration) -> Option<Toleration> {
    let value = match toleration.operator.as_deref() {
        Some("Exists") => None,
        None | Some("" | "Equal") => Some(toleration.value.clone().unwrap_or_default()),
        // numbers are not compared: the pod may be placed there
        Some("Gt" | "Lt") => None,
        Some(_) => return None,
    };
    let effect = match toleration.effect.as_deref() {
        None | Some("") => None,
        Some(name) => Some(effect(name)?),
    };
    let key = toleration.key.clone().filter(|key| !key.is_empty());
    Some(Toleration { key, value, effect })
}

fn effect(name: &str) -> Option<TaintEffect> {
    match name {
        "NoSchedule" => Some(TaintEffect::NoSchedule),
        "NoExecute" => Some(TaintEffect::NoExecute),
        _ => None,
    }
}

/// A term; `None` for one that cannot be read, which matches no node.
fn term(term: &core::NodeSelectorTerm) -> Option<NodeTerm> {
    let all = |list: &Option<Vec<core::NodeSelectorRequirement>>| {
        let list = list.iter().flatten();
        list.map(requirement).collect::<Option<Vec<Requirement>>>()
    };
    let names = all(&term.match_fields)?;
    let is_name = |requirement: &Requirement| requirement.key == "metadata.name";
    let labels = all(&term.match_expressions)?;
    names
        .iter()
        .all(is_name)
        .then_some(NodeTerm { labels, names })
}

fn requirement(requirement: &core::NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    Some(Requirement {
        key: requirement.key.clone(),
        operator,
        values: requirement.values.clone().unwrap_or_default(),
    })
}

/// The taints of a node that keep pods away.
pub(super) fn taints(node: &core::Node) -> Vec<Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let keeping = taints.filter_map(|taint| {
        Some(Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: effect(&taint.effect)?,
        })
    });
    keeping.collect()
}

/// Whether a scheduler looks for a node for the pod. One with another name than the default has been
/// heard of once the pod has the condition that it writes.
pub(super) fn scheduling(pod: &core::Pod) -> Scheduling {
    let Some(spec) = &pod.spec else {
        return Scheduling::Queued;
    };
    let gates = spec.scheduling_gates.as_ref();
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return Scheduling::Ignored;
    }
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == "PodScheduled");
    let name = spec
        .scheduler_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let is_default = name.is_none_or(|name| name == DEFAULT_SCHEDULER);
    match condition {
        Some(found) if found.reason.as_deref() == Some("Unschedulable") => {
            let created = pod.metadata.creation_timestamp.as_ref();
            let since = found.last_transition_time.as_ref().or(created);
            Scheduling::Unschedulable {
                since: since.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
                why: found.message.as_deref().unwrap_or_default().into(),
            }
        }
        None if !is_default => Scheduling::Ignored,
        _ => Scheduling::Queued,
    }
}

/// Whether the pod is there as long as its node: a DaemonSet's, or made by the kubelet from a file.
pub(super) fn is_resident(pod: &core::Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.any(|owner| {
        let owner = (owner.api_version.as_str(), owner.kind.as_str());
        matches!(owner, ("apps/v1", "DaemonSet") | ("v1", "Node"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(spec: Value) -> core::PodSpec {
        let mut whole = json!({"containers": []});
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn pod(spec: Value, conditions: Value) -> core::Pod {
        let mut whole = json!({"containers": []});
        whole
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": "p", "creationTimestamp": "2026-12-01T09:00:00Z"});
        let pod =
            json!({"metadata": metadata, "spec": whole, "status": {"conditions": conditions}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn tolerations_that_every_pod_gets_make_it_no_other_than_its_template() {
        let default = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let own = json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"});
        let keys = [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        ];
        let [not_ready, unreachable] = keys.map(default);
        let with = |tolerations: Value| placement(&spec(json!({"tolerations": tolerations})));
        assert_eq!(with(json!([not_ready, unreachable])), with(json!([])));
        assert_eq!(with(json!([own, not_ready])), with(json!([own])));
        assert_ne!(with(json!([own])), with(json!([])));
    }

    fn node() -> core::Node {
        serde_json::from_value(json!({
            "metadata": {"name": "gpu-0", "labels": {"zone": "a"}},
            "spec": {"taints": [
                {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                {"key": "slow", "effect": "PreferNoSchedule"}]},
        }))
        .unwrap()
    }

    fn allows(value: Value) -> bool {
        let node = node();
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        placement(&spec(value)).allows("gpu-0", &labels, &taints(&node))
    }

    #[test]
    fn tolerations_are_read_as_the_scheduler_reads_them() {
        let tolerates = |toleration: Value| allows(json!({"tolerations": [toleration]}));
        assert!(!allows(json!({})));
        assert!(tolerates(json!({"operator": "Exists"})));
        assert!(tolerates(
            json!({"key": "nvidia.com/gpu", "operator": "Exists"})
        ));
        assert!(tolerates(
            json!({"key": "nvidia.com/gpu", "value": "present"})
        ));
        assert!(!tolerates(json!({"key": "nvidia.com/gpu"})));
        assert!(!tolerates(
            json!({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"})
        ));
        assert!(!tolerates(
            json!({"key": "nvidia.com/gpu", "operator": "Unheard", "value": "present"})
        ));
    }

    #[test]
    fn affinity_is_read_as_the_scheduler_reads_it() {
        let allows = |terms: Value| {
            let required = json!({"nodeSelectorTerms": terms});
            allows(json!({
                "tolerations": [{"operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
            }))
        };
        let zone = |value: &str| json!({"key": "zone", "operator": "In", "values": [value]});
        assert!(allows(json!([{"matchExpressions": [zone("a")]}])));
        assert!(!allows(json!([{"matchExpressions": [zone("b")]}])));
        assert!(allows(
            json!([{"matchExpressions": [zone("b")]}, {"matchExpressions": [zone("a")]}])
        ));
        assert!(!allows(json!([{}])));
        let named = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        assert!(allows(named("gpu-0")));
        assert!(!allows(named("gpu-1")));
        let unheard = json!({"key": "zone", "operator": "Unheard", "values": ["a"]});
        assert!(!allows(json!([{"matchExpressions": [unheard]}])));
    }

    #[test]
    fn a_placement_without_end_is_not_kept() {
        let tolerations = vec![json!({"operator": "Exists"}); MAX_ENTRIES + 1];
        let kept = placement(&spec(json!({"tolerations": tolerations})));
        assert_eq!(*kept, Placement::nowhere());
        let values: Vec<String> = (0..MAX_ENTRIES).map(|value| value.to_string()).collect();
        let term =
            json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": values}]});
        let required = json!({"nodeSelectorTerms": [term]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        let kept = placement(&spec(json!({"affinity": affinity})));
        assert_eq!(*kept, Placement::nowhere());
        let selector = |labels: usize| {
            let labels = (0..labels).map(|label| (format!("label-{label}"), json!("a")));
            let labels: serde_json::Map<String, Value> = labels.collect();
            spec(json!({"nodeSelector": labels}))
        };
        let (most, more) = (selector(MAX_ENTRIES), selector(MAX_ENTRIES + 1));
        assert_eq!(*placement(&most), Placement::default());
        assert_eq!(node_selector(&most).len(), MAX_ENTRIES);
        assert_eq!(*placement(&more), Placement::nowhere());
        assert_eq!(node_selector(&more).len(), 0);
    }

    #[test]
    fn a_gate_or_a_scheduler_that_was_not_heard_of_keeps_a_pod_from_being_looked_at() {
        let unschedulable = json!([{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available",
            "lastTransitionTime": "2026-12-01T10:00:00Z"}]);
        let other = json!({"schedulerName": "nobody"});
        let since = Scheduling::Unschedulable {
            since: "2026-12-01T10:00:00Z".parse().unwrap(),
            why: "0/3 nodes are available".into(),
        };
        for (spec, conditions, expected) in [
            (json!({}), json!([]), Scheduling::Queued),
            (
                json!({"schedulerName": "default-scheduler"}),
                json!([]),
                Scheduling::Queued,
            ),
            (other.clone(), json!([]), Scheduling::Ignored),
            (other, unschedulable.clone(), since.clone()),
            (json!({}), unschedulable.clone(), since),
            (
                json!({"schedulingGates": [{"name": "example.test/later"}]}),
                unschedulable,
                Scheduling::Ignored,
            ),
        ] {
            assert_eq!(
                scheduling(&pod(spec.clone(), conditions)),
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn a_pod_whose_controller_is_a_daemon_set_or_a_node_is_resident() {
        let owned = |api_version: &str, kind: &str, controller: bool| {
            let owner = json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": "u",
                "controller": controller});
            let mut pod = pod(json!({}), json!([]));
            pod.metadata.owner_references = serde_json::from_value(json!([owner])).unwrap();
            is_resident(&pod)
        };
        assert!(owned("apps/v1", "DaemonSet", true));
        assert!(owned("v1", "Node", true));
        assert!(!owned("apps/v1", "DaemonSet", false));
        assert!(!owned("apps/v1", "ReplicaSet", true));
        assert!(!owned("example.test/v1", "DaemonSet", true));
    }
}
