//! The two forms of a TrainingJob: what the API server's rules refuse cannot be read either, and
//! both forms become roles.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::lenient::Validate;
use bursar_core::model::event::PodShape;
use serde_json::{Value, json};

fn job(name: &str, spec: Value) -> TrainingJob {
    let mut spec = spec;
    spec["framework"] = json!("PyTorch");
    serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "spec": spec,
        "metadata": {"name": name, "creationTimestamp": "2026-11-24T04:00:00Z"},
    }))
    .unwrap()
}

fn template(grace: i64, class: Option<&str>) -> Value {
    json!({"spec": {
        "terminationGracePeriodSeconds": grace, "priorityClassName": class, "containers": [],
    }})
}

fn role(name: &str, replicas: i32) -> Value {
    json!({"name": name, "replicas": replicas, "template": template(60, None)})
}

#[test]
fn what_the_rules_refuse_cannot_be_read() {
    let long = "a".repeat(41);
    let pod = template(30, None);
    for (name, spec, field) in [
        ("a", json!({}), "spec.replicas"),
        ("a", json!({"template": pod}), "spec.replicas"),
        ("a", json!({"replicas": 1}), "spec.template"),
        (
            "a",
            json!({"replicas": 0, "template": pod}),
            "spec.replicas",
        ),
        (
            "a",
            json!({"replicas": 1, "roles": [role("b", 1)]}),
            "spec.roles",
        ),
        (
            "a",
            json!({"template": pod, "roles": [role("b", 1)]}),
            "spec.roles",
        ),
        (
            "a",
            json!({"roles": [role("b", 1), role("b", 1)]}),
            "spec.roles[1].name",
        ),
        ("a", json!({"roles": [role("", 1)]}), "spec.roles[0].name"),
        ("a", json!({"roles": [role("B", 1)]}), "spec.roles[0].name"),
        (
            "a",
            json!({"roles": [role(&long[..21], 1)]}),
            "spec.roles[0].name",
        ),
        (
            &long,
            json!({"roles": [role(&long[..18], 1)]}),
            "spec.roles[0].name",
        ),
        (
            "a",
            json!({"roles": [role("b", 1), role("c", 0)]}),
            "spec.roles[1].replicas",
        ),
        (
            "a",
            json!({"roles": [role("b", 600), role("c", 401)]}),
            "spec.roles",
        ),
    ] {
        let fault = job(name, spec.clone()).validate().unwrap_err();
        assert_eq!(fault.field, field, "{spec}");
    }
    for (name, spec) in [
        ("a", json!({"replicas": 1000, "template": pod})),
        (&long[..40], json!({"roles": [role(&long[..18], 1)]})),
        ("a", json!({"roles": [role("b", 600), role("c", 400)]})),
    ] {
        assert_eq!(job(name, spec.clone()).validate(), Ok(()), "{spec}");
    }
}

#[test]
fn both_forms_become_roles_of_the_model() {
    let shape = Arc::new(PodShape::default());
    let roles = |job: &TrainingJob| {
        let core = job.to_core((7, 5), 3, |_| shape.clone()).unwrap();
        let priorities = (core.priority, core.cluster_priority);
        assert_eq!((priorities, core.seed), ((7, 5), 3));
        assert_eq!(core.created.to_string(), "2026-11-24T04:00:00Z");
        let roles = core.roles.into_iter();
        let roles = roles.map(|role| (role.name.to_string(), role.replicas, role.grace_seconds));
        roles.collect::<Vec<_>>()
    };
    let short = job(
        "a",
        json!({"replicas": 4, "template": template(30, Some("low"))}),
    );
    assert_eq!(roles(&short), [(String::new(), 4, 30)]);
    assert_eq!(
        (short.spec.workers(), short.spec.priority_class()),
        (4, Some("low"))
    );

    let mut worker = role("worker", 3);
    worker["template"] = template(90, Some("high"));
    let long = job("a", json!({"roles": [role("master", 1), worker]}));
    let expected = [("master".to_owned(), 1, 60), ("worker".to_owned(), 3, 90)];
    assert_eq!(roles(&long), expected);
    assert_eq!(
        (long.spec.workers(), long.spec.priority_class()),
        (4, Some("high"))
    );
    let mut own = long;
    own.spec.priority_class_name = Some("own".to_owned());
    assert_eq!(own.spec.priority_class(), Some("own"));
}
