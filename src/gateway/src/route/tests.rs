//! Which replicas and which port a service has, whatever others write.

use serde_json::{Value, json};

use super::*;

fn key(namespace: &str, name: &str) -> ServiceKey {
    (namespace.to_owned(), name.to_owned())
}

fn service(namespace: &str, name: &str, port: Value) -> RoutedService {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}")},
        "spec": {"engine": "vLLM", "maxReplicas": 1},
        "status": {"activation": {"port": port}},
    }))
    .unwrap()
}

fn pod(namespace: &str, name: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"bursar.dev/workload": "chat", "bursar.dev/serving": "true"},
        },
        "status": {
            "phase": "Running", "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn apply_pod(routes: &mut RouteTable, pod: Value) {
    routes.apply_pod(&serde_json::from_value(pod).unwrap());
}

fn slice(file: Value) -> EndpointSlice {
    serde_json::from_value(file).unwrap()
}

/// A slice of gateways, named `chat-bursar-gateway`, that the object of this UID owns.
fn gateways(namespace: &str, owner: &str, port: u16, address: &str) -> EndpointSlice {
    let owner = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": "chat", "uid": owner});
    slice(json!({
        "metadata": {
            "name": "chat-bursar-gateway", "namespace": namespace, "ownerReferences": [owner],
            "labels": {"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat", "bursar.dev/gateway": "true"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": false}}],
        "ports": [{"name": "http", "port": port}],
    }))
}

#[test]
fn a_slice_that_somebody_wrote_takes_no_port_and_adds_no_replica() {
    let mut routes = RouteTable::default();
    routes.apply_service(&service("victim", "chat", json!(20_017)));
    routes.apply_service(&service("aaa", "chat", Value::Null));
    apply_pod(&mut routes, pod("victim", "chat-a", "10.0.1.1"));
    assert!(routes.assign_ports());
    let ports = BTreeMap::from([(20_017, key("victim", "chat"))]);
    assert_eq!(*routes.ports(), ports);
    let ready = vec!["10.0.1.1:8000".parse().unwrap()];
    let labels = json!({"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat", "bursar.dev/gateway": "true"});
    // by name, by owner, with and without the label of gateways; the addresses are a gateway's,
    // another tenant's pod, the metadata server and an API server
    let steal = json!({
        "metadata": {"name": "steal", "namespace": "aaa", "labels": labels}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.32.0.5"], "conditions": {"ready": false, "serving": true, "terminating": true}}],
        "ports": [{"name": "http", "port": 20_017}],
    });
    routes.apply_slice(&slice(steal));
    routes.apply_slice(&gateways("aaa", "aaa-chat", 20_017, "10.32.0.5"));
    for namespace in ["aaa", "victim"] {
        for address in ["10.0.9.9", "169.254.169.254", "10.96.0.1"] {
            routes.apply_slice(&slice(json!({
                "metadata": {"name": "chat-x", "namespace": namespace, "labels": {"bursar.dev/workload": "chat"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 443}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            })));
        }
    }
    assert!(!routes.assign_ports());
    assert_eq!(*routes.ports(), ports);
    assert_eq!(routes.route(&key("victim", "chat")).ready, ready);
    assert!(routes.route(&key("aaa", "chat")).ready.is_empty());
}

#[test]
fn a_gateway_is_listed_by_slices_that_a_service_owns_and_by_no_other() {
    let mut routes = RouteTable::default();
    let gateway = "10.32.0.5".parse().unwrap();
    routes.apply_service(&service("ns", "chat", json!(20_017)));
    routes.apply_slice(&gateways("ns", "another", 20_017, "10.32.0.5"));
    // there is no service of that namespace
    routes.apply_slice(&gateways("aaa", "ns-chat", 20_017, "10.32.0.5"));
    assert!(!routes.is_listed(&[gateway]));
    routes.apply_slice(&gateways("ns", "ns-chat", 20_017, "10.32.0.5"));
    let other: IpAddr = "10.32.0.6".parse().unwrap();
    assert!(routes.is_listed(&[other, gateway]));
    assert!(!routes.is_listed(&[other]));
    routes.delete_service(&key("ns", "chat"));
    assert!(!routes.is_listed(&[gateway]), "the service is gone");
}

#[test]
fn only_ready_pods_of_the_services_own_namespace_serve() {
    let mut routes = RouteTable::default();
    routes.apply_service(&service("ns", "chat", Value::Null));
    let set = |change: fn(&mut Value), name: &str, ip: &str| {
        let mut pod = pod("ns", name, ip);
        change(&mut pod);
        pod
    };
    let unready = |pod: &mut Value| pod["status"]["conditions"][0]["status"] = json!("False");
    let ended = |pod: &mut Value| pod["status"]["phase"] = json!("Failed");
    let ends = |pod: &mut Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-28T08:00:00Z");
    };
    apply_pod(&mut routes, pod("ns", "a", "10.0.1.1"));
    apply_pod(&mut routes, pod("ns", "b", "10.0.1.3"));
    apply_pod(&mut routes, pod("other", "a", "10.0.1.9"));
    apply_pod(&mut routes, set(unready, "c", "10.0.1.4"));
    // its address may be another tenant's pod's by now
    apply_pod(&mut routes, set(ended, "d", "10.0.1.5"));
    apply_pod(&mut routes, set(ends, "e", "10.0.1.6"));
    let ready = |routes: &RouteTable| -> Vec<String> {
        let route = routes.route(&key("ns", "chat"));
        route.ready.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ready(&routes), ["10.0.1.1:8000", "10.0.1.3:8000"]);
    apply_pod(&mut routes, set(unready, "a", "10.0.1.1"));
    assert_eq!(ready(&routes), ["10.0.1.3:8000"]);
    routes.retain_pods(&BTreeSet::new());
    assert!(ready(&routes).is_empty());
}

#[test]
fn a_service_that_cannot_be_read_keeps_its_port_and_its_replicas() {
    let mut routes = RouteTable::default();
    let probe = json!({"httpGet": {"path": "/", "port": 3_000_000_000u32}});
    let containers = json!([{"name": "engine", "livenessProbe": probe}]);
    let unreadable: RoutedService = serde_json::from_value(json!({
        "metadata": {"name": "chat", "namespace": "ns"},
        "spec": {"engine": "vLLM", "maxReplicas": 1, "template": {"spec": {"containers": containers}}},
        "status": {"activation": {"port": 20_017}},
    }))
    .unwrap();
    assert!(unreadable.readable().is_none());
    routes.apply_service(&unreadable);
    apply_pod(&mut routes, pod("ns", "a", "10.0.1.1"));
    assert!(routes.assign_ports());
    assert_eq!(routes.ports().get(&20_017), Some(&key("ns", "chat")));
    assert_eq!(routes.route(&key("ns", "chat")).ready.len(), 1);
}
