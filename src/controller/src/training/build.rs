//! The objects that a TrainingJob owns. Needs no client and cannot fail.

use bursar_api::TrainingJob;
use bursar_api::spend::WorkloadKind;
use bursar_api::training::Framework;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, ObjectFieldSelector, PodTemplateSpec, Service, ServicePort, ServiceSpec,
};
use kube::ResourceExt;

use crate::inference::build::{labels, metadata};

/// torchrun's default port.
const MASTER_PORT: i32 = 29_500;
/// Kubernetes' annotation with a worker's index.
const INDEX: &str = "metadata.annotations['batch.kubernetes.io/job-completion-index']";

/// One Indexed Job for the gang. A failed worker is replaced only once it is gone, so that two never hold one rank.
pub(crate) fn job(object: &TrainingJob, suspend: bool) -> Job {
    let workers = object.spec.replicas;
    let mut spec = JobSpec {
        completion_mode: Some("Indexed".to_owned()),
        completions: Some(workers),
        parallelism: Some(workers),
        // one restart of the gang fails all its workers
        backoff_limit: Some(object.spec.restarts.saturating_mul(workers)),
        pod_replacement_policy: Some("Failed".to_owned()),
        template: template(object),
        ..JobSpec::default()
    };
    let metadata = metadata(object, object.name_any(), WorkloadKind::TrainingJob, &spec);
    spec.suspend = Some(suspend);
    Job {
        metadata,
        spec: Some(spec),
        status: None,
    }
}

fn template(object: &TrainingJob) -> PodTemplateSpec {
    let name = object.name_any();
    let mut template = object.spec.template.clone();
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .extend(labels(WorkloadKind::TrainingJob, &name));
    let spec = template.spec.get_or_insert_default();
    spec.restart_policy = Some("Never".to_owned());
    spec.subdomain = Some(name.clone());
    if object.spec.priority_class_name.is_some() {
        spec.priority_class_name = object.spec.priority_class_name.clone();
    }
    let environment = environment(object, &name);
    for container in &mut spec.containers {
        let own = container.env.get_or_insert_default();
        let missing: Vec<EnvVar> = environment
            .iter()
            .filter(|variable| !own.iter().any(|each| each.name == variable.name))
            .cloned()
            .collect();
        // first, so that the user's own variables can refer to them
        own.splice(0..0, missing);
    }
    template
}

/// The variables by which the workers of the job's framework find each other.
fn environment(object: &TrainingJob, name: &str) -> Vec<EnvVar> {
    match object.spec.framework {
        Framework::PyTorch => torchrun_environment(object, name),
    }
}

/// The variables of `torchrun` and `torch.distributed`: <https://docs.pytorch.org/docs/stable/elastic/run.html>.
fn torchrun_environment(object: &TrainingJob, name: &str) -> Vec<EnvVar> {
    let namespace = object.namespace().unwrap_or_default();
    let value = |key: &str, value: String| EnvVar {
        name: key.to_owned(),
        value: Some(value),
        ..EnvVar::default()
    };
    let index = |key: &str| EnvVar {
        name: key.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: INDEX.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let (address, port, workers) = (
        format!("{name}-0.{name}.{namespace}.svc"),
        MASTER_PORT.to_string(),
        object.spec.replicas.to_string(),
    );
    vec![
        value("MASTER_ADDR", address.clone()),
        value("MASTER_PORT", port.clone()),
        value("WORLD_SIZE", workers.clone()),
        index("RANK"),
        value("PET_MASTER_ADDR", address),
        value("PET_MASTER_PORT", port),
        value("PET_NNODES", workers),
        index("PET_NODE_RANK"),
    ]
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
            port: MASTER_PORT,
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
    use serde_json::json;

    use super::*;

    /// Made by the first version of Bursar.
    const SHORT_FORM_JOB: &str = concat!(
        r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"annotations":{"bursar.dev/spec-hash":"3acc032cc2a6229e"},"#,
        r#""labels":{"app.kubernetes.io/managed-by":"bursar","bursar.dev/kind":"TrainingJob","bursar.dev/workload":"llama"},"#,
        r#""name":"llama","namespace":"ml","ownerReferences":[{"apiVersion":"bursar.dev/v1alpha1","controller":true,"#,
        r#""kind":"TrainingJob","name":"llama","uid":"u"}]},"spec":{"backoffLimit":8,"completionMode":"Indexed","#,
        r#""completions":4,"parallelism":4,"podReplacementPolicy":"Failed","suspend":true,"template":{"metadata":{"labels":{"#,
        r#""bursar.dev/kind":"TrainingJob","bursar.dev/workload":"llama","team":"nlp"}},"spec":{"containers":[{"env":["#,
        r#"{"name":"MASTER_ADDR","value":"llama-0.llama.ml.svc"},{"name":"WORLD_SIZE","value":"4"},{"name":"RANK","valueFrom":"#,
        r#"{"fieldRef":{"fieldPath":"metadata.annotations['batch.kubernetes.io/job-completion-index']"}}},"#,
        r#"{"name":"PET_MASTER_ADDR","value":"llama-0.llama.ml.svc"},{"name":"PET_MASTER_PORT","value":"29500"},"#,
        r#"{"name":"PET_NNODES","value":"4"},{"name":"PET_NODE_RANK","valueFrom":"#,
        r#"{"fieldRef":{"fieldPath":"metadata.annotations['batch.kubernetes.io/job-completion-index']"}}},"#,
        r#"{"name":"MASTER_PORT","value":"1"}],"image":"i","name":"w","resources":{"limits":{"nvidia.com/gpu":"1"}}}],"#,
        r#""nodeSelector":{"pool":"a"},"priorityClassName":"high","restartPolicy":"Never","subdomain":"llama","#,
        r#""terminationGracePeriodSeconds":60}}}}"#
    );

    /// An upgrade of Bursar changes no Job that runs: its template is immutable.
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
            serde_json::to_string(&job(&object, true)).unwrap(),
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
        let spec = job(&object, true).spec.unwrap();
        assert_eq!(
            (
                spec.completions,
                spec.parallelism,
                spec.backoff_limit,
                spec.suspend
            ),
            (Some(4), Some(4), Some(8), Some(true))
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
}
