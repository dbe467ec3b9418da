//! `kubectl bursar check infd/NAME`: whether requests that come to a service at zero wake it, by each way
//! in that can be seen.
//!
//! What the user may not read is unknown, and said to be. `cluster` asks the API server, and `findings` says
//! what that means; the rules are those of docs/ingress.md.

mod cluster;
mod proxies;

use std::collections::BTreeMap;
use std::fmt::Write;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{
    PORT_ASSIGNED, REPLICAS_DRAIN, REPLICAS_REACHABLE, REQUESTS_WAKE, TARGET_READY,
};
use bursar_api::engine::Engine;
use bursar_api::inference::ActivationMode;
use bursar_api::lenient::Lenient;
use bursar_api::names::{
    GATEWAY_LABEL, KIND_LABEL, SERVED_BY_GATEWAYS, SERVING_LABEL, WORKLOAD_LABEL, replicas_service,
};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client, ResourceExt};

use self::cluster::{Read, Seen, front};
use crate::client::api_error;

/// The page that the findings follow.
const PAGE: &str = "docs/ingress.md";

/// What a finding means for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// They wake the service by this way.
    Wakes,
    /// They do not.
    Hindered,
    /// It cannot be seen.
    Unknown,
    /// It bears on it, and may be as it should.
    Note,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Wakes => "ok",
            Self::Hindered => "NO",
            Self::Unknown => "unknown",
            Self::Note => "note",
        }
    }
}

type Finding = (Verdict, String);

/// The findings about a service in words, and whether nothing that was seen keeps requests from waking
/// it.
pub(super) async fn run(
    client: &Client,
    (namespace, name): (&str, &str),
    operator_namespace: &str,
) -> Result<(String, bool), String> {
    let api: Api<Lenient<InferenceDeployment>> = Api::namespaced(client.clone(), namespace);
    let object = api.get(name).await.map_err(|error| api_error(&error))?;
    let object = object.into_result().map_err(|unreadable| {
        super::describe::<InferenceDeployment>(&unreadable)
            .trim_end()
            .to_owned()
    })?;
    if object.spec.engine == Engine::None {
        return Ok((without_requests(namespace, name), true));
    }
    let seen = cluster::read(client, object, namespace, operator_namespace).await;
    Ok(describe(namespace, name, &findings(&seen)))
}

/// What is said of a service without an engine.
fn without_requests(namespace: &str, name: &str) -> String {
    format!(
        "InferenceDeployment {namespace}/{name}\n  {:<8} engine is None: it takes no requests, and its signals start it\n",
        Verdict::Note.word()
    )
}

fn describe(namespace: &str, name: &str, findings: &[Finding]) -> (String, bool) {
    let mut text = format!("InferenceDeployment {namespace}/{name}\n");
    for (verdict, what) in findings {
        writeln!(text, "  {:<8} {what}", verdict.word()).ok();
    }
    let count = |wanted: Verdict| {
        findings
            .iter()
            .filter(|(verdict, _)| *verdict == wanted)
            .count()
    };
    let (hindered, unknown) = (count(Verdict::Hindered), count(Verdict::Unknown));
    let said = match (hindered, unknown) {
        (0, 0) => "requests wake it, as far as can be seen".to_owned(),
        (0, _) => format!("nothing that was seen keeps requests from waking it; {unknown} unknown"),
        _ => format!("{hindered} of these keep requests from waking it; {unknown} unknown"),
    };
    writeln!(text, "{said}. {PAGE} says which mode to choose").ok();
    (text, hindered == 0)
}

/// What all that was seen means.
fn findings(seen: &Seen) -> Vec<Finding> {
    let mut found = vec![mode(seen)];
    found.extend(conditions(seen));
    found.extend(services(seen));
    found.extend(slices(seen));
    found.push(gateways(seen));
    if !is_always(seen) {
        found.push(dataplane(&seen.daemon_sets));
    }
    found.extend(proxies::ingresses(seen));
    found.extend(proxies::routes(seen));
    found.extend(callers(seen));
    found
}

fn is_always(seen: &Seen) -> bool {
    seen.object.spec.activation.mode == ActivationMode::Always
}

fn unknown(what: &str, why: &str) -> Finding {
    (
        Verdict::Unknown,
        format!("{what} cannot be looked at: {why}"),
    )
}

