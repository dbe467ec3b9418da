//! The Service of a `serviceRef`: by which of its ports requests come, and what keeps them from waking.

use bursar_api::conditions::{Reason, requests_wake};
use bursar_api::inference::ServiceRef;
use bursar_api::names::{SERVING_LABEL, WORKLOAD_LABEL};
use bursar_api::template::containers;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::inference::build::Family;

/// A Service whose requests go to gateways while no replica is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrontService {
    pub(crate) name: String,
    /// The name of its port, if it has one: endpoints name it.
    pub(crate) port_name: Option<String>,
    /// The families of its addresses.
    pub(crate) families: Vec<Family>,
    /// It selects pods by the serving label, which a leaving replica loses.
    pub(crate) selects_serving: bool,
    /// What keeps some of its requests from waking.
    pub(crate) warning: Option<ServiceProblem>,
}

/// Why requests that come by a Service wake nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceProblem {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl ServiceProblem {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// What a Service says of the way of requests to pods of this template.
///
/// # Errors
/// Gateways cannot be endpoints of it, and why.
pub(super) fn front(
    found: &Service,
    reference: &ServiceRef,
    template: &PodTemplateSpec,
    engine_port: u16,
) -> Result<FrontService, ServiceProblem> {
    let nothing = ServiceSpec::default();
    let (name, spec) = (found.name_any(), found.spec.as_ref().unwrap_or(&nothing));
    let without_pods = |what: &str| {
        let why = format!(
            "Service {name} {what}, so requests that come by it wake nothing: name a Service with a selector and an address in serviceRef"
        );
        Err(ServiceProblem::new(
            requests_wake::SERVICE_WITHOUT_PODS,
            why,
        ))
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return without_pods("is of type ExternalName");
    }
    let Some(selector) = spec.selector.as_ref().filter(|labels| !labels.is_empty()) else {
        return without_pods("has no selector");
    };
    if spec.cluster_ip.as_deref() == Some("None") {
        let why = format!(
            "Service {name} is headless, so clients connect to replicas, and to nothing while there is none: name a Service with an address in serviceRef"
        );
        return Err(ServiceProblem::new(requests_wake::SERVICE_HEADLESS, why));
    }
    let is_bursars = found.labels().contains_key(WORKLOAD_LABEL);
    let metadata = template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    let is_of_template = |(label, value): (&String, &String)| {
        label == SERVING_LABEL || labels.is_some_and(|labels| labels.get(label) == Some(value))
    };
    if is_bursars || !selector.iter().all(is_of_template) {
        return without_pods("does not select the pods of the target");
    }
    let port = port(&name, spec, reference)?;
    let target = target_port(port, template);
    if target.is_some_and(|target| target != engine_port) {
        let target = target.unwrap_or_default();
        let why = format!(
            "Service {name} sends requests to port {target} of its pods, and the engine's is {engine_port}: set engineOptions.port to {target}, or serviceRef.port to the port of the engine"
        );
        return Err(ServiceProblem::new(
            requests_wake::SERVICE_PORT_DIFFERS,
            why,
        ));
    }
    Ok(FrontService {
        port_name: port.name.clone(),
        families: Family::of(spec),
        selects_serving: selector
            .get(SERVING_LABEL)
            .is_some_and(|value| value == "true"),
        warning: warning(&name, spec),
        name,
    })
}

/// The port by which requests come.
fn port<'a>(
    name: &str,
    spec: &'a ServiceSpec,
    reference: &ServiceRef,
) -> Result<&'a ServicePort, ServiceProblem> {
    let is_tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let ports: Vec<&ServicePort> = spec.ports.iter().flatten().filter(is_tcp).collect();
    let unknown = |why: String| {
        Err(ServiceProblem::new(
            requests_wake::SERVICE_PORT_UNKNOWN,
            why,
        ))
    };
    match (&reference.port, &ports[..]) {
        (None, [only]) => Ok(only),
        (None, _) => unknown(format!(
            "Service {name} has {} ports of TCP: name the one by which requests come in serviceRef.port",
            ports.len()
        )),
        (Some(wanted), _) => {
            let is_it = |port: &&&ServicePort| {
                port.name.as_ref() == Some(wanted) || port.port.to_string() == *wanted
            };
            match ports.iter().find(is_it) {
                Some(found) => Ok(found),
                None => unknown(format!(
                    "Service {name} has no port {wanted} of TCP: correct serviceRef.port"
                )),
            }
        }
    }
}

