//! The kinds that the chart lists, by a manifest of each, and tables that cannot be read.

use bursar_api::inference::TargetRef;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::table::JobTargetKinds;
use super::target::{JobTarget, PodSet, check_manager, check_suspendable, pod_sets, target};
use crate::tests::kinds;

/// A pod template with so many GPUs.
fn template(gpus: u32) -> Value {
    let resources = json!({"limits": {"nvidia.com/gpu": gpus}});
    json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

fn reference(api_version: &str, kind: &str) -> TargetRef {
    TargetRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: "old".to_owned(),
    }
}

fn object(reference: &TargetRef, body: &Value) -> DynamicObject {
    let mut object = body.clone();
    object["apiVersion"] = json!(reference.api_version);
    object["kind"] = json!(reference.kind);
    object["metadata"]["name"] = json!("old");
    object["metadata"]["uid"] = json!("uid");
    serde_json::from_value(object).unwrap()
}

/// What is read of a manifest, but for the pods of what it makes.
fn read(reference: &TargetRef, body: &Value) -> JobTarget {
    let kinds = kinds();
    let kind = kinds.of(reference).unwrap();
    target(&object(reference, body), kind)
}

fn sets(reference: &TargetRef, body: &Value) -> Vec<PodSet> {
    let kinds = kinds();
    let kind = kinds.of(reference).unwrap();
    pod_sets(&object(reference, body).data, kind, reference).unwrap()
}

/// Name, number and GPUs of each pod set.
fn shapes(sets: &[PodSet]) -> Vec<(&str, u32, String)> {
    let shape = |set: &PodSet| {
        let spec = set.template.spec.as_ref()?;
        let limits = spec.containers[0].resources.as_ref()?.limits.as_ref()?;
        Some(limits["nvidia.com/gpu"].0.clone())
    };
    let shape = |set| (set, shape(set).unwrap_or_default());
    let shapes = sets.iter().map(shape);
    shapes
        .map(|(set, gpus)| (set.name.as_str(), set.count, gpus))
        .collect()
}

/// API version and kind, a manifest, its pod sets, and statuses of a job that ended well, failed and goes on.
type Sample = (
    &'static str,
    &'static str,
    Value,
    Vec<(&'static str, u32, &'static str)>,
    [Value; 3],
);

fn condition(kind: &str) -> Value {
    json!({"conditions": [{"type": "Running", "status": "True"}, {"type": kind, "status": "True", "reason": "Why"}]})
}