fn mode(seen: &Seen) -> Finding {
    match seen.object.spec.activation.mode {
        ActivationMode::OnDemand => (
            Verdict::Note,
            "activation.mode is OnDemand: gateways are endpoints only while no replica is ready"
                .to_owned(),
        ),
        ActivationMode::Always => (
            Verdict::Note,
            "activation.mode is Always: all requests go through gateways".to_owned(),
        ),
        ActivationMode::Never => (
            Verdict::Hindered,
            "activation.mode is Never: requests are refused while no replica is ready".to_owned(),
        ),
    }
}

/// The conditions of the service that say that requests do not wake it, or do not get to a replica, and that replicas
/// which leave still get some.
fn conditions(seen: &Seen) -> impl Iterator<Item = Finding> {
    let status = seen.object.status.iter();
    let conditions = status.flat_map(|status| &status.conditions);
    let bad = conditions.filter(|condition| condition.status == "False");
    bad.filter_map(|condition| {
        let (kind, why) = (&*condition.type_, &condition.message);
        let verdict = match kind {
            REQUESTS_WAKE | PORT_ASSIGNED | REPLICAS_REACHABLE | TARGET_READY => Verdict::Hindered,
            REPLICAS_DRAIN => Verdict::Note,
            _ => return None,
        };
        Some((verdict, format!("condition {kind}: {why}")))
    })
}

/// What to do where something in front of the service uses ready endpoints alone.
fn instead(seen: &Seen) -> &'static str {
    match seen.object.spec.target_ref {
        Some(_) => {
            "let it send to the Service's address, since a targetRef has no activation.mode: Always"
        }
        None => "set activation.mode: Always",
    }
}

/// The labels of replicas. Those of a target's template are in the status once it was read.
fn replica_labels(object: &InferenceDeployment) -> BTreeMap<String, String> {
    let template = object.spec.template.as_ref();
    let metadata = template.and_then(|template| template.metadata.as_ref());
    let own = metadata.and_then(|metadata| metadata.labels.clone());
    let status = object.status.as_ref();
    let target = status.and_then(|status| status.target.as_ref());
    let of_target = target.map(|target| target.pod_labels.clone());
    let mut labels = own.or(of_target).unwrap_or_default();
    let name = object.name_any();
    for (label, value) in [
        (KIND_LABEL, "InferenceDeployment"),
        (WORKLOAD_LABEL, &name),
        (SERVING_LABEL, "true"),
    ] {
        labels.insert(label.to_owned(), value.to_owned());
    }
    labels
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    (!selector.is_empty()).then_some(selector)
}

/// The Service by which requests come, and others that select its replicas.
fn services(seen: &Seen) -> Vec<Finding> {
    let all = match &seen.services {
        Ok(all) => all,
        Err(why) => return vec![unknown("Services", why)],
    };
    let labels = replica_labels(&seen.object);
    let Some(name) = front(&seen.object) else {
        let why =
            "there is no serviceRef, so requests wake nothing: name the Service by which they come";
        return vec![(Verdict::Hindered, why.to_owned())];
    };
    let own = all.iter().find(|service| service.name_any() == name);
    let has_target = seen.object.spec.target_ref.is_some();
    let mut found = match own {
        None if has_target => vec![(
            Verdict::Hindered,
            format!("Service {name} of the serviceRef is not there: create it"),
        )],
        None => vec![(
            Verdict::Hindered,
            format!("Service {name} is not there: a leader makes it, see PodsHealthy"),
        )],
        Some(service) => own_service(seen, service),
    };
    let others = all.iter().filter(|service| {
        let is_own = [name.clone(), replicas_service(&name)].contains(&service.name_any());
        let selects = |selector: &BTreeMap<String, String>| {
            let mut each = selector.iter();
            each.all(|(label, value)| labels.get(label) == Some(value))
        };
        !is_own && selector(service).is_some_and(selects)
    });
    found.extend(others.map(|service| {
        let spec = service.spec.clone().unwrap_or_default();
        let of_type = spec.type_.as_deref().unwrap_or("ClusterIP");
        let other = service.name_any();
        match spec.cluster_ip.as_deref() {
            Some("None") => (
                Verdict::Note,
                format!("Service {other} (headless) has the replicas alone: clients that resolve it wake nothing"),
            ),
            _ => (
                Verdict::Hindered,
                format!("Service {other} ({of_type}) selects the replicas itself: while none is ready, it has no endpoint. Send its clients to Service {name}"),
            ),
        }
    }));
    found
}

