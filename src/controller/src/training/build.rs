//! The objects that a TrainingJob owns. Needs no client and cannot fail.

use bursar_api::TrainingJob;
use bursar_api::names::{LAUNCHER_FILES_ANNOTATION, RESTARTS_ANNOTATION, ROLE_LABEL, role_job};
use bursar_api::spend::WorkloadKind;
use bursar_api::training::Role;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec};
use kube::ResourceExt;

use crate::inference::build::{disable_service_links, labels, metadata};
use crate::pod_failure::DISRUPTION_TARGET;
use crate::training::frameworks::{self, NameSuffix, PlacedRole};

/// One Indexed Job for each role, with the role's name, in whose gang a worker has failed so often. A
/// failed worker is replaced only once it is gone, so that two never hold one rank. The names of the files that
/// pods mount end in the suffix.
pub(crate) fn jobs(
    object: &TrainingJob,
    suffix: &NameSuffix,
    suspend: bool,
    restarts: u32,
) -> Vec<(String, Job)> {
    let mut rank_offset = 0;
    let roles = object.spec.roles().into_iter().map(|role| {
        let placed = PlacedRole {
            object,
            role,
            rank_offset,
            suffix,
        };
        let mut job = job(placed, suspend);
        if restarts > 0 {
            let annotations = job.metadata.annotations.get_or_insert_default();
            annotations.insert(RESTARTS_ANNOTATION.to_owned(), restarts.to_string());
        }
        rank_offset += role.replicas;
        (role.name.to_owned(), job)
    });
    roles.collect()
}

fn job(placed: PlacedRole<'_>, suspend: bool) -> Job {
    let PlacedRole { object, role, .. } = placed;
    let workers = i32::try_from(role.replicas).unwrap_or(i32::MAX);
    let mut spec = JobSpec {
        completion_mode: Some("Indexed".to_owned()),
        completions: Some(workers),
        parallelism: Some(workers),
        // a Job counts each worker that fails, also one that it was told to stop: Bursar counts the
        // gang's restarts, and ends the Job
        backoff_limit: Some(i32::MAX),
        pod_failure_policy: Some(ignore_disruptions()),
        pod_replacement_policy: Some("Failed".to_owned()),
        template: template(placed),
        ..JobSpec::default()
    };
    let name = role_job(&object.name_any(), role.name);
    let mut metadata = metadata(object, name, WorkloadKind::TrainingJob, &spec);
    let labels = metadata.labels.get_or_insert_default();
    labels.extend(role_label(role));
    if object.spec.launcher().is_some() {
        let annotations = metadata.annotations.get_or_insert_default();
        let suffix = placed.suffix.as_str().to_owned();
        annotations.insert(LAUNCHER_FILES_ANNOTATION.to_owned(), suffix);
    }
    spec.suspend = Some(suspend);
    Job {
        metadata,
        spec: Some(spec),
        status: None,
    }
}

/// Workers that the cluster takes away are no failures in the Job's status either.
fn ignore_disruptions() -> PodFailurePolicy {
    let pattern = PodFailurePolicyOnPodConditionsPattern {
        status: Some("True".to_owned()),
        type_: DISRUPTION_TARGET.to_owned(),
    };
    let rule = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_pod_conditions: Some(vec![pattern]),
        ..PodFailurePolicyRule::default()
    };
    PodFailurePolicy { rules: vec![rule] }
}

/// The label of a role; the only role of the short form has none.
fn role_label(role: Role<'_>) -> Option<(String, String)> {
    let named = Some(role.name).filter(|name| !name.is_empty());
    named.map(|name| (ROLE_LABEL.to_owned(), name.to_owned()))
}

fn template(placed: PlacedRole<'_>) -> PodTemplateSpec {
    let PlacedRole { object, role, .. } = placed;
    let name = object.name_any();
    let mut template = role.template.clone();
    let labels_of_pods = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels_of_pods.extend(labels(WorkloadKind::TrainingJob, &name));
    labels_of_pods.extend(role_label(role));
    let spec = template.spec.get_or_insert_default();
    spec.restart_policy = Some("Never".to_owned());
    spec.subdomain = Some(name);
    disable_service_links(spec);
    if object.spec.priority_class_name.is_some() {
        spec.priority_class_name = object.spec.priority_class_name.clone();
    }
    frameworks::additions(placed).add_to(spec);
    template
}