fn samples() -> Vec<Sample> {
    let goes_on = json!({"conditions": [{"type": "Failed", "status": "False"}, {"type": "Suspended", "status": "True"}]});
    let replica = |number: u32, gpus: u32| json!({"replicas": number, "template": template(gpus)});
    let replicated = |name: &str, replicas: u32, spec: Value| json!({"name": name, "replicas": replicas, "template": {"spec": spec}});
    let group = |name: &str, replicas: u32, hosts: u32| json!({"groupName": name, "replicas": replicas, "minReplicas": 0, "maxReplicas": 9, "numOfHosts": hosts, "rayStartParams": {}, "template": template(4)});
    let launcher = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    vec![
        (
            "batch/v1",
            "Job",
            json!({"spec": {"suspend": true, "parallelism": 4, "completions": 4, "template": template(8)}}),
            vec![("worker", 4, "8")],
            [condition("Complete"), condition("Failed"), goes_on.clone()],
        ),
        (
            "jobset.x-k8s.io/v1alpha2",
            "JobSet",
            json!({"spec": {"suspend": true, "replicatedJobs": [
                replicated("driver", 1, json!({"template": template(1)})),
                replicated("workers", 2, json!({"parallelism": 3, "completions": 3, "template": template(8)})),
            ]}}),
            vec![("driver", 1, "1"), ("workers", 6, "8")],
            [condition("Completed"), condition("Failed"), goes_on.clone()],
        ),
        (
            "kubeflow.org/v1",
            "PyTorchJob",
            json!({"spec": {"runPolicy": {"suspend": true}, "pytorchReplicaSpecs": {
                "Master": {"template": template(1)}, "Worker": replica(3, 8),
            }}}),
            vec![("master", 1, "1"), ("worker", 3, "8")],
            [condition("Succeeded"), condition("Failed"), goes_on.clone()],
        ),
        (
            "kubeflow.org/v2beta1",
            "MPIJob",
            json!({"spec": {"runPolicy": {"suspend": true}, "slotsPerWorker": 8, "mpiReplicaSpecs": {
                "Launcher": {"replicas": 1, "template": launcher}, "Worker": replica(2, 8),
            }}}),
            vec![("launcher", 1, ""), ("worker", 2, "8")],
            [condition("Succeeded"), condition("Failed"), goes_on.clone()],
        ),
        (
            "ray.io/v1",
            "RayJob",
            json!({"spec": {"suspend": true, "submitterPodTemplate": launcher, "rayClusterSpec": {
                "headGroupSpec": {"rayStartParams": {}, "template": template(1)},
                "workerGroupSpecs": [group("small", 2, 1), group("large", 1, 4), group("none", 0, 1)],
            }}}),
            vec![
                ("headgroup", 1, "1"),
                ("small", 2, "4"),
                ("large", 4, "4"),
                ("submitter", 1, ""),
            ],
            [
                json!({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}),
                json!({"jobDeploymentStatus": "ValidationFailed", "message": "Why"}),
                json!({"jobStatus": "FAILED", "jobDeploymentStatus": "Retrying"}),
            ],
        ),
        (
            "trainer.kubeflow.org/v1alpha1",
            "TrainJob",
            json!({"spec": {"suspend": true, "runtimeRef": {"name": "torch"}, "managedBy": "trainer.kubeflow.org/trainjob-controller"}}),
            vec![],
            [condition("Complete"), condition("Failed"), goes_on],
        ),
    ]
}

#[test]
fn a_manifest_of_each_kind_has_its_pods_its_suspension_and_its_end() {
    for (version, kind, body, expected, [succeeded, failed, goes_on]) in samples() {
        let reference = reference(version, kind);
        let found = read(&reference, &body);
        assert!(found.suspended, "{kind}");
        assert_eq!(found.resource.api_version, version, "{kind}");
        let resumed = found.suspend.with(json!(false));
        let mut running = body.clone();
        json_merge(&mut running, &resumed);
        assert_ne!(running, body, "{kind}");
        assert!(!read(&reference, &running).suspended, "{kind}");
        let with_status = |status: &Value| {
            let mut body = body.clone();
            body["status"] = status.clone();
            let end = read(&reference, &body).end;
            end.map(|end| (end.succeeded, end.why.contains("Why")))
        };
        assert_eq!(
            with_status(&succeeded).map(|end| end.0),
            Some(true),
            "{kind}"
        );
        assert_eq!(with_status(&failed), Some((false, true)), "{kind}");
        assert_eq!(with_status(&goes_on), None, "{kind}");
        if kind != "TrainJob" {
            let sets = sets(&reference, &body);
            let expected = expected.into_iter();
            let expected: Vec<_> = expected
                .map(|(name, number, gpus)| (name, number, gpus.to_owned()))
                .collect();
            assert_eq!(shapes(&sets), expected, "{kind}");
        }
    }
}

#[test]
fn workers_of_a_ray_job_count_as_many_as_its_smallest_cluster_has() {
    let reference = reference("ray.io/v1", "RayJob");
    let count = |replicas: Value, min_replicas: Value, hosts: u32| {
        let group = json!({"groupName": "g", "replicas": replicas, "minReplicas": min_replicas, "maxReplicas": 200, "numOfHosts": hosts, "template": template(1)});
        let head = json!({"template": template(0)});
        let cluster = json!({"headGroupSpec": head, "workerGroupSpecs": [group]});
        let sets = sets(&reference, &json!({"spec": {"rayClusterSpec": cluster}}));
        let workers = sets.iter().find(|set| set.name == "g");
        workers.map_or(0, |set| set.count)
    };
    assert_eq!(count(json!(0), json!(100), 2), 200);
    assert_eq!(count(json!(3), json!(1), 1), 3);
    assert_eq!(count(json!(0), json!(0), 1), 0);
    assert_eq!(count(Value::Null, json!(4), 1), 4);
    assert_eq!(count(Value::Null, Value::Null, 1), 1);
}