fn own_service(seen: &Seen, service: &Service) -> Vec<Finding> {
    let name = service.name_any();
    let spec = service.spec.clone().unwrap_or_default();
    let is_owned = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        Some(&owner.uid) == seen.object.metadata.uid.as_ref()
    };
    let has_target = seen.object.spec.target_ref.is_some();
    if !has_target && !service.owner_references().iter().any(is_owned) {
        return vec![(
            Verdict::Hindered,
            format!("Service {name} is somebody else's: rename it or the InferenceDeployment"),
        )];
    }
    let serving = selector(service).and_then(|selector| selector.get(SERVING_LABEL));
    let is_through_gateways = serving.is_some_and(|value| value == SERVED_BY_GATEWAYS);
    let mut found: Vec<Finding> = hindrances(&spec, is_through_gateways)
        .into_iter()
        .map(|why| (Verdict::Hindered, format!("Service {name} {why}")))
        .collect();
    let address = spec.cluster_ip.as_deref().unwrap_or("no address yet");
    match (is_always(seen), is_through_gateways) {
        (true, false) => found.push((
            Verdict::Hindered,
            format!("Service {name} selects the replicas though all requests should go through gateways: clients of ready endpoints do not wake it"),
        )),
        (false, true) => found.push((
            Verdict::Unknown,
            format!("Service {name} selects no pod: it is on its way back from activation.mode: Always"),
        )),
        _ if found.is_empty() => found.push((
            Verdict::Wakes,
            format!("Service {name} ({address}) is as it should be"),
        )),
        _ => {}
    }
    found
}

/// What of a Service's fields keeps requests from waking. One that leads to gateways selects no pod.
fn hindrances(spec: &ServiceSpec, is_through_gateways: bool) -> Vec<&'static str> {
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let is_exposed = spec
        .type_
        .as_deref()
        .is_some_and(|of_type| of_type != "ClusterIP");
    [
        (
            spec.cluster_ip.as_deref() == Some("None"),
            "is headless: clients connect to replicas, and to nothing while there is none. Delete it, and Bursar makes one with an address",
        ),
        (
            is_local(&spec.internal_traffic_policy),
            "has internalTrafficPolicy: Local: only clients on the nodes of gateways reach one",
        ),
        (
            is_exposed && is_local(&spec.external_traffic_policy),
            "has externalTrafficPolicy: Local: nodes without a gateway drop what comes from outside",
        ),
        (
            spec.publish_not_ready_addresses == Some(true) && !is_through_gateways,
            "has publishNotReadyAddresses: requests go to replicas that still load their model",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, why)| is_so.then_some(why))
    .collect()
}

/// The slices of gateways: one of each family that the Service has addresses of.
fn slices(seen: &Seen) -> Vec<Finding> {
    let all = match &seen.slices {
        Ok(all) => all,
        Err(why) => return vec![unknown("EndpointSlices", why)],
    };
    let Some(name) = front(&seen.object) else {
        return Vec::new();
    };
    let services = seen.services.iter().flatten();
    let mut own = services.filter(|service| service.name_any() == name);
    let spec = own.next().and_then(|service| service.spec.as_ref());
    let families = spec.and_then(|spec| spec.ip_families.clone());
    let families = families.unwrap_or_else(|| vec!["IPv4".to_owned()]);
    let of_family = |family: &String| {
        let mut of_gateways = all.iter().filter(|slice| {
            slice.labels().contains_key(GATEWAY_LABEL) && slice.address_type == *family
        });
        match of_gateways.next() {
            Some(slice) => slice_of(seen, slice),
            None => (
                Verdict::Hindered,
                format!("no EndpointSlice names gateways for its Service's {family} address"),
            ),
        }
    };
    families.iter().map(of_family).collect()
}

