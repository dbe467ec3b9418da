//! The fields of owned Services and Jobs that Bursar sets: what of them somebody has edited, as the
//! patch that puts it back. Fields that Bursar leaves out are whoever's who sets them.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Map, Value, json};

use crate::api_calls::is_as_asked;

/// So many labels of a selector, and ports, are kept of a Service: more than any that Bursar makes has.
const KEPT: usize = 8;

/// The fields of a Job that say how many workers it has.
const WORKERS: [&str; 2] = ["completions", "parallelism"];

/// What of a Service's specification is compared, and how much of it.
pub(crate) fn compared_fields(spec: ServiceSpec) -> ServiceSpec {
    let selector = spec.selector.map(|selector| {
        let kept = selector.into_iter().take(KEPT);
        kept.collect()
    });
    let ports = spec.ports.map(|ports| {
        let kept = ports.into_iter().take(KEPT);
        kept.collect()
    });
    ServiceSpec {
        selector,
        ports,
        type_: spec.type_,
        cluster_ip: spec.cluster_ip.filter(|address| address == "None"),
        internal_traffic_policy: spec.internal_traffic_policy,
        publish_not_ready_addresses: spec.publish_not_ready_addresses,
        // nobody's edit: slices follow them
        ip_families: spec.ip_families,
        ..ServiceSpec::default()
    }
}

/// The patch that makes a Service what is `wanted` again; `None` if nobody has edited it.
pub(crate) fn service_patch(found: &Service, wanted: &Service) -> Option<Value> {
    let nothing = ServiceSpec::default();
    let found = found.spec.as_ref().unwrap_or(&nothing);
    let wanted = wanted.spec.as_ref().unwrap_or(&nothing);
    let mut fields = Map::new();
    if found.selector != wanted.selector {
        // null takes a label away that is not wanted
        let others = found.selector.iter().flatten();
        let mut selector: Map<String, Value> = others
            .map(|(label, _)| (label.clone(), Value::Null))
            .collect();
        let own = wanted.selector.iter().flatten();
        selector.extend(own.map(|(label, value)| (label.clone(), json!(value))));
        fields.insert("selector".to_owned(), Value::Object(selector));
    }
    let is_exposed = |spec: &ServiceSpec| {
        let of_type = spec.type_.as_deref();
        of_type.is_some_and(|of_type| of_type != "ClusterIP")
    };
    if is_exposed(found) && !is_exposed(wanted) {
        fields.insert("type".to_owned(), json!("ClusterIP"));
        fields.insert("externalName".to_owned(), Value::Null);
    }
    if ports(found) != ports(wanted) || fields.contains_key("type") {
        fields.insert("ports".to_owned(), json!(wanted.ports));
    }
    if internal_policy(found) != internal_policy(wanted) {
        let policy = json!(internal_policy(wanted));
        fields.insert("internalTrafficPolicy".to_owned(), policy);
    }
    if publishes_not_ready(found) != publishes_not_ready(wanted) {
        let publishes = json!(publishes_not_ready(wanted));
        fields.insert("publishNotReadyAddresses".to_owned(), publishes);
    }
    spec_patch(fields)
}

/// The ports without what the API server adds.
fn ports(spec: &ServiceSpec) -> Vec<(Option<&str>, i32, IntOrString, &str)> {
    let ports = spec.ports.iter().flatten();
    let port = |port: &'_ ServicePort| IntOrString::Int(port.port);
    ports
        .map(|each| {
            (
                each.name.as_deref(),
                each.port,
                each.target_port.clone().unwrap_or_else(|| port(each)),
                each.protocol.as_deref().unwrap_or("TCP"),
            )
        })
        .collect()
}

fn internal_policy(spec: &ServiceSpec) -> &str {
    spec.internal_traffic_policy.as_deref().unwrap_or("Cluster")
}

fn publishes_not_ready(spec: &ServiceSpec) -> bool {
    spec.publish_not_ready_addresses.unwrap_or(false)
}

/// The patch that makes a Job what is `wanted` again, but for whether it is suspended, which orders say:
/// how many workers it has, and how long it and its failures last. `None` if nobody has edited it. The
/// API server lets nobody edit the rest. A Job of an earlier version keeps what that one asked for besides
/// its workers.
pub(crate) fn job_patch(found: &Job, wanted: &Job) -> Option<Value> {
    let is_of_version = is_as_asked(found, wanted);
    let (found, wanted) = (found.spec.as_ref()?, wanted.spec.as_ref()?);
    let numbers = |spec: &JobSpec| {
        [
            ("completions", spec.completions.map(i64::from)),
            ("parallelism", spec.parallelism.map(i64::from)),
            ("backoffLimit", spec.backoff_limit.map(i64::from)),
            ("activeDeadlineSeconds", spec.active_deadline_seconds),
            (
                "ttlSecondsAfterFinished",
                spec.ttl_seconds_after_finished.map(i64::from),
            ),
        ]
    };
    let both = numbers(found).into_iter().zip(numbers(wanted));
    let edited = both.filter(|(found, wanted)| {
        let is_of_workers = WORKERS.contains(&found.0);
        found != wanted && (is_of_version || is_of_workers)
    });
    spec_patch(
        edited
            .map(|(_, (field, number))| (field.to_owned(), json!(number)))
            .collect(),
    )
}