#[test]
fn a_ray_job_whose_controller_refuses_to_suspend_it_is_seen() {
    let reference = reference("ray.io/v1", "RayJob");
    let kinds = kinds();
    let kind = kinds.of(&reference).unwrap();
    let unmet = |spec: Value| {
        let checked = check_suspendable(&json!({"spec": spec}), kind, &reference);
        checked.map_err(|problem| {
            assert_eq!(problem.reason.as_str(), "NotSuspendable");
            problem.message
        })
    };
    let ends = "shutdownAfterJobFinishes";
    assert_eq!(unmet(json!({ends: true})), Ok(()));
    assert_eq!(unmet(json!({ends: true, "clusterSelector": {}})), Ok(()));
    for spec in [json!({}), json!({ends: false}), json!({ends: "true"})] {
        let message = unmet(spec).unwrap_err();
        assert!(
            message.contains("only with spec.shutdownAfterJobFinishes: true"),
            "{message}"
        );
    }
    let message = unmet(json!({ends: true, "clusterSelector": {"a": "b"}})).unwrap_err();
    assert!(
        message.contains("only without spec.clusterSelector"),
        "{message}"
    );
}

fn json_merge(object: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value.is_object() {
            true => json_merge(&mut object[key], value),
            false => object[key] = value.clone(),
        }
    }
}

#[test]
fn a_row_of_work_items_needs_room_for_those_that_run_at_a_time() {
    let reference = reference("batch/v1", "Job");
    let job = |parallelism: Value, completions: Value| {
        let spec = json!({"parallelism": parallelism, "completions": completions, "template": template(1)});
        let set = sets(&reference, &json!({"spec": spec})).remove(0);
        let ended = |succeeded| set.ended(succeeded);
        (set.count, [ended(0), ended(2), ended(9), ended(10)])
    };
    assert_eq!(job(json!(4), json!(10)), (4, [0, 0, 3, 4]));
    assert_eq!(
        job(json!(4), json!(2)),
        (2, [0, 2, 2, 2]),
        "no more than have to end"
    );
    assert_eq!(
        job(json!(4), Value::Null),
        (4, [0, 2, 4, 4]),
        "a queue of its own"
    );
    assert_eq!(job(Value::Null, Value::Null), (1, [0, 1, 1, 1]));
}

#[test]
fn what_is_no_number_and_what_is_too_much_is_refused_with_its_reason() {
    let reference = reference("batch/v1", "Job");
    let kinds = kinds();
    let kind = kinds.of(&reference).unwrap();
    for (spec, expected) in [
        (
            json!({"parallelism": -1, "template": template(1)}),
            "parallelism of Job old is no number of pods",
        ),
        (
            json!({"parallelism": "4", "template": template(1)}),
            "parallelism of Job old is no number of pods",
        ),
        (
            json!({"parallelism": 1001, "template": template(1)}),
            "at most 1000",
        ),
        (
            json!({"parallelism": 0, "template": template(1)}),
            "no pod template",
        ),
        (json!({"parallelism": 1}), "no pod template"),
        (json!({"template": {"spec": 3}}), "cannot be read"),
    ] {
        let problem = pod_sets(&json!({"spec": spec}), kind, &reference).unwrap_err();
        assert_eq!(problem.reason.as_str(), "NoTemplates");
        assert!(problem.message.contains(expected), "{}", problem.message);
    }
}