/// The port of pods to which a Service's port leads; `None` if no container gives it that name.
fn target_port(port: &ServicePort, template: &PodTemplateSpec) -> Option<u16> {
    match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let mut ports = containers(template)
                .iter()
                .flat_map(|container| container.ports.iter().flatten());
            let named = ports.find(|port| port.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()
        }
    }
}

fn warning(name: &str, spec: &ServiceSpec) -> Option<ServiceProblem> {
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let why = format!(
            "Service {name} has internalTrafficPolicy: Local, so only clients on the nodes of gateways reach one: set it to Cluster"
        );
        return Some(ServiceProblem::new(
            requests_wake::LOCAL_TRAFFIC_POLICY,
            why,
        ));
    }
    let publishes = spec.publish_not_ready_addresses == Some(true);
    publishes.then(|| {
        let why = format!("Service {name} has publishNotReadyAddresses, so requests go to replicas that still load their model, and are refused: take it out");
        ServiceProblem::new(requests_wake::NOT_READY_PUBLISHED, why)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, port: Option<&str>) -> Result<FrontService, String> {
        let service = serde_json::from_value(json!({"metadata": {"name": "old"}, "spec": spec}));
        let containers = json!([{"name": "c", "ports": [{"name": "api", "containerPort": 8000}]}]);
        let labels = json!({"labels": {"app": "old", "more": "labels"}});
        let template = json!({"metadata": labels, "spec": {"containers": containers}});
        let template = serde_json::from_value(template).unwrap();
        let reference = ServiceRef {
            name: "old".to_owned(),
            port: port.map(str::to_owned),
        };
        let front = front(&service.unwrap(), &reference, &template, 8000);
        front.map_err(|problem| problem.reason.as_str().to_owned())
    }

    #[test]
    fn a_service_that_cannot_have_gateways_as_endpoints_is_refused_with_the_reason() {
        let selector = json!({"app": "old"});
        for (spec, reason) in [
            (
                json!({"selector": {"app": "payments"}, "ports": [{"port": 8000}]}),
                "ServiceWithoutPods",
            ),
            (json!({"type": "ExternalName"}), "ServiceWithoutPods"),
            (json!({"ports": [{"port": 80}]}), "ServiceWithoutPods"),
            (
                json!({"selector": selector, "clusterIP": "None"}),
                "ServiceHeadless",
            ),
            (
                json!({"selector": selector, "ports": [{"port": 8000}, {"port": 81, "name": "b"}]}),
                "ServicePortUnknown",
            ),
            (
                json!({"selector": selector, "ports": [{"port": 80}]}),
                "ServicePortDiffers",
            ),
            (
                json!({"selector": selector, "ports": [{"port": 8000, "protocol": "UDP"}]}),
                "ServicePortUnknown",
            ),
        ] {
            assert_eq!(read(spec.clone(), None), Err(reason.to_owned()), "{spec}");
        }
    }

    #[test]
    fn the_port_is_found_by_its_name_and_its_number_and_by_names_of_containers() {
        let ports =
            json!([{"name": "http", "port": 80, "targetPort": "api"}, {"name": "m", "port": 81}]);
        let spec =
            json!({"selector": {"app": "old", "bursar.dev/serving": "true"}, "ports": ports});
        for port in ["http", "80"] {
            let front = read(spec.clone(), Some(port)).unwrap();
            assert_eq!(front.port_name.as_deref(), Some("http"));
            assert!(front.selects_serving);
        }
        let missing = read(spec, Some("https"));
        assert_eq!(missing, Err("ServicePortUnknown".to_owned()));
    }
}
