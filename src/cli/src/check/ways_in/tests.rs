use bursar_apitest::Server;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn chat(mode: &str) -> InferenceDeployment {
    object(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
        "metadata": {"name": "chat", "namespace": "team", "uid": "u"},
        "spec": {
            "engine": "vLLM", "maxReplicas": 1, "activation": {"mode": mode},
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": []}},
        },
    }))
}

fn service(name: &str, owned: bool, spec: Value) -> Service {
    let owner = json!([{"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": "chat", "uid": "u"}]);
    let owners = if owned { owner } else { json!([]) };
    object(json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec}))
}

fn front(serving: &str, more: Value) -> Service {
    let mut spec = json!({
        "clusterIP": "10.0.0.1", "type": "ClusterIP", "internalTrafficPolicy": "Cluster",
        "selector": {KIND_LABEL: "InferenceDeployment", WORKLOAD_LABEL: "chat", SERVING_LABEL: serving},
    });
    let more = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    service("chat", true, spec)
}

fn slice(ready: bool) -> EndpointSlice {
    let labels = json!({GATEWAY_LABEL: "true", "kubernetes.io/service-name": "chat"});
    let endpoint = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": ready, "serving": true, "terminating": !ready}});
    object(json!({
        "metadata": {"name": "chat-bursar-gateway", "labels": labels}, "addressType": "IPv4",
        "endpoints": [endpoint, endpoint],
    }))
}