/// The headless Service that gives each worker a name before it is ready: they look for each other while they start.
pub(crate) fn service(object: &TrainingJob) -> Service {
    let name = object.name_any();
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        selector: Some(labels(WorkloadKind::TrainingJob, &name)),
        ports: Some(vec![ServicePort {
            name: Some("rendezvous".to_owned()),
            port: frameworks::port(object),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    };
    Service {
        metadata: metadata(object, name, WorkloadKind::TrainingJob, &spec),
        spec: Some(spec),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::EnvVar;
    use serde_json::json;

    use super::*;
    use crate::training::frameworks::SuffixKey;

    fn suffix(object: &TrainingJob) -> NameSuffix {
        SuffixKey::default().suffix(object).unwrap()
    }

    fn only_job(object: &TrainingJob) -> Job {
        let mut jobs = jobs(object, &suffix(object), true, 0);
        assert_eq!((jobs.len(), jobs[0].0.as_str()), (1, ""));
        jobs.remove(0).1
    }

    /// What the first version of Bursar made, but for the links to Services, what counts failures and processes.
    const SHORT_FORM_JOB: &str = concat!(
        r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"annotations":{"bursar.dev/spec-hash":"93aed345fd71940a"},"#,
        r#""labels":{"app.kubernetes.io/managed-by":"bursar","bursar.dev/kind":"TrainingJob","bursar.dev/workload":"llama"},"#,
        r#""name":"llama","namespace":"ml","ownerReferences":[{"apiVersion":"bursar.dev/v1alpha1","controller":true,"#,
        r#""kind":"TrainingJob","name":"llama","uid":"u"}]},"spec":{"backoffLimit":2147483647,"completionMode":"Indexed","#,
        r#""completions":4,"parallelism":4,"podFailurePolicy":{"rules":[{"action":"Ignore","onPodConditions":["#,
        r#"{"status":"True","type":"DisruptionTarget"}]}]},"podReplacementPolicy":"Failed","suspend":true,"template":{"metadata":{"labels":{"#,
        r#""bursar.dev/kind":"TrainingJob","bursar.dev/workload":"llama","team":"nlp"}},"spec":{"containers":[{"env":["#,
        r#"{"name":"MASTER_ADDR","value":"llama-0.llama.ml.svc"},{"name":"WORLD_SIZE","value":"4"},{"name":"RANK","valueFrom":"#,
        r#"{"fieldRef":{"fieldPath":"metadata.annotations['batch.kubernetes.io/job-completion-index']"}}},"#,
        r#"{"name":"PET_MASTER_ADDR","value":"llama-0.llama.ml.svc"},{"name":"PET_MASTER_PORT","value":"29500"},"#,
        r#"{"name":"PET_NNODES","value":"4"},{"name":"PET_NODE_RANK","valueFrom":"#,
        r#"{"fieldRef":{"fieldPath":"metadata.annotations['batch.kubernetes.io/job-completion-index']"}}},"#,
        r#"{"name":"PET_NPROC_PER_NODE","value":"1"},{"name":"MASTER_PORT","value":"1"}],"image":"i","name":"w","resources":{"limits":{"nvidia.com/gpu":"1"}}}],"#,
        r#""enableServiceLinks":false,"#,
        r#""nodeSelector":{"pool":"a"},"priorityClassName":"high","restartPolicy":"Never","subdomain":"llama","#,
        r#""terminationGracePeriodSeconds":60}}}}"#
    );

    /// Roles are an addition: a job without them is what it was.
    #[test]
    fn the_job_of_the_short_form_stays_byte_for_byte() {
        let object: TrainingJob = serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "llama", "namespace": "ml", "uid": "u"},
            "spec": {"framework": "PyTorch", "replicas": 4, "restarts": 2, "priorityClassName": "high", "template": {
                "metadata": {"labels": {"team": "nlp"}},
                "spec": {"terminationGracePeriodSeconds": 60, "nodeSelector": {"pool": "a"}, "containers": [
                    {"name": "w", "image": "i", "env": [{"name": "MASTER_PORT", "value": "1"}],
                     "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}},
        }))
        .unwrap();
        assert_eq!(
            serde_json::to_string(&only_job(&object)).unwrap(),
            SHORT_FORM_JOB
        );
    }

    #[test]
    fn workers_find_each_other_by_torchruns_environment() {
        let object: TrainingJob = serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "llama", "namespace": "ml", "uid": "u"},
            "spec": {"framework": "PyTorch", "replicas": 4, "restarts": 2, "template": {"spec": {"containers": [
                {"name": "w", "env": [{"name": "MASTER_PORT", "value": "1"}]}]}}},
        }))
        .unwrap();
        let spec = only_job(&object).spec.unwrap();
        assert_eq!(
            (
                spec.completions,
                spec.parallelism,
                spec.backoff_limit,
                spec.suspend
            ),
            (Some(4), Some(4), Some(i32::MAX), Some(true))
        );
        let pod = spec.template.spec.unwrap();
        assert_eq!(
            (pod.subdomain.as_deref(), pod.restart_policy.as_deref()),
            (Some("llama"), Some("Never"))
        );
        let environment = pod.containers[0].env.as_ref().unwrap();
        let value = |name: &str| {
            environment
                .iter()
                .find(|each| each.name == name)
                .unwrap()
                .value
                .as_deref()
        };
        assert_eq!(
            (value("MASTER_ADDR"), value("WORLD_SIZE")),
            (Some("llama-0.llama.ml.svc"), Some("4"))
        );
        assert_eq!(
            environment
                .iter()
                .filter(|each| each.name == "MASTER_PORT")
                .count(),
            1,
            "the user's own wins"
        );
        assert_eq!(value("MASTER_PORT"), Some("1"));
    }

    /// Variables of the first container; `#` stands for the worker's index.
    fn variables(job: &Job) -> BTreeMap<String, String> {
        let spec = job.spec.clone().unwrap().template.spec.unwrap();
        let variables = spec.containers[0].env.clone().unwrap();
        let value = |each: &EnvVar| each.value.clone().unwrap_or_else(|| "#".to_owned());
        variables
            .iter()
            .map(|each| (each.name.clone(), value(each)))
            .collect()
    }

    #[test]
    fn each_role_has_a_job_and_ranks_count_on_from_role_to_role() {
        let template = json!({"spec": {"containers": [{"name": "w"}]}});
        let object: TrainingJob = serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "llama", "namespace": "ml", "uid": "u"},
            "spec": {"framework": "PyTorch", "restarts": 2, "roles": [
                {"name": "master", "replicas": 2, "template": template},
                {"name": "writer", "replicas": 1, "template": template},
                {"name": "worker", "replicas": 3, "template": template}]},
        }))
        .unwrap();
        let jobs = jobs(&object, &suffix(&object), false, 0);
        let ranks = |job: &Job| {
            let variables = variables(job);
            for (name, expected) in [
                ("MASTER_ADDR", "llama-master-0.llama.ml.svc"),
                ("WORLD_SIZE", "6"),
                ("PET_NNODES", "6"),
                ("BURSAR_ROLE_RANK", "#"),
            ] {
                assert_eq!(variables[name], expected);
            }
            let of = ["BURSAR_ROLE", "BURSAR_RANK_OFFSET", "RANK", "PET_NODE_RANK"];
            of.map(|name| variables.get(name).cloned().unwrap_or_default())
        };
        assert_eq!(ranks(&jobs[0].1), ["master", "0", "#", "#"]);
        assert_eq!(ranks(&jobs[1].1), ["writer", "2", "2", "2"]);
        // two nodes of rank 0 would hang
        assert_eq!(
            ranks(&jobs[2].1),
            ["worker", "3", "", "BURSAR_RANK_OFFSET+BURSAR_ROLE_RANK"]
        );
        for (role, job) in &jobs {
            assert_eq!(job.name_any(), format!("llama-{role}"));
            let spec = job.spec.as_ref().unwrap();
            let of_pods = spec.template.metadata.as_ref().unwrap().labels.clone();
            for labels in [job.labels(), &of_pods.unwrap()] {
                assert_eq!(labels["bursar.dev/role"], *role);
                assert_eq!(labels["bursar.dev/workload"], "llama");
            }
            let pod = spec.template.spec.as_ref().unwrap();
            assert_eq!(pod.subdomain.as_deref(), Some("llama"));
        }
        let worker = jobs[2].1.spec.as_ref().unwrap();
        assert_eq!(
            (worker.completions, worker.backoff_limit),
            (Some(3), Some(i32::MAX))
        );
    }
}