#[test]
fn whoever_else_suspends_a_job_is_seen() {
    let own = [
        (
            "batch/v1",
            "Job",
            json!({"spec": {"managedBy": "kubernetes.io/job-controller"}}),
            None,
        ),
        ("batch/v1", "Job", json!({"spec": {"managedBy": ""}}), None),
        (
            "batch/v1",
            "Job",
            json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}}),
            Some("ManagedByKueue"),
        ),
        (
            "ray.io/v1",
            "RayJob",
            json!({"spec": {"managedBy": "kueue.x-k8s.io/multikueue"}}),
            Some("ManagedByKueue"),
        ),
        (
            "kubeflow.org/v1",
            "PyTorchJob",
            json!({"spec": {"runPolicy": {"managedBy": "example.com/mine"}}}),
            Some("ManagedByOther"),
        ),
        (
            "jobset.x-k8s.io/v1alpha2",
            "JobSet",
            owned("trainer.kubeflow.org/v1alpha1", "TrainJob"),
            Some("OwnedByOther"),
        ),
        (
            "batch/v1",
            "Job",
            owned("bursar.dev/v1alpha1", "TrainingJob"),
            Some("MadeByBursar"),
        ),
    ];
    for (version, kind, body, expected) in own {
        let reference = reference(version, kind);
        let kinds = kinds();
        let listed = kinds.of(&reference).unwrap();
        let checked = check_manager(&object(&reference, &body), listed, &reference);
        let reason = checked.err().map(|problem| problem.reason.as_str());
        assert_eq!(reason, expected, "{body}");
    }
}

fn owned(version: &str, kind: &str) -> Value {
    let owner =
        json!({"apiVersion": version, "kind": kind, "name": "o", "uid": "u", "controller": true});
    json!({"metadata": {"ownerReferences": [owner]}})
}

#[test]
fn a_table_that_cannot_be_read_names_the_entry_and_what_is_wrong() {
    let entry = |changes: Value| {
        let mut entry = json!({
            "apiGroup": "example.com", "version": "v1", "kind": "Train", "resource": "trains", "suspend": "spec.suspend",
            "podSets": [{"at": "spec", "name": "worker", "template": "template"}],
            "succeeded": [{"condition": "Done"}], "failed": [{"path": "status.phase", "values": ["Failed"]}],
        });
        for (key, value) in changes.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let parse = |entries: Value| entries.to_string().parse::<JobTargetKinds>();
    assert!(parse(json!([entry(json!({}))])).is_ok());
    assert_eq!(parse(json!([])), Ok(JobTargetKinds::default()));
    for (changes, expected) in [
        (json!({"suspend": "spec..suspend"}), "is no path"),
        (json!({"suspend": "$.spec[?(@.a)]"}), "is no path"),
        (json!({"suspend": "spec.paused"}), "ends in suspend"),
        (json!({"suspend": "metadata.suspend"}), "begins with spec"),
        (json!({"suspend": "suspend"}), "begins with spec"),
        (json!({"resource": "trains/status"}), "resource"),
        (json!({"version": ""}), "version"),
        (json!({"podSets": []}), "either podSets or podsOf"),
        (
            json!({"podSets": [{"at": "spec", "template": "template"}]}),
            "nameAt",
        ),
        (
            json!({"podSets": [{"at": "spec", "name": "No", "template": "template"}]}),
            "small letters",
        ),
        (
            json!({"suspendRequires": [{"path": "spec.a"}]}),
            "absent: true",
        ),
        (
            json!({"podSets": [{"at": "spec", "name": "w", "template": "t", "count": [[]]}]}),
            "lists of 1 to 4 paths",
        ),
        (json!({"succeeded": []}), "succeeded must say"),
        (
            json!({"failed": [{"path": "status.phase"}]}),
            "a path and values",
        ),
        (json!({"unknown": 1}), "unknown field"),
        (
            json!({"podsOf": {"apiGroup": "", "kind": "Gone"}, "podSets": []}),
            "podsOf names Gone",
        ),
    ] {
        let error = parse(json!([
            entry(json!({"kind": "First"})),
            entry(changes.clone())
        ]))
        .unwrap_err();
        assert!(error.starts_with("jobTargets[1] (Train): "), "{error}");
        assert!(error.contains(expected), "{changes}: {error}");
    }
    let twice = parse(json!([entry(json!({})), entry(json!({}))])).unwrap_err();
    assert!(twice.contains("listed twice"), "{twice}");
    assert!("no list".parse::<JobTargetKinds>().is_err());
}
