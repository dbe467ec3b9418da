//! The objects that an InferenceDeployment owns. Needs no client and cannot fail.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bursar_api::InferenceDeployment;
use bursar_api::engine::EngineSettings;
use bursar_api::names::{
    GATEWAY_LABEL, KIND_LABEL, SERVED_BY_GATEWAYS, SERVICE_PORT, SERVICE_PORT_NAME, SERVING_LABEL,
    SPEC_HASH_ANNOTATION, WORKLOAD_LABEL, gateway_slice, gateway_slice_ipv6,
    replicas_service as replicas_service_name,
};
use bursar_api::spend::WorkloadKind;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Probe,
    Service, ServicePort, ServiceSpec, SleepAction, TCPSocketAction,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde::Serialize;

/// Rollouts and evictions, which Bursar does not time, wait this long before SIGTERM: the endpoints follow meanwhile.
const PRE_STOP_SECONDS: i64 = 5;

/// Labels of a workload's pods and objects.
pub(crate) fn labels(kind: WorkloadKind, name: &str) -> BTreeMap<String, String> {
    [(KIND_LABEL, kind.as_str()), (WORKLOAD_LABEL, name)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Metadata of an owned object, with a hash of what is asked for.
pub(crate) fn metadata<O>(
    owner: &O,
    name: String,
    kind: WorkloadKind,
    asked: &impl Serialize,
) -> ObjectMeta
where
    O: Resource<DynamicType = ()>,
{
    let mut labels = labels(kind, &owner.name_any());
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "bursar".to_owned(),
    );
    ObjectMeta {
        name: Some(name),
        namespace: owner.namespace(),
        labels: Some(labels),
        annotations: Some([(SPEC_HASH_ANNOTATION.to_owned(), hash(asked))].into()),
        owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// A hash of the object's JSON.
pub(crate) fn hash(asked: &impl Serialize) -> String {
    let text = serde_json::to_vec(asked).unwrap_or_default();
    format!("{:016x}", fnv(&text))
}

/// FNV-1a: small, stable over versions of Rust, and no secret.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The Deployment with this many replicas. Its selector lacks the serving label, so that a draining pod stays its own.
pub(crate) fn deployment(object: &InferenceDeployment, replicas: u32) -> Deployment {
    let name = object.name_any();
    let own = labels(WorkloadKind::InferenceDeployment, &name);
    let mut spec = DeploymentSpec {
        selector: LabelSelector {
            match_labels: Some(own.clone()),
            ..LabelSelector::default()
        },
        // no surge: a rollout must not need a GPU that nobody decided on
        strategy: Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(0)),
                max_unavailable: Some(IntOrString::Int(1)),
            }),
        }),
        template: template(object, own),
        ..DeploymentSpec::default()
    };
    let metadata = metadata(object, name, WorkloadKind::InferenceDeployment, &spec);
    spec.replicas = i32::try_from(replicas).ok();
    Deployment {
        metadata,
        spec,
        status: None,
    }
}

fn template(object: &InferenceDeployment, own: BTreeMap<String, String>) -> PodTemplateSpec {
    let mut template = object.spec.template.clone().unwrap_or_default();
    let labels = template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default();
    labels.extend(own);
    labels.insert(SERVING_LABEL.to_owned(), "true".to_owned());
    let grace = bursar_api::template::grace_seconds(&template);
    if let Some(spec) = &mut template.spec {
        disable_service_links(spec);
        if object.spec.priority_class_name.is_some() {
            spec.priority_class_name = object.spec.priority_class_name.clone();
        }
    }
    // an object whose options cannot be read gets no template
    if let Ok(Some(engine)) = object.spec.engine_settings()
        && let Some(container) = template
            .spec
            .as_mut()
            .and_then(|spec| serving(spec, engine.port))
    {
        // without one, a replica would be ready while it still loads its model
        container
            .readiness_probe
            .get_or_insert_with(|| readiness(&engine));
        if grace > PRE_STOP_SECONDS {
            let lifecycle = container.lifecycle.get_or_insert_with(Lifecycle::default);
            lifecycle.pre_stop.get_or_insert_with(|| LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: PRE_STOP_SECONDS,
                }),
                ..LifecycleHandler::default()
            });
        }
    }
    template
}