fn gateway(ready: &str) -> Pod {
    object(
        json!({"metadata": {"name": "g"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
    )
}

fn ingress(class: &str, annotations: Value) -> Ingress {
    let backend = json!({"service": {"name": "chat", "port": {"name": "http"}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    object(json!({
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"ingressClassName": class, "rules": [{"http": {"paths": [path]}}]},
    }))
}

/// A service in this mode of which everything is as it should be.
fn fine(mode: &str) -> Seen {
    let is_always = mode == "Always";
    let serving = if is_always {
        SERVED_BY_GATEWAYS
    } else {
        "true"
    };
    Seen {
        object: chat(mode),
        operator_namespace: "bursar-system".to_owned(),
        services: Ok(vec![front(serving, json!({}))]),
        slices: Ok(vec![slice(is_always)]),
        gateways: Ok(vec![gateway("True"), gateway("True")]),
        policies: Ok(Vec::new()),
        daemon_sets: Ok(vec!["kube-proxy".to_owned()]),
        ingresses: Ok(Vec::new()),
        classes: Ok(BTreeMap::new()),
        routes: Ok(Vec::new()),
        virtual_services: Ok(Vec::new()),
    }
}

/// What is found with this verdict, as one text.
fn found(seen: &Seen, wanted: Verdict) -> String {
    let found = findings(seen).into_iter();
    let found = found.filter(|(verdict, _)| *verdict == wanted);
    found
        .map(|(_, what)| what + "\n")
        .collect::<Vec<_>>()
        .concat()
}

fn hindered(seen: &Seen) -> String {
    found(seen, Verdict::Hindered)
}

#[test]
fn nothing_is_found_against_a_service_that_is_as_it_should_be() {
    for mode in ["OnDemand", "Always"] {
        let seen = fine(mode);
        assert_eq!(hindered(&seen), "", "{mode}");
        assert_eq!(found(&seen, Verdict::Unknown), "", "{mode}");
        let (text, wakes) = describe("team", "chat", &findings(&seen));
        assert!(wakes && text.contains("requests wake it"), "{text}");
    }
    assert!(hindered(&fine("Never")).contains("activation.mode is Never"));
}

#[test]
fn each_field_of_a_service_that_keeps_requests_from_waking_is_named() {
    for (field, why) in [
        (json!({"clusterIP": "None"}), "headless"),
        (
            json!({"internalTrafficPolicy": "Local"}),
            "internalTrafficPolicy: Local",
        ),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
            "externalTrafficPolicy: Local",
        ),
        (
            json!({"publishNotReadyAddresses": true}),
            "publishNotReadyAddresses",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            "no EndpointSlice names gateways for its Service's IPv6 address",
        ),
    ] {
        let mut seen = fine("OnDemand");
        seen.services = Ok(vec![front("true", field)]);
        let text = hindered(&seen);
        assert!(text.contains(why) && text.lines().count() == 1, "{text}");
    }
    let mut seen = fine("OnDemand");
    seen.services = Ok(vec![service(
        "chat",
        false,
        json!({"clusterIP": "10.0.0.1"}),
    )]);
    assert!(hindered(&seen).contains("somebody else's"));
    seen.services = Ok(Vec::new());
    assert!(hindered(&seen).contains("Service chat is not there"));
}

#[test]
fn a_service_that_has_not_switched_is_found_and_one_that_goes_back_is_unknown() {
    let mut seen = fine("Always");
    seen.services = Ok(vec![front("true", json!({}))]);
    seen.slices = Ok(vec![slice(false)]);
    let text = hindered(&seen);
    assert!(
        text.contains("selects the replicas") && text.contains("none of them ready"),
        "{text}"
    );
    let mut seen = fine("OnDemand");
    seen.services = Ok(vec![front(SERVED_BY_GATEWAYS, json!({}))]);
    assert!(found(&seen, Verdict::Unknown).contains("on its way back"));
}

#[test]
fn a_service_that_selects_no_pod_publishes_no_replica_that_loads() {
    let mut seen = fine("Always");
    let publishes = json!({"publishNotReadyAddresses": true});
    seen.services = Ok(vec![front(SERVED_BY_GATEWAYS, publishes.clone())]);
    assert_eq!(hindered(&seen), "");
    seen.services = Ok(vec![front("true", publishes)]);
    assert!(hindered(&seen).contains("publishNotReadyAddresses"));
}

#[test]
fn services_of_others_that_select_the_replicas_have_no_gateways() {
    let mut seen = fine("Always");
    let selector = json!({"app": "chat"});
    let all = seen.services.as_mut().unwrap();
    all.push(service(
        "public",
        false,
        json!({"type": "LoadBalancer", "clusterIP": "10.0.0.9", "selector": selector}),
    ));
    all.push(service(
        "metrics",
        false,
        json!({"clusterIP": "None", "selector": selector}),
    ));
    all.push(service(
        "elsewhere",
        false,
        json!({"clusterIP": "10.0.0.8", "selector": {"app": "other"}}),
    ));
    all.push(service(
        "chat-replicas",
        true,
        json!({"clusterIP": "None", "selector": selector}),
    ));
    all.push(service("none", false, json!({"clusterIP": "10.0.0.7"})));
    let text = hindered(&seen);
    assert!(
        text.contains("Service public (LoadBalancer)") && text.lines().count() == 1,
        "{text}"
    );
    assert!(found(&seen, Verdict::Note).contains("Service metrics (headless)"));
}

#[test]
fn gateways_and_their_slices_are_counted() {
    let mut seen = fine("OnDemand");
    seen.gateways = Ok(vec![gateway("False")]);
    seen.slices = Ok(Vec::new());
    let text = hindered(&seen);
    assert!(text.contains("0 of 1 gateways in bursar-system"), "{text}");
    assert!(text.contains("no EndpointSlice names gateways"), "{text}");
    let mut seen = fine("Always");
    seen.gateways = Ok(vec![gateway("True")]);
    assert!(found(&seen, Verdict::Note).contains("where it goes"));
}

#[test]
fn a_dataplane_that_nobody_knows_is_unknown_and_does_not_matter_where_gateways_are_ready() {
    for (names, verdict) in [
        (vec!["kube-proxy", "cilium"], Verdict::Wakes),
        (vec!["cilium"], Verdict::Wakes),
        (vec!["calico-node"], Verdict::Unknown),
        (vec![], Verdict::Unknown),
    ] {
        let names = names.into_iter().map(str::to_owned).collect();
        assert_eq!(dataplane(&Ok(names)).0, verdict);
    }
    let mut seen = fine("Always");
    seen.daemon_sets = Err("forbidden".to_owned());
    assert_eq!(found(&seen, Verdict::Unknown), "");
    let mut seen = fine("OnDemand");
    seen.daemon_sets = Err("forbidden".to_owned());
    assert!(found(&seen, Verdict::Unknown).contains("kube-system cannot be looked at: forbidden"));
}

#[test]
fn an_ingress_that_uses_ready_endpoints_wakes_by_gateways_that_are_ready_or_by_the_address() {
    let classes: BTreeMap<String, String> = [
        ("nginx", "k8s.io/ingress-nginx"),
        ("f5", "nginx.org/ingress-controller"),
        ("traefik", "traefik.io/ingress-controller"),
        ("other", "example.com/other"),
    ]
    .map(|(class, controller)| (class.to_owned(), controller.to_owned()))
    .into();
    let verdict = |mode: &str, class: &str, annotations: Value, service: Value| {
        let mut seen = fine(mode);
        seen.classes = Ok(classes.clone());
        seen.ingresses = Ok(vec![ingress(class, annotations)]);
        let own = &mut seen.services.as_mut().unwrap()[0];
        own.metadata.annotations = serde_json::from_value(service).unwrap();
        let all = findings(&seen);
        let mut of_ingress = all
            .iter()
            .filter(|(_, what)| what.starts_with("Ingress web"));
        let verdict = of_ingress.next().unwrap().0;
        assert_eq!(of_ingress.next(), None);
        verdict
    };
    let none = || json!({});
    let address = json!({"nginx.ingress.kubernetes.io/service-upstream": "true"});
    let of_f5 = json!({"nginx.org/use-cluster-ip": "true"});
    let native = json!({"traefik.ingress.kubernetes.io/service.nativelb": "true"});
    for (mode, class, annotations, service, expected) in [
        ("OnDemand", "nginx", none(), none(), Verdict::Hindered),
        ("OnDemand", "nginx", address.clone(), none(), Verdict::Wakes),
        ("OnDemand", "f5", of_f5.clone(), none(), Verdict::Wakes),
        // what another controller reads is left from a move
        ("OnDemand", "nginx", of_f5, none(), Verdict::Hindered),
        ("OnDemand", "f5", address.clone(), none(), Verdict::Hindered),
        (
            "OnDemand",
            "traefik",
            address.clone(),
            none(),
            Verdict::Hindered,
        ),
        ("OnDemand", "gone", address, none(), Verdict::Unknown),
        (
            "OnDemand",
            "nginx",
            none(),
            native.clone(),
            Verdict::Hindered,
        ),
        ("OnDemand", "traefik", none(), none(), Verdict::Hindered),
        ("OnDemand", "traefik", none(), native, Verdict::Wakes),
        ("OnDemand", "other", none(), none(), Verdict::Unknown),
        ("OnDemand", "gone", none(), none(), Verdict::Unknown),
        ("Always", "nginx", none(), none(), Verdict::Wakes),
        ("Always", "gone", none(), none(), Verdict::Wakes),
    ] {
        let case = format!("{mode} {class} {annotations} {service}");
        assert_eq!(
            verdict(mode, class, annotations, service),
            expected,
            "{case}"
        );
    }
    let mut seen = fine("OnDemand");
    let mut elsewhere = ingress("nginx", none());
    elsewhere.spec.as_mut().unwrap().rules = None;
    seen.ingresses = Ok(vec![elsewhere]);
    assert!(
        !findings(&seen)
            .iter()
            .any(|(_, what)| what.contains("Ingress"))
    );
}

#[test]
fn routes_of_the_gateway_api_are_unknown_and_those_of_istio_do_not_wake() {
    let route = json!({
        "metadata": {"name": "r"},
        "spec": {"rules": [{"backendRefs": [{"name": "other", "port": 80}, {"name": "chat", "port": 80}]}]},
    });
    let virtual_service = json!({
        "metadata": {"name": "v"},
        "spec": {"hosts": ["chat.example.com"], "http": [{"route": [{"destination": {"host": "chat.team.svc.cluster.local"}}]}]},
    });
    let elsewhere = json!({
        "metadata": {"name": "w"},
        "spec": {"http": [{"route": [{"destination": {"host": "chat.other.svc.cluster.local"}}]}]},
    });
    let mut seen = fine("OnDemand");
    seen.routes = Ok(vec![object(route.clone())]);
    seen.virtual_services = Ok(vec![object(virtual_service.clone()), object(elsewhere)]);
    assert!(found(&seen, Verdict::Unknown).contains("HTTPRoute r"));
    let text = hindered(&seen);
    assert!(
        text.contains("VirtualService v") && !text.contains("VirtualService w"),
        "{text}"
    );
    let mut seen = fine("Always");
    seen.routes = Ok(vec![object(route)]);
    seen.virtual_services = Ok(vec![object(virtual_service)]);
    let wakes = found(&seen, Verdict::Wakes);
    assert!(
        wakes.contains("HTTPRoute r") && wakes.contains("VirtualService v"),
        "{wakes}"
    );
}

#[test]
fn policies_that_select_the_replicas_are_named_with_what_they_must_let_in() {
    let policy = |name: &str, selector: Value| -> NetworkPolicy {
        object(
            json!({"metadata": {"name": name}, "spec": {"podSelector": selector, "policyTypes": ["Ingress"]}}),
        )
    };
    let mut seen = fine("OnDemand");
    let expression = |operator: &str| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": ["chat"]}]});
    seen.policies = Ok(vec![
        policy("all", json!({})),
        policy("in", expression("In")),
        policy("not", expression("NotIn")),
        policy("other", json!({"matchLabels": {"app": "other"}})),
    ]);
    let notes = found(&seen, Verdict::Note);
    assert!(
        notes.contains("(all, in): they must let namespace bursar-system in, and say who wakes it"),
        "{notes}"
    );
    seen.object.spec.activation.allow_from = Some(Vec::new());
    let notes = found(&seen, Verdict::Note);
    assert!(
        notes.contains("allowFrom has 0 peers") && !notes.contains("say who"),
        "{notes}"
    );
}

#[test]
fn what_the_user_may_not_read_is_unknown_and_no_reason_to_fail() {
    let mut seen = fine("OnDemand");
    let forbidden = || "forbidden".to_owned();
    seen.services = Err(forbidden());
    seen.slices = Err(forbidden());
    seen.gateways = Err(forbidden());
    seen.policies = Err(forbidden());
    seen.daemon_sets = Err(forbidden());
    seen.ingresses = Err(forbidden());
    seen.classes = Err(forbidden());
    seen.routes = Err(forbidden());
    seen.virtual_services = Err(forbidden());
    assert_eq!(found(&seen, Verdict::Unknown).lines().count(), 8);
    let (text, wakes) = describe("team", "chat", &findings(&seen));
    assert!(wakes && text.contains("8 unknown"), "{text}");
}

#[tokio::test]
async fn the_cluster_is_asked_and_conditions_of_the_service_are_findings() {
    let server = Server::new(&["team", "bursar-system", "kube-system"]);
    let api: Api<InferenceDeployment> = Api::namespaced(server.client(), "team");
    let created = api
        .create(&PostParams::default(), &chat("OnDemand"))
        .await
        .unwrap();
    let condition = json!({
        "type": REQUESTS_WAKE, "status": "False", "reason": "ServiceHeadless", "message": "it is headless",
        "lastTransitionTime": "2026-11-28T12:00:00Z",
    });
    let status = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    api.patch_status("chat", &PatchParams::default(), &status)
        .await
        .unwrap();
    let mut service = front("true", json!({}));
    let owner = created.controller_owner_ref(&()).unwrap();
    service.metadata.owner_references = Some(vec![owner]);
    let services: Api<Service> = Api::namespaced(server.client(), "team");
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let client = server.client();
    let (text, wakes) = run(&client, ("team", "chat"), "bursar-system")
        .await
        .unwrap();
    assert!(!wakes);
    for line in [
        "InferenceDeployment team/chat\n",
        "  NO       condition RequestsWake: it is headless\n",
        "  ok       Service chat (10.0.0.1) is as it should be\n",
        "  NO       no EndpointSlice names gateways for its Service's IPv4 address\n",
        "  NO       0 of 0 gateways in bursar-system are ready\n",
        "3 of these keep requests from waking it;",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let gone = run(&client, ("team", "gone"), "bursar-system").await;
    assert!(gone.unwrap_err().contains("not found"));
}

/// An adopted service of which everything is as it should be.
fn adopted() -> Seen {
    let target = json!({"uid": "t", "podLabels": {"app": "old"}});
    let chat = object(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
        "metadata": {"name": "chat", "namespace": "team", "uid": "u"},
        "spec": {
            "engine": "vLLM", "maxReplicas": 1, "serviceRef": {"name": "front"},
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "old"},
        },
        "status": {"target": target},
    }));
    let spec = json!({"clusterIP": "10.0.0.1", "selector": {"app": "old", SERVING_LABEL: "true"}});
    Seen {
        object: chat,
        services: Ok(vec![service("front", false, spec)]),
        ..fine("OnDemand")
    }
}

#[test]
fn requests_come_to_an_adopted_service_by_its_service_ref() {
    let seen = adopted();
    assert_eq!(hindered(&seen), "");
    assert!(found(&seen, Verdict::Wakes).contains("Service front (10.0.0.1)"));

    let mut seen = adopted();
    seen.services = Ok(Vec::new());
    assert!(hindered(&seen).contains("Service front of the serviceRef is not there"));
    seen.object.spec.service_ref = None;
    assert!(hindered(&seen).contains("no serviceRef"));

    let mut seen = adopted();
    let other = json!({"clusterIP": "10.0.0.2", "selector": {"app": "old"}});
    seen.services
        .as_mut()
        .unwrap()
        .push(service("other", false, other));
    assert!(hindered(&seen).contains("Service other (ClusterIP) selects the replicas itself"));
}

#[test]
fn what_holds_an_adopted_service_up_is_named_and_what_it_cannot_have_is_not_advised() {
    let mut seen = adopted();
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "False", "reason": "R", "message": format!("{kind} is not so"),
            "lastTransitionTime": "2026-11-01T00:00:00Z",
        })
    };
    let conditions = ["TargetReady", "ReplicasDrain"].map(condition);
    let status = seen.object.status.as_mut().unwrap();
    status.conditions = object(json!(conditions));
    assert!(hindered(&seen).contains("condition TargetReady: TargetReady is not so"));
    assert!(found(&seen, Verdict::Note).contains("condition ReplicasDrain"));

    let mut web = ingress("nginx", json!({}));
    let spec = web.spec.as_mut().unwrap();
    let paths = &mut spec.rules.as_mut().unwrap()[0].http.as_mut().unwrap().paths;
    paths[0].backend.service.as_mut().unwrap().name = "front".to_owned();
    let mut seen = adopted();
    seen.classes = Ok([("nginx".to_owned(), "k8s.io/ingress-nginx".to_owned())].into());
    seen.ingresses = Ok(vec![web]);
    let text = hindered(&seen);
    assert!(text.contains("send to the Service's address"), "{text}");
}