/// Whether a patch of a Job says how many workers it has: the rest costs nothing.
pub(crate) fn concerns_workers(patch: &Value) -> bool {
    let mut workers = WORKERS.into_iter();
    workers.any(|field| patch["spec"].get(field).is_some())
}

fn spec_patch(fields: Map<String, Value>) -> Option<Value> {
    (!fields.is_empty()).then(|| json!({"spec": fields}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn wanted() -> Value {
        json!({
            "selector": {"a": "1", "b": "2"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8000}],
        })
    }

    /// What becomes of a Service with these fields beside those that are wanted.
    fn patch(edit: Value) -> Option<Value> {
        let mut found = wanted();
        let edit = edit.as_object().unwrap().clone();
        found.as_object_mut().unwrap().extend(edit);
        service_patch(&service(found), &service(wanted()))
    }

    #[test]
    fn defaults_of_the_api_server_and_fields_that_nobody_asks_for_are_no_edits() {
        let defaults = json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "targetPort": 8000, "protocol": "TCP"}],
            "trafficDistribution": "PreferClose",
        });
        assert_eq!(patch(defaults), None);
        let headless =
            json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"port": 1}]});
        let shown = json!({
            "clusterIP": "None", "publishNotReadyAddresses": true, "type": "ClusterIP",
            "ports": [{"port": 1, "targetPort": 1, "protocol": "TCP"}],
        });
        assert_eq!(service_patch(&service(shown), &service(headless)), None);
    }

    #[test]
    fn each_edit_is_put_back_alone() {
        let ports = || json!([{"name": "http", "port": 80, "targetPort": 8000}]);
        for (edit, expected) in [
            (
                json!({"selector": {"a": "1", "c": "3"}}),
                json!({"selector": {"a": "1", "b": "2", "c": null}}),
            ),
            (
                json!({"selector": null}),
                json!({"selector": {"a": "1", "b": "2"}}),
            ),
            (
                json!({"ports": [{"name": "http", "port": 80, "targetPort": 9}]}),
                json!({"ports": ports()}),
            ),
            (
                json!({"ports": [{"name": "http", "port": 80, "targetPort": 8000, "protocol": "UDP"}]}),
                json!({"ports": ports()}),
            ),
            (
                json!({"internalTrafficPolicy": "Local"}),
                json!({"internalTrafficPolicy": "Cluster"}),
            ),
            (
                json!({"publishNotReadyAddresses": true}),
                json!({"publishNotReadyAddresses": false}),
            ),
            (
                json!({"type": "ExternalName", "externalName": "elsewhere.example"}),
                json!({"type": "ClusterIP", "externalName": null, "ports": ports()}),
            ),
        ] {
            assert_eq!(
                patch(edit.clone()),
                Some(json!({"spec": expected})),
                "{edit}"
            );
        }
    }

    #[test]
    fn what_is_kept_of_a_service_still_shows_each_edit_and_is_bounded() {
        let many: Map<String, Value> = (0..1000).map(|n| (format!("l{n}"), json!("v"))).collect();
        let ports: Vec<Value> = (1..1000).map(|port| json!({"port": port})).collect();
        let huge =
            service(json!({"selector": many, "ports": ports, "externalName": "x".repeat(1000)}));
        let kept = compared_fields(huge.spec.unwrap());
        assert!(serde_json::to_string(&kept).unwrap().len() < 1000);
        let found = Service {
            spec: Some(kept),
            ..Service::default()
        };
        assert!(service_patch(&found, &service(wanted())).is_some());
        let same = compared_fields(service(wanted()).spec.unwrap());
        let same = Service {
            spec: Some(same),
            ..Service::default()
        };
        assert_eq!(service_patch(&same, &service(wanted())), None);
    }

    #[test]
    fn the_workers_of_a_job_are_put_back_and_its_suspension_is_nobodys_edit() {
        let job = |spec: Value| -> Job { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let template = json!({"spec": {"containers": []}});
        let wanted = job(
            json!({"completions": 2, "parallelism": 2, "backoffLimit": 7, "suspend": true, "template": template}),
        );
        let same = json!({"completions": 2, "parallelism": 2, "backoffLimit": 7, "suspend": false, "manualSelector": false, "template": template});
        assert_eq!(job_patch(&job(same), &wanted), None);
        let edited = json!({"completions": 64, "parallelism": 64, "backoffLimit": 7, "activeDeadlineSeconds": 5, "ttlSecondsAfterFinished": 0, "template": template});
        let patch = json!({"spec": {"completions": 2, "parallelism": 2, "activeDeadlineSeconds": null, "ttlSecondsAfterFinished": null}});
        let edited = job(edited);
        assert_eq!(job_patch(&edited, &wanted), Some(patch));
        let mut newer = wanted.clone();
        newer.metadata.annotations =
            Some([("bursar.dev/spec-hash".to_owned(), "2".to_owned())].into());
        let workers = json!({"spec": {"completions": 2, "parallelism": 2}});
        assert_eq!(
            job_patch(&edited, &newer),
            Some(workers),
            "of an earlier version"
        );
    }
}