/// Keeps the names of Services out of the environment, unless the user says otherwise: that of one
/// named `vllm` would be `VLLM_PORT`, which the engine takes for its own setting.
pub(crate) fn disable_service_links(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(false);
}

/// The container that serves: the one that names the engine's port, else the first.
fn serving(spec: &mut PodSpec, port: u16) -> Option<&mut Container> {
    let names = |container: &Container| {
        let mut ports = container.ports.iter().flatten();
        ports.any(|each| each.container_port == i32::from(port))
    };
    let index = spec.containers.iter().position(names).unwrap_or(0);
    spec.containers.get_mut(index)
}

/// Ready within two seconds of the model's being loaded; a busy engine may miss two answers.
fn readiness(engine: &EngineSettings) -> Probe {
    let port = IntOrString::Int(i32::from(engine.port));
    let path = engine.health_path.as_ref();
    let http_get = path.map(|path| HTTPGetAction {
        path: Some(path.clone()),
        port: port.clone(),
        ..HTTPGetAction::default()
    });
    Probe {
        tcp_socket: http_get
            .is_none()
            .then_some(TCPSocketAction { host: None, port }),
        http_get,
        period_seconds: Some(2),
        timeout_seconds: Some(5),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// The Service; it selects one label more than the Deployment, or no pod at all where all requests go
/// through gateways.
pub(crate) fn service(object: &InferenceDeployment, through_gateways: bool) -> Service {
    let serving = match through_gateways {
        true => SERVED_BY_GATEWAYS,
        false => "true",
    };
    let spec = service_spec(object, serving);
    named_service(object, object.name_any(), spec)
}

/// The Service that has the replicas while gateways are the endpoints of the service's own. It is headless:
/// its name stands for the addresses of the replicas.
pub(crate) fn replicas_service(object: &InferenceDeployment) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        ..service_spec(object, "true")
    };
    named_service(object, replicas_service_name(&object.name_any()), spec)
}

fn service_spec(object: &InferenceDeployment, serving: &str) -> ServiceSpec {
    let mut selector = labels(WorkloadKind::InferenceDeployment, &object.name_any());
    selector.insert(SERVING_LABEL.to_owned(), serving.to_owned());
    ServiceSpec {
        selector: Some(selector),
        ports: Some(vec![ServicePort {
            name: Some(SERVICE_PORT_NAME.to_owned()),
            port: i32::from(SERVICE_PORT),
            target_port: object
                .spec
                .engine_port()
                .map(|port| IntOrString::Int(i32::from(port))),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    }
}

fn named_service(object: &InferenceDeployment, name: String, spec: ServiceSpec) -> Service {
    Service {
        metadata: metadata(object, name, WorkloadKind::InferenceDeployment, &spec),
        spec: Some(spec),
        status: None,
    }
}

/// The Service of which gateways are endpoints, and the name of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Front<'a> {
    pub(crate) service: &'a str,
    pub(crate) port_name: Option<&'a str>,
}

impl<'a> Front<'a> {
    /// That of a service: the one that its serviceRef names, or its own, which is called `name` like it.
    pub(crate) fn of(object: &'a InferenceDeployment, name: &'a str) -> Self {
        let reference = object.spec.service_ref.as_ref();
        Self {
            service: reference.map_or(name, |reference| &reference.name),
            port_name: Some(SERVICE_PORT_NAME),
        }
    }
}

/// A family of addresses: those of a slice are all of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Those of a Service's addresses, as the cluster has given them to it.
    pub(crate) fn of(spec: &ServiceSpec) -> Vec<Self> {
        let Some(given) = &spec.ip_families else {
            return vec![Self::Ipv4];
        };
        let is_given = |family: &Self| given.iter().any(|each| each == family.as_str());
        Self::ALL.into_iter().filter(is_given).collect()
    }

    /// As Services and slices name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// Whether an address is one of it.
    pub(crate) fn contains(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::Ipv4)
    }

    /// The slice of gateways of a service.
    pub(crate) fn gateway_slice(self, service: &str) -> String {
        match self {
            Self::Ipv4 => gateway_slice(service),
            Self::Ipv6 => gateway_slice_ipv6(service),
        }
    }
}