fn slice_of(seen: &Seen, slice: &EndpointSlice) -> Finding {
    let name = slice.name_any();
    let endpoints: Vec<_> = slice.endpoints.iter().flatten().collect();
    let ready = endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let (count, ready) = (endpoints.len(), ready.count());
    match (is_always(seen), count, ready) {
        (_, 0, _) => (
            Verdict::Hindered,
            format!("EndpointSlice {name} names no gateway"),
        ),
        (true, _, 0) => (
            Verdict::Hindered,
            format!(
                "EndpointSlice {name} has {count} gateways, none of them ready: clients of ready endpoints find none"
            ),
        ),
        (true, ..) => (
            Verdict::Wakes,
            format!("EndpointSlice {name} has {ready} gateways as ready endpoints"),
        ),
        (false, ..) => (
            Verdict::Wakes,
            format!("EndpointSlice {name} has {count} gateways as a last resort"),
        ),
    }
}

fn gateways(seen: &Seen) -> Finding {
    let namespace = &seen.operator_namespace;
    let pods = match &seen.gateways {
        Ok(pods) => pods,
        Err(why) => return unknown(&format!("pods of gateways in {namespace}"), why),
    };
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        conditions.any(|each| each.type_ == "Ready" && each.status == "True")
    };
    let (ready, all) = (pods.iter().filter(is_ready).count(), pods.len());
    let what = format!("{ready} of {all} gateways in {namespace} are ready");
    match ready {
        0 => (Verdict::Hindered, what),
        1 if is_always(seen) => (
            Verdict::Note,
            format!("{what}: where it goes, requests go to replicas directly, and wake nothing"),
        ),
        _ => (Verdict::Wakes, what),
    }
}

/// What sends requests of the Service's address to endpoints.
fn dataplane(daemon_sets: &Read<Vec<String>>) -> Finding {
    let names = match daemon_sets {
        Ok(names) => names,
        Err(why) => return unknown("the dataplane: DaemonSets of kube-system", why),
    };
    let runs = |name: &str| names.iter().any(|each| each == name);
    if runs("kube-proxy") {
        let what = "kube-proxy runs: it uses endpoints that terminate when none is ready";
        return (Verdict::Wakes, what.to_owned());
    }
    if runs("cilium") {
        let what = "Cilium runs in place of kube-proxy: it uses endpoints that terminate when none is ready, with Maglev since cilium/cilium#39743";
        return (Verdict::Wakes, what.to_owned());
    }
    let what = "neither kube-proxy nor Cilium is a DaemonSet of kube-system: whether the dataplane uses endpoints that terminate is not known. activation.mode: Always, which a service without a targetRef may have, needs none that does";
    (Verdict::Unknown, what.to_owned())
}

/// Who may reach the service by gateways.
fn callers(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let allow_from = seen.object.spec.activation.allow_from.as_ref();
    if let Some(peers) = allow_from {
        found.push((
            Verdict::Note,
            format!(
                "activation.allowFrom has {} peers: others get 403 and wake nothing",
                peers.len()
            ),
        ));
    }
    let policies = match &seen.policies {
        Ok(policies) => policies,
        Err(why) => {
            found.push(unknown("NetworkPolicies", why));
            return found;
        }
    };
    let labels = replica_labels(&seen.object);
    let selecting = policies.iter().filter(|policy| {
        let spec = policy.spec.as_ref();
        let types = spec.and_then(|spec| spec.policy_types.as_ref());
        let is_of_ingress = types.is_none_or(|types| types.iter().any(|each| each == "Ingress"));
        let pods = spec.and_then(|spec| spec.pod_selector.as_ref());
        is_of_ingress && spec.is_some() && pods.is_none_or(|pods| matches(pods, &labels))
    });
    let names: Vec<String> = selecting.map(ResourceExt::name_any).collect();
    if !names.is_empty() {
        let also = match allow_from {
            Some(_) => "",
            None => ", and say who wakes it: others get 403",
        };
        found.push((
            Verdict::Note,
            format!(
                "NetworkPolicies select its replicas ({}): they must let namespace {} in{also}",
                names.join(", "),
                seen.operator_namespace
            ),
        ));
    }
    found
}

/// Whether a selector selects these labels.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut equal = selector.match_labels.iter().flatten();
    let mut terms = selector.match_expressions.iter().flatten();
    equal.all(|(label, value)| labels.get(label) == Some(value))
        && terms.all(|term| {
            let value = labels.get(&term.key);
            let listed =
                value.is_some_and(|value| term.values.iter().flatten().any(|each| each == value));
            match term.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

#[cfg(test)]
mod tests;