/// The EndpointSlice that puts the gateways into the path: always if they are `ready`, and otherwise exactly
/// while no replica is ready, since kube-proxy uses terminating endpoints that still serve when there is no
/// other.
pub(crate) fn gateway_endpoints(
    object: &InferenceDeployment,
    front: &Front<'_>,
    family: Family,
    port: u16,
    gateways: impl IntoIterator<Item = IpAddr>,
    ready: bool,
) -> EndpointSlice {
    let gateways = gateways.into_iter();
    let mut gateways: Vec<IpAddr> = gateways.filter(|each| family.contains(each)).collect();
    gateways.sort();
    let conditions = EndpointConditions {
        ready: Some(ready),
        serving: Some(true),
        terminating: Some(!ready),
    };
    let endpoints: Vec<Endpoint> = gateways
        .into_iter()
        .map(|address| Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(conditions.clone()),
            ..Endpoint::default()
        })
        .collect();
    let ports = vec![EndpointPort {
        name: front.port_name.map(str::to_owned),
        port: Some(i32::from(port)),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    }];
    let name = object.name_any();
    let slice = family.gateway_slice(&name);
    let kind = WorkloadKind::InferenceDeployment;
    let mut metadata = match front.service == name {
        true => metadata(object, slice, kind, &(&endpoints, &ports)),
        false => metadata(object, slice, kind, &(&endpoints, &ports, front.service)),
    };
    metadata.labels.get_or_insert_default().extend(
        [
            ("kubernetes.io/service-name", front.service),
            ("endpointslice.kubernetes.io/managed-by", "bursar"),
            (GATEWAY_LABEL, "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    EndpointSlice {
        address_type: family.as_str().to_owned(),
        endpoints: Some(endpoints),
        metadata,
        ports: Some(ports),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FRONT: Front<'static> = Front {
        service: "chat",
        port_name: Some("http"),
    };

    fn chat() -> InferenceDeployment {
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "chat", "namespace": "ns", "uid": "u"},
            "spec": {"engine": "vLLM", "maxReplicas": 1, "template": {"spec": {"containers": [{"name": "vllm"}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_without_the_serving_label_stays_its_deployments() {
        let (deployment, service) = (deployment(&chat(), 2), service(&chat(), false));
        let spec = deployment.spec;
        let pod = spec.template.metadata.unwrap().labels.unwrap();
        let selected = spec.selector.match_labels.unwrap();
        assert!(
            selected
                .iter()
                .all(|(key, value)| pod.get(key) == Some(value))
                && !selected.contains_key(SERVING_LABEL)
        );
        let served = service.spec.unwrap().selector.unwrap();
        assert_eq!(served.get(SERVING_LABEL), pod.get(SERVING_LABEL));
    }

    #[test]
    fn a_serving_container_without_a_readiness_probe_gets_the_engines() {
        let probes = |containers: serde_json::Value| -> Vec<Option<String>> {
            let mut object = chat();
            object.spec.template =
                serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
            let spec = deployment(&object, 1).spec.template.spec.unwrap();
            let path = |container: Container| container.readiness_probe?.http_get?.path;
            spec.containers.into_iter().map(path).collect()
        };
        let health = Some("/health".to_owned());
        assert_eq!(
            probes(json!([{"name": "a"}, {"name": "b"}])),
            [health.clone(), None]
        );
        let port = json!([{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8000}]}]);
        assert_eq!(probes(port), [None, health]);
        let own =
            json!([{"name": "a", "readinessProbe": {"httpGet": {"path": "/own", "port": 1}}}]);
        assert_eq!(probes(own), [Some("/own".to_owned())]);
    }

    #[test]
    fn services_are_no_variables_of_a_replica_unless_the_user_says_so() {
        let links = |spec: serde_json::Value| {
            let mut object = chat();
            object.spec.template = serde_json::from_value(json!({"spec": spec})).unwrap();
            let template = deployment(&object, 1).spec.template;
            template.spec.and_then(|spec| spec.enable_service_links)
        };
        assert_eq!(links(json!({"containers": []})), Some(false));
        let asked = json!({"containers": [], "enableServiceLinks": true});
        assert_eq!(links(asked), Some(true));
    }

    #[test]
    fn the_hash_follows_the_template_and_not_the_replicas() {
        let hash = |object: &InferenceDeployment, replicas| {
            deployment(object, replicas).annotations()[SPEC_HASH_ANNOTATION].clone()
        };
        let mut other = chat();
        other
            .spec
            .template
            .as_mut()
            .unwrap()
            .spec
            .as_mut()
            .unwrap()
            .containers[0]
            .image = Some("v2".into());
        assert_eq!(hash(&chat(), 0), hash(&chat(), 3));
        assert_ne!(hash(&chat(), 0), hash(&other, 0));
    }

    #[test]
    fn where_all_requests_go_through_gateways_no_pod_is_an_endpoint_of_the_service() {
        let pod = deployment(&chat(), 1).spec.template.metadata.unwrap();
        let pod = pod.labels.unwrap();
        let selects = |service: &Service| {
            let selector = service.spec.as_ref().unwrap().selector.as_ref().unwrap();
            selector
                .iter()
                .all(|(label, value)| pod.get(label) == Some(value))
        };
        let (front, replicas) = (service(&chat(), true), replicas_service(&chat()));
        assert!(!selects(&front) && selects(&replicas) && selects(&service(&chat(), false)));
        assert_eq!(replicas.name_any(), "chat-replicas");
        assert_eq!(front.labels(), replicas.labels());
        let (front, replicas) = (front.spec.unwrap(), replicas.spec.unwrap());
        assert_eq!(front.ports, replicas.ports);
        assert_eq!(replicas.cluster_ip.as_deref(), Some("None"));
        let gateways = ["10.0.0.1".parse().unwrap()];
        let slice = gateway_endpoints(&chat(), &FRONT, Family::Ipv4, 20_000, gateways, true);
        let conditions = slice.endpoints.unwrap()[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(true), Some(true), Some(false))
        );
    }

    #[test]
    fn each_family_of_addresses_has_a_slice_of_its_own() {
        let gateways: [IpAddr; 3] =
            ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|it| it.parse().unwrap());
        let slice = |family| {
            let slice = gateway_endpoints(&chat(), &FRONT, family, 20_000, gateways, false);
            let endpoints = slice.endpoints.clone().unwrap().into_iter();
            let addresses: Vec<String> = endpoints.flat_map(|each| each.addresses).collect();
            (slice.name_any(), slice.address_type, addresses.join(" "))
        };
        let text = |name: &str, family: &str, addresses: &str| {
            (name.to_owned(), family.to_owned(), addresses.to_owned())
        };
        let expected = text("chat-bursar-gateway", "IPv4", "10.0.0.1 10.0.0.2");
        assert_eq!(slice(Family::Ipv4), expected);
        let expected = text("chat-bursar-gateway-ipv6", "IPv6", "fd00::1");
        assert_eq!(slice(Family::Ipv6), expected);
    }

    #[test]
    fn gateways_are_endpoints_of_last_resort() {
        let slice = gateway_endpoints(
            &chat(),
            &FRONT,
            Family::Ipv4,
            20_000,
            ["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()],
            false,
        );
        let endpoints = slice.endpoints.unwrap();
        assert_eq!(
            endpoints
                .iter()
                .map(|endpoint| endpoint.addresses[0].as_str())
                .collect::<Vec<_>>(),
            ["10.0.0.1", "10.0.0.2"]
        );
        let conditions = endpoints[0].conditions.clone().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }
}
